"""What detours and baselines can be read for: probes by layer of two groups of training runs and their start.

    python figures/probes.py [--results DIR] [--out PATH]
    python figures/probes.py --work DIR --start MODEL --detours MODEL… --baselines MODEL… --tasks TASK…

With no argument: the recorded table. With models and tasks the probes are made, one model and task at a time; each is
kept in `--work`, from where a run that was stopped goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from figure_files import RESULTS, parser, write
from matplotlib.figure import Figure
from scipy.stats import t as student

from cka_tools.compute import open_run
from cka_tools.formatting import counted
from cka_tools.plotting.layer_curves import layer_axis
from cka_tools.plotting.style import DASHED, FAINT, HOLLOW, INK, LOOKS, PAGE_WIDTH, StyledFigure, figure_style
from cka_tools.probes.run_probe import floors_of, probe_texts, probe_words
from cka_tools.settings import Settings
from cka_tools.statistics.intervals import LEVEL
from cka_tools.statistics.paired import Reading
from cka_tools.tasks import Task, classifier, read_task, tagger

RECORDED = RESULTS / "probe"
TABLE, NOTES = "probes.csv", "notes.csv"
QUANTITIES = ("macro_f1", "micro_f1", "accuracy")
SHOWN = {"hoc": ("micro_f1", "HoC, micro F1"), "gad": ("macro_f1", "GAD, macro F1"),
         "ncbi_disease": ("micro_f1", "NCBI Disease, entity F1")}  # fmt: skip
FLOOR = "bag of words"
START, DETOUR, BASELINE, APART = "start", "detour", "baseline", "detour − baseline"


def probed(model: str, task: Task, kept: Path, floors: bool) -> None:
    """Probe one model on one task and keep the readings, (n + 1,) each, the value last.

    Args:
        floors: keep those of the task's floors as well.
    """
    settings = Settings()
    part = tagger.fitting_part(task, settings.seed) if task.kind == "tags" else task
    corpus = classifier.texts_of(part)
    run = open_run([model], corpus, replace(settings, documents=len(corpus)))
    if task.kind == "tags":
        (by_layer,), _ = probe_words(run, part, [None], False, None)
    else:
        (by_layer,) = probe_texts([run.features([None])[0][0]], part, settings.seed, False)
    each = {str(layer): scored for layer, (scored, _) in by_layer.items()}
    if floors:
        each |= floors_of(part, settings.seed, run.ids(0))
    arrays = {
        f"{name}/{quantity}": np.append(one.readings[quantity].without, one.readings[quantity].value)
        for name, one in each.items()
        for quantity in QUANTITIES
    }
    kept.parent.mkdir(parents=True, exist_ok=True)
    with (fresh := kept.with_suffix(".new")).open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    fresh.replace(kept)


def read_probes(file: Path) -> dict[tuple[str, str], Reading]:
    """By layer or floor, and quantity."""
    with np.load(file) as arrays:
        found = {tuple(name.split("/")): arrays[name] for name in arrays.files}
    return {(name, quantity): Reading(float(x[-1]), x[:-1], len(x) - 1) for (name, quantity), x in found.items()}


def table_of(work: Path, tasks: Sequence[str], groups: dict[str, list[str]]) -> pd.DataFrame:
    """Every probe, the floors, and by layer what the groups' means differ by, from the files of `work`."""
    rows: list[dict[str, Any]] = []
    for task in tasks:
        found = {name: read_probes(work / task / f"{name}.npz") for names in groups.values() for name in names}
        layers = sorted({int(layer) for layer, _ in next(iter(found.values())) if layer.lstrip("-").isdigit()})
        for quantity in QUANTITIES:
            common = {"task": task, "quantity": quantity}
            first = next(iter(found.values()))  # the start, with which the floors are kept
            for floor in ("majority", FLOOR):
                rows.append(common | {"model": floor, "group": "floor"} | _ends(first[floor, quantity]))
            for group, names in groups.items():
                for name in names:
                    rows += [
                        common | {"model": name, "group": group, "layer": at} | _ends(found[name][str(at), quantity])
                        for at in layers
                    ]
            sides = [[[found[name][str(at), quantity] for at in layers] for name in groups[side]]
                     for side in (DETOUR, BASELINE)]  # fmt: skip
            rows += [common | {"group": APART, "layer": at} | one
                     for at, one in zip(layers, apart(*sides), strict=True)]  # fmt: skip
    frame = pd.DataFrame(rows)
    return frame.astype({"layer": "Int64"})


def _ends(one: Reading) -> dict[str, Any]:
    interval = one.interval()
    return {"value": one.value, "ci_low": interval.ci_low, "ci_high": interval.ci_high, "n_documents": one.n}


def apart(a: Sequence[Sequence[Reading]], b: Sequence[Sequence[Reading]]) -> list[dict[str, Any]]:
    """By layer the mean of a less that of b: over documents, over training seeds, and by relabelling.

    Args:
        a, b: (runs, layers) readings over the same documents.

    Returns:
        `ci_low`, `ci_high`: over test documents, the runs as they are. `seeds_low`, `seeds_high`: over training
        seeds, the documents as they are (Welch's t). `p`: two-sided, exact over all relabellings of the runs;
        `p_any`: that of the largest |t| of any layer.
    """
    values = np.array([[one.value for one in run] for run in (*a, *b)])
    m = len(a)
    labels = list(combinations(range(len(values)), m))
    statistics = np.array([_welch(np.delete(values, list(one), 0), values[list(one)])[0] for one in labels])
    sizes = np.abs(statistics)
    own = sizes[labels.index(tuple(range(m)))]
    p = (sizes >= own - 1e-9).mean(0)
    p_any = (sizes.max(1)[:, None] >= own - 1e-9).mean(0)
    _, difference, half = _welch(values[m:], values[:m])
    rows = []
    for layer in range(values.shape[1]):
        total = sum_of([run[layer] for run in a], 1 / m) - sum_of([run[layer] for run in b], 1 / len(b))
        low, high = (float(difference[layer] + sign * half[layer]) for sign in (-1, 1))
        rows.append(
            _ends(total) | {"seeds_low": low, "seeds_high": high, "p": float(p[layer]), "p_any": float(p_any[layer])}
        )
    return rows


def sum_of(readings: Sequence[Reading], factor: float) -> Reading:
    """The readings' sum, times a factor."""
    total = readings[0]
    for one in readings[1:]:
        total = total + one
    return factor * total


def _welch(b: np.ndarray, a: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """t, mean of a less mean of b, and half the interval, by column."""
    parts = [one.var(0, ddof=1) / len(one) for one in (a, b)]
    error = np.sqrt(parts[0] + parts[1])
    freedom = (parts[0] + parts[1]) ** 2 / (parts[0] ** 2 / (len(a) - 1) + parts[1] ** 2 / (len(b) - 1))
    difference = a.mean(0) - b.mean(0)
    return difference / error, difference, student.ppf(0.5 + LEVEL / 2, freedom) * error


def probes_figure(table: pd.DataFrame, notes: Sequence[str]) -> Figure:
    """Draw each run's F1 by layer with the floor, and below it the difference of the groups.

    Args:
        table: as `table_of` makes it. notes: printed below.
    """
    tasks = [task for task in SHOWN if task in set(table["task"])]
    with figure_style():
        lines = [part for note in notes for part in wrapped(note)]
        figure = StyledFigure(figsize=(PAGE_WIDTH, 4.1 + 0.13 * len(lines)))
        axes = figure.subplots(2, len(tasks), squeeze=False, height_ratios=[3, 2])
        looks = {START: DASHED | {"color": INK}, DETOUR: LOOKS[1] | HOLLOW, BASELINE: LOOKS[0]}
        handles: dict[str, Any] = {}
        for column, task in enumerate(tasks):
            quantity, title = SHOWN[task]
            own = table[(table["task"] == task) & (table["quantity"] == quantity)]
            top, bottom = axes[:, column]
            for group, look in looks.items():
                runs = own[own["group"] == group]
                for number, (name, run) in enumerate(runs.groupby("model")):
                    thin = look | {"linewidth": 0.7, "markersize": 2.5}
                    (line,) = top.plot(run["layer"], 100 * run["value"], gid=f"{task} {name}", **thin)
                    if number == 0:
                        handles[f"{group} ({counted(runs['model'].nunique(), 'run')})"] = line
            level = 100 * own.loc[own["model"] == FLOOR, "value"].iloc[0]
            handles[FLOOR] = top.axhline(level, color=INK, linewidth=0.8, linestyle=(0, (1, 1.5)), gid=f"{task} floor")
            top.set_title(title)
            apart = own[own["group"] == APART].sort_values("layer")
            x, value = apart["layer"].to_numpy(float), 100 * apart["value"].to_numpy()
            bottom.axhline(0.0, color=FAINT, linewidth=0.8)
            for shift, (low, high), look, label in (
                (-0.12, ("ci_low", "ci_high"), LOOKS[0], "95 % over test documents"),
                (0.12, ("seeds_low", "seeds_high"), LOOKS[1] | HOLLOW, "95 % over training seeds"),
            ):
                reach = [value - 100 * apart[low].to_numpy(), 100 * apart[high].to_numpy() - value]
                bars = bottom.errorbar(x + shift, value, reach, gid=f"{task} {low}", **look | {"linestyle": "none"})
                handles[label] = bars
            for ax in (top, bottom):
                layer_axis(ax, sorted(set(apart["layer"])))
                ax.grid(axis="y")
            bottom.set_xlabel("layer")
        axes[0, 0].set_ylabel("F1 (%)")
        axes[1, 0].set_ylabel("detour − baseline\n(points)")
        figure.legend(list(handles.values()), list(handles), loc="upper left", ncols=3, bbox_to_anchor=(0.02, 0.995))
        height = figure.get_figheight()
        figure.subplots_adjust(
            left=0.095, right=0.99, top=1 - 0.72 / height, bottom=(0.45 + 0.13 * len(lines)) / height, wspace=0.2,
            hspace=0.28,
        )  # fmt: skip
        figure.text(0.02, 0.08 / height, "\n".join(lines), fontsize=6.5, va="bottom")
        return figure


def wrapped(text: str, letters: int = 150) -> list[str]:
    """Lines of a note."""
    import textwrap

    return textwrap.wrap(text, letters)


def main() -> None:
    made = parser(__doc__, __file__)
    made.add_argument("--results", type=Path, default=RECORDED, help="where the table is")
    made.add_argument("--work", type=Path, help="where probes that are made are kept")
    made.add_argument("--start", help="the model that both groups started from")
    made.add_argument("--detours", nargs="+", default=[])
    made.add_argument("--baselines", nargs="+", default=[])
    made.add_argument("--tasks", nargs="+", default=[], help="hoc=FILE, gad=FILE, ncbi_disease=FILE")
    options = made.parse_args()
    if options.work:
        groups = {START: [options.start], DETOUR: options.detours, BASELINE: options.baselines}
        read = [read_task(spec) for spec in options.tasks]
        for task in read:
            for name in [name for names in groups.values() for name in names]:
                kept = options.work / task.name / f"{Path(name).name}.npz"
                if not kept.is_file():
                    probed(name, task, kept, floors=name == options.start)
                    print(f"{task.name} {name}", flush=True)
        called = {group: [Path(name).name for name in names] for group, names in groups.items()}
        options.results.mkdir(parents=True, exist_ok=True)
        table_of(options.work, [task.name for task in read], called).to_csv(
            options.results / TABLE, index=False, float_format="%.6f"
        )
        noted = [(task.name, task.facts["note"]) for task in read if "note" in task.facts]
        pd.DataFrame(noted, columns=["task", "note"]).to_csv(options.results / NOTES, index=False)
    table = pd.read_csv(options.results / TABLE, dtype={"layer": "Int64"})
    write(probes_figure(table, list(pd.read_csv(options.results / NOTES)["note"])), options.out)


if __name__ == "__main__":
    main()
