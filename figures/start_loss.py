"""The loss of θ0 along its training: of each step, and held out, so that one sees whether it has flattened.

    python figures/start_loss.py [--start RUN --corpora FOLDER] [--out PATH]

With no argument: the recorded losses. With a run directory of `cka train pretraining` whose checkpoints were kept,
its held-out losses are measured again, on PubMed abstracts, which no model was trained on.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from figure_files import RESULTS, parser, write
from losses import HELD_OUT_TOKENS, texts
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cka_tools.manifest import read_manifest
from cka_tools.plotting.style import FAINT, HOLLOW, INK, LOOKS, StyledFigure, figure_style
from cka_tools.training.checkpoint import read_state
from cka_tools.training.loop import held_out_loss, pack_held_out
from cka_tools.training.recipe import DEMO
from cka_tools.training.recipe_file import parse_recipe
from cka_tools.training.run import phase_folders
from cka_tools.training.start_model import load_start

RECORDED = RESULTS / "start_loss.csv"
BIN = 60_000
"""Tokens whose training losses are drawn as their mean."""


def start_loss_figure(table: pd.DataFrame) -> Figure:
    """Draw the training loss as a line, the held-out loss as points, and where the annealing starts.

    Args:
        table: `kind` ("train" or "held-out"), `phase`, `tokens` (from random weights), `loss` in nats a masked token.
    """
    trained, held_out = (table[table["kind"] == kind].sort_values("tokens") for kind in ("train", "held-out"))
    with figure_style():
        figure = StyledFigure(figsize=(5.0, 2.6))
        ax = figure.subplots()
        trained = trained.groupby(["phase", trained["tokens"] // BIN], sort=False)[["tokens", "loss"]].mean()
        training = Line2D(trained["tokens"] / 1e6, trained["loss"], color=FAINT, linewidth=0.9)
        training.set(gid="train", label="training, 30 % masked")
        ax.add_line(training)
        ax.plot(
            held_out["tokens"] / 1e6,
            held_out["loss"],
            gid="held-out",
            label="held out, PubMed abstracts, 15 % masked",
            **(LOOKS[0] | HOLLOW | {"linestyle": "none"}),
        )
        annealed = held_out.loc[held_out["phase"] == held_out["phase"].iloc[0], "tokens"].max() / 1e6
        ax.axvline(annealed, color=INK, linewidth=0.7, linestyle=":", gid="annealing")
        ax.annotate(
            "annealed",
            (annealed, 0.97),
            xycoords=("data", "axes fraction"),
            xytext=(-3, 0),
            textcoords="offset points",
            ha="right",
            va="top",
        )
        ax.set_xlabel("tokens of general text (millions)")
        ax.set_ylabel("MLM loss (nats a masked token)")
        ax.grid(axis="y")
        ax.legend(loc="upper center")
        figure.subplots_adjust(left=0.1, right=0.98, bottom=0.17, top=0.97)
        return figure


def main() -> None:
    made = parser(__doc__, __file__)
    made.add_argument("--start", type=Path, help="a run directory of `cka train`: measure again")
    made.add_argument("--corpora", type=Path, help="folder of the held-out texts")
    options = made.parse_args()
    if options.start:
        measure(options.start, options.corpora).to_csv(RECORDED, index=False, float_format="%.4f")
    write(start_loss_figure(pd.read_csv(RECORDED)), options.out)


def measure(run: Path, corpora: Path) -> pd.DataFrame:
    """Training losses as they were kept, and the held-out loss of every checkpoint that was kept."""
    manifest = read_manifest(run / "final") or {}
    phases = phase_folders(parse_recipe(manifest["recipe"]), run)
    rows, held_out = [], None
    for phase in phases:
        losses = read_state(phase).losses
        rows += [("train", row.phase, row.tokens, row.loss) for row in losses]
        kept = sorted((phase.parent / f"{phase.name}-checkpoints").glob("tokens-*"))
        for place in [*kept, phase]:
            model, tokenizer = load_start(place)
            if held_out is None:
                abstracts = texts(corpora / "pubmed_heldout.jsonl.gz")
                held_out = pack_held_out(abstracts, tokenizer, DEMO.sequence_length, HELD_OUT_TOKENS)
            tokens = (read_manifest(place) or {})["run_tokens"]
            loss = held_out_loss(model, held_out, tokenizer, "mlm")
            rows.append(("held-out", losses[0].phase, tokens, loss))
            print(f"{tokens:>10,} tokens  {loss:.3f}", flush=True)
    return pd.DataFrame(rows, columns=["kind", "phase", "tokens", "loss"])


if __name__ == "__main__":
    main()
