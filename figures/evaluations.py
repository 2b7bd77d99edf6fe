"""Fine-tuning: finished runs of `cka evaluate` → what is kept of them here, and a sentence for each.

    python figures/evaluations.py [RUN ...] [--results DIR]

Records the table of every run directory under `--results` (by default `results/evaluate`), by the directory's name;
what each seed predicted stays where it is. A directory whose first table is not there yet is passed over. With no
argument: the sentences of what is recorded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from shutil import copyfile

from figure_files import RESULTS, parser

from cka_tools.comparison.evaluation_table import headlines
from cka_tools.comparison.findings import Entry, stated
from cka_tools.comparison.readout_results import Evaluation
from cka_tools.comparison.run_directory import ARRAYS, RESULT
from cka_tools.errors import UserError
from cka_tools.formatting import counted, quoted

KEPT = (ARRAYS, Evaluation.table, RESULT)
DETOUR, BASELINE = "clm-detour", "mlm-baseline"


def sentences(run: Evaluation) -> list[str]:
    """For each task: every model's score with its interval over seeds, the floors, and detour less baseline."""
    names = [one["name"].removeprefix("demo:") for one in run.models]
    seeds = counted(len(run.summary["seeds"]), "seed")
    found = []
    for at, (head, task) in enumerate(zip(headlines(run.record), run.summary["tasks"], strict=False)):

        def told(entries: list[Entry], name_of: Callable[[Entry], str], at: int = at, score: str = head.name) -> str:
            of = [one for one in entries if one["task"] == at]
            return ", ".join(f"{name_of(one)} {stated(one['readouts'][score])}" for one in of)

        scores = told(run.record["scores"], lambda one: names[one["model"]])
        floors = told(run.record["floors"], lambda one: one["name"])
        line = f"{task['title']}, {head.quantity}, {task['test']:,} texts of test, {seeds}: {scores}; floors: {floors}."
        if {DETOUR, BASELINE} <= set(names):
            line += f" {_verdict(run, names, at, head.name)}"
        found.append(line)
    return found


def _verdict(run: Evaluation, names: list[str], task: int, score: str) -> str:
    pair = names.index(DETOUR), names.index(BASELINE)
    for one in run.record["differences"]:
        if one["task"] != task or {one["a"], one["b"]} != set(pair):
            continue
        entry = one["readouts"][score]["over_both"]
        if one["a"] != pair[0]:
            ends = {"value": "value", "ci_low": "ci_high", "ci_high": "ci_low"}
            flipped = {to: None if entry[of] is None else -entry[of] for to, of in ends.items()}
            entry = entry | flipped
        if entry["ci_low"] is None:
            verdict = f"no verdict ({entry['reason']})"
        else:
            clear = entry["ci_low"] > 0 or entry["ci_high"] < 0
            verdict = f"**{'shown' if clear else 'not shown'}** over seeds and documents"
        return f"Detour less baseline: {stated(entry).replace(' %', ' points', 1)}, {verdict}."
    raise UserError(f"the run has no difference of {DETOUR} and {BASELINE}")


def main() -> None:
    made = parser(__doc__, __file__)
    made.add_argument("runs", nargs="*", type=Path)
    made.add_argument("--results", type=Path, default=RESULTS / "evaluate")
    options = made.parse_args()
    for folder in options.runs:
        if not (folder / RESULT).is_file():
            print(f"{folder}: no table yet, passed over", file=sys.stderr)
            continue
        run = Evaluation.load(folder)
        if rooted := [task["spec"] for task in run.summary["tasks"] if "=/" in task["spec"] or task["spec"][0] == "/"]:
            raise UserError(f"task {quoted(rooted[0])} names a place of one machine: run it from beside its data")
        kept = options.results / folder.name
        kept.mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            copyfile(folder / name, kept / name)
    for folder in sorted(path.parent for path in options.results.glob(f"*/{RESULT}")):
        print(*sentences(Evaluation.load(folder)), sep="\n")


if __name__ == "__main__":
    main()
