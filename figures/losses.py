"""Training and held-out losses of the demo family, both objectives.

    python figures/losses.py [--ablation RUN --corpora FOLDER [--start THETA0]] [--out PATH]

With no argument: the recorded losses. With an ablation they are measured again, on documents that no model
was trained on: where a piece of Phase 1 or a decay ends, its held-out loss.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from figure_files import RESULTS, parser, write
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from cka_tools.errors import UserError
from cka_tools.manifest import read_manifest
from cka_tools.plotting.style import FAINT, HOLLOW, LOOKS, PAGE_WIDTH, Look, StyledFigure, figure_style, panel_letters
from cka_tools.training.checkpoint import read_state
from cka_tools.training.loop import held_out_loss, pack_held_out, unigram_loss
from cka_tools.training.packing import pack_texts
from cka_tools.training.recipe import DECAY_SHARE, DEMO, START_PHASES, ObjectiveName
from cka_tools.training.start_model import load_start

LOSSES = RESULTS / "losses.csv"
HELD_OUT_TOKENS = 50_000
MARGIN = 0.5
"""Nats below token frequency that count as having learnt."""
SIZE, SEED = "8x128", 1
RUNS: dict[str, ObjectiveName] = {"detour": "clm", "baseline": "mlm"}

POINTS: Look = HOLLOW | {"linestyle": "none"}
"""Held-out losses are few: a line through them would say how it went between."""

TITLES = {"clm": "next token (CLM)", "mlm": "masked token (MLM)"}


def training_losses_figure(table: pd.DataFrame, unigram: float, margin: float | None = None) -> Figure:
    """Draw training loss as lines and held-out loss as points, one panel an objective.

    Args:
        table: `run`, `kind` ("train" or "held-out"), `objective`, `tokens` (from the start of the run),
            `loss` in nats a target.
        unigram: nats a token of guessing by token frequency.
        margin: nats below it that count as having learnt; a line of its own.
    """
    looks = {run: LOOKS[at % len(LOOKS)] for at, run in enumerate(dict.fromkeys(table["run"]))}
    with figure_style():
        figure = StyledFigure(figsize=(PAGE_WIDTH, 2.6))
        panels = figure.subplots(1, 2, sharey=True)
        for ax, (objective, title) in zip(panels, TITLES.items(), strict=True):
            for run, look in looks.items():
                own = table[(table["run"] == run) & (table["objective"] == objective)].sort_values("tokens")
                trained, held_out = (own[own["kind"] == kind] for kind in ("train", "held-out"))
                ax.plot(
                    trained["tokens"] / 1e6,
                    trained["loss"],
                    color=look["color"],
                    linewidth=0.6,
                    alpha=0.6,
                    gid=f"{run} train",
                )
                ax.plot(held_out["tokens"] / 1e6, held_out["loss"], gid=f"{run} held-out", zorder=5, **(look | POINTS))
            ax.axhline(unigram, color=FAINT, linewidth=0.9, linestyle=(0, (6, 3)), gid="unigram")
            if margin is not None:
                ax.axhline(unigram - margin, color=FAINT, linewidth=0.7, linestyle=":", gid="margin")
            ax.set_title(f"{title}: loss (nats a target)")
            ax.set_xlabel("tokens after θ0 (millions)")
            ax.xaxis.set_major_locator(MaxNLocator(6))
            ax.grid(axis="y")
        figure.legend(handles=_keys(looks, unigram, margin), loc="upper left", ncols=6, bbox_to_anchor=(0.02, 0.99))
        panel_letters(list(panels), 8)
        figure.subplots_adjust(left=0.055, right=0.99, bottom=0.15, top=0.84, wspace=0.06)
        return figure


def _keys(looks: Mapping[str, Look], unigram: float, margin: float | None) -> list[Line2D]:
    keys = [Line2D([], [], label=f"{run}, held out", **(look | POINTS)) for run, look in looks.items()]
    keys.append(Line2D([], [], color=FAINT, linewidth=0.6, label="training"))
    keys.append(
        Line2D([], [], color=FAINT, linestyle=(0, (6, 3)), linewidth=0.9, label=f"token frequency, {unigram:.2f}")
    )
    if margin is not None:
        keys.append(Line2D([], [], color=FAINT, linestyle=":", linewidth=0.7, label=f"{margin:g} nats below"))
    return keys


def main() -> None:
    made = parser(__doc__, __file__)
    made.add_argument("--ablation", type=Path, help="a run directory of `cka ablate`: measure again")
    made.add_argument("--corpora", type=Path, help="folder of the training and held-out texts")
    made.add_argument("--start", type=Path, help="the ablation's start model, where it was not trained there")
    options = made.parse_args()
    if options.ablation:
        measure(options).to_csv(LOSSES, index=False, float_format="%.4f")
    table = pd.read_csv(LOSSES)
    known = table["kind"] == "token frequency"
    unigram = float(table.loc[known, "loss"].iloc[0])
    write(training_losses_figure(table[~known], unigram, MARGIN), options.out)


def measure(options: argparse.Namespace) -> pd.DataFrame:
    """Evaluate both runs of the first seed, and θ0."""
    manifests = {
        file.parent: read_manifest(file.parent) or {} for file in options.ablation.glob("segments/*/training.json")
    }
    rows = []
    for run, objective in RUNS.items():
        own = lineage(manifests, find_run(manifests, (objective, "mlm")))
        start = own.pop(0) if manifests[own[0]]["phase"]["name"] in START_PHASES else options.start
        if start is None:
            raise UserError("the start model was not trained in this ablation: name it with --start")
        _, tokenizer = load_start(start)
        held_out = pack_held_out(
            texts(options.corpora / "pubmed_heldout.jsonl.gz"), tokenizer, DEMO.sequence_length, HELD_OUT_TOKENS
        )
        for place in own:
            for row in read_state(place).losses:
                rows.append((run, "train", row.objective, row.tokens, row.loss))
        for place in (start, *own):
            model, _ = load_start(place)
            tokens = 0 if place == start else manifests[place]["run_tokens"]
            asked: tuple[ObjectiveName, ...] = ("mlm",) if objective == "mlm" else ("clm", "mlm")
            for each in asked:
                loss = held_out_loss(model, held_out, tokenizer, each)
                rows.append((run, "held-out", each, tokens, loss))
                print(f"{run}  {tokens:>9,} tokens  {each}  {loss:.3f}", flush=True)
    trained = texts(options.corpora / "biomed_train.jsonl.gz")
    packed = pack_texts(trained, tokenizer, length=DEMO.sequence_length, seed=SEED, tokens=DEMO.phase1_tokens)
    rows.append(("", "token frequency", "", 0, unigram_loss(packed, held_out)))
    return pd.DataFrame(rows, columns=["run", "kind", "objective", "tokens", "loss"])


Manifests = Mapping[Path, Mapping[str, Any]]


def find_run(manifests: Manifests, objectives: tuple[str, str]) -> Path:
    """Return the last checkpoint of the whole run of these objectives, no layer frozen.

    Raises:
        UserError: it is not there, or not finished.
    """
    for place, manifest in manifests.items():
        recipe = manifest["recipe"]
        step = recipe["sequence_length"] * recipe["sequences_per_step"]
        steps = round(DEMO.phase1_tokens / step)
        phases = [(round(one["tokens"] / step), one["objective"], bool(one.get("frozen"))) for one in recipe["phases"]]
        lengths = (steps, round(DECAY_SHARE * steps))
        config = json.loads((place / "config.json").read_text(encoding="utf-8"))
        if (
            manifest["key"]["phase_index"] == 1
            and manifest["phase"]["name"] not in START_PHASES
            and manifest["seed"] == manifest["data_seed"] == SEED
            and phases == [(n, name, False) for n, name in zip(lengths, objectives, strict=True)]
            and f"{config['num_hidden_layers']}x{config['hidden_size']}" == SIZE
        ):
            return place
    raise UserError(f"no finished {' → '.join(objectives)} run of {SIZE}, seed {SEED}: finish the ablation")


def lineage(manifests: Manifests, leaf: Path) -> list[Path]:
    """Return the checkpoints from the start model's, if it was trained there, to this one."""
    parent = manifests[leaf]["key"]["parent_weights_sha256"]
    before = [place for place, manifest in manifests.items() if manifest["weights_sha256"] == parent]
    if not before or manifests[leaf]["phase"]["name"] in START_PHASES:
        return [leaf]
    return [*lineage(manifests, before[0]), leaf]


def texts(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


if __name__ == "__main__":
    main()
