"""Two comparisons over the same documents, or two parts of one: how their divergences differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cka_tools.comparison.record import JsonObject, columns, interval_entry, tidy
from cka_tools.comparison.results import Comparison
from cka_tools.comparison.summary import conditions
from cka_tools.errors import UserError
from cka_tools.formatting import TEST_LEVEL, counted, percent, percent_interval
from cka_tools.statistics.differences import Difference, paired_differences

Parts = Literal["layers", "early-late"]


@dataclass(frozen=True)
class DifferenceTable:
    """Differences of divergences, fractions.

    Attributes:
        rows: `row` (a layer, "mean" or "early", or "early − late"), `first`, `second`, `difference` with its
            paired interval, `together` with the interval for all layers at once, and `p` for all at once.
        over: what differs from what, in words. notes: where the runs differ in more than the models.
    """

    rows: list[JsonObject]
    over: str
    n_documents: int
    notes: list[str]

    def to_frame(self) -> Any:
        """One row a difference, with `_low` and `_high` of each interval."""
        return tidy(
            [
                {
                    **row,
                    **columns("difference", row["difference"], "difference"),
                    **columns("together", row["together"]),
                }
                for row in self.rows
            ]
        )

    def sentence(self) -> str:
        """The last row's difference, and in which layers it is clear of 0 for all of them together."""
        last = self.rows[-1]
        entry, over = last["difference"], counted(self.n_documents, "document")
        if entry["value"] is None:
            return f"No difference can be given: {entry['reason']}."
        interval = percent_interval(entry)
        stated = f"{percent(entry['value'])} points" + (f" (95 % interval {interval}, paired)" if interval else "")
        if len(self.rows) == 1:
            return f"{last['row']}: {stated}, over {over}."
        clear = [row["row"] for row in self.rows[:-2] if row["p"] is not None and row["p"] <= TEST_LEVEL]
        where = f"in layers {', '.join(clear)}" if clear else "in no layer"
        text = f"Mean divergence differs by {stated}, over {over}; {where} it is clear of 0 at 5 % for all layers"
        return f"{text} together."


def difference(run: Comparison, other: Comparison | None = None, parts: Parts = "layers") -> DifferenceTable:
    """Divergence of one comparison less that of another, or of early layers less that of the later ones.

    Args:
        run, other: comparisons over the same documents; without `other` early layers are held against late ones.
        parts: "layers" compares layer by layer, with both means; "early-late" the mean over early layers less
            that over all others.

    Raises:
        UserError: runs of other documents or layers, or nothing to compare with.
    """
    if other is None and parts == "layers":
        raise UserError("one run has no other to differ from: name two, or ask for --difference early-late")
    runs = [run] if other is None else [run, other]
    for one in runs[1:]:
        _check_same(run, one)
    values = [_rows(one, parts) for one in runs]
    names, first, without = values[0]
    second = np.zeros_like(first) if other is None else values[1][1]
    without = without - (0 if other is None else values[1][2])
    layers = [at for at, name in enumerate(names) if name not in ("mean", "early")]
    n = run.summary["n_documents"]
    found: dict[int, Difference] = dict(
        zip(layers, paired_differences((first - second)[layers], without[layers], n), strict=True)
    )
    for at in set(range(len(names))) - set(layers):  # the means are no layers: each is a claim of its own
        (found[at],) = paired_differences((first - second)[[at]], without[[at]], n)
    rows = [
        {
            "row": name,
            "first": None if np.isnan(first[at]) else float(first[at]),
            "second": None if other is None or np.isnan(second[at]) else float(second[at]),
            "difference": interval_entry(found[at].interval),
            "together": interval_entry(found[at].together),
            "p": found[at].p,
        }
        for at, name in enumerate(names)
    ]
    over = "early layers less later ones" if parts == "early-late" else "layer by layer"
    return DifferenceTable(rows, over, n, _notes(runs))


def _check_same(run: Comparison, other: Comparison) -> None:
    draws = [one.record["provenance"]["corpus"]["draws"][0] for one in (run, other)]
    same = all(draws[0].get(name) == draws[1].get(name) for name in ("fingerprint", "document_ids"))
    sizes = [one.arrays["leave_one_out"].shape[1] for one in (run, other)]
    if not same or sizes[0] != sizes[1]:
        raise UserError(
            "the two runs are not over the same documents: compare both with the same --corpus, --documents and --seed"
        )
    layers = [[entry["layer_a"] for entry in one.layers] for one in (run, other)]
    if layers[0] != layers[1]:
        raise UserError(
            f"the runs have {counted(len(layers[0]), 'layer pair')} and {counted(len(layers[1]), 'layer pair')} of "
            "other layers: compare both with the same --layers"
        )


def _rows(run: Comparison, parts: Parts) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, divergences (D,) and divergences without each document (D, m)."""
    own = np.array([e["divergence"]["value"] for e in run.layers], dtype=np.float64)
    without = 1 - run.arrays["leave_one_out"]
    counts = np.array(["place" not in e for e in run.layers]) & np.isfinite(own)
    early = counts & np.array([e["early"] for e in run.layers])

    def mean(chosen: np.ndarray) -> tuple[float, np.ndarray]:
        if not chosen.any():
            return np.nan, np.full(without.shape[1], np.nan)
        return float(own[chosen].mean()), without[chosen].mean(0)

    if parts == "early-late":
        (a, without_a), (b, without_b) = mean(early), mean(counts & ~early)
        if np.isnan(a) or np.isnan(b):
            raise UserError("there are no early or no later layers to compare: make the run with --early 0-3, say")
        return ["early − late"], np.array([a - b]), (without_a - without_b)[None]
    means = {"early": mean(early), "mean": mean(counts)}
    names = [entry.get("place") or str(entry["layer_a"]) for entry in run.layers] + list(means)
    values = np.concatenate([own, [value for value, _ in means.values()]])
    return names, values, np.concatenate([without, [each for _, each in means.values()]])


def _notes(runs: list[Comparison]) -> list[str]:
    found = [conditions(one) for one in runs]
    differ = [what for what in found[0] if len({str(one[what]) for one in found}) > 1]
    return [f"The runs differ in {', '.join(differ)}, so a difference may come from that."] if differ else []
