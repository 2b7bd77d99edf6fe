"""What a comparison shows, in one plain sentence that follows from its record by fixed rules."""

from __future__ import annotations

from typing import Any

from cka_tools.formatting import counted, layer_list, percent, printable, times

ROUNDING = 1e-9
"""Divergences no larger than this are rounding."""

CAVEATS = {
    "few-documents": "too few documents were read for an interval",
    "few-documents-decide": "few documents decide it",
    "low-dimension": "few directions of variance decide it",
    "massive-feature": "single features decide it",
    "closer-elsewhere": "other layers match better than those paired",
    "estimators-disagree": "the biased numbers are not to be read",
    "no-variance": "some layers have no variance",
}
"""What warnings say against a verdict, by code."""


def verdict(record: dict[str, Any]) -> str:
    """Whether the two models differ, by more than chance and by more than another seed, and what speaks against it.

    "Clear" is that the whole 95 % interval lies on one side; of layers it is said for each by itself.

    Args:
        record: of a comparison.
    """
    summary = record["summary"]
    found, caveats = _finding(summary, record["layers"]), []
    for warning in summary["warnings"]:
        if (against := CAVEATS.get(warning["code"])) is not None:
            caveats.append(against)
    return f"{found}{', but ' + ' and '.join(dict.fromkeys(caveats)) if caveats else ''}."


def _finding(summary: dict[str, Any], layers: list[dict[str, Any]]) -> str:
    mean = summary["mean_divergence"]["debiased"]
    if mean["value"] is None:
        return f"Nothing can be said: {printable(mean.get('reason') or 'the mean divergence is undefined')}"
    if abs(mean["value"]) <= ROUNDING:
        return "A and B do the same in every layer, up to rounding"
    differ = f"A and B differ by {percent(mean['value'])} % on average"
    if mean["ci_low"] is None:
        return f"{differ}; how sure that is cannot be said"
    if mean["ci_low"] <= 0:
        return "No difference between A and B is shown: the interval of the mean divergence holds 0"
    clear = [e["layer_a"] for e in layers if (low := e["divergence"]["ci_low"]) is not None and low > 0]
    where = "in every layer" if len(clear) == len(layers) else f"in {len(clear)} of {counted(len(layers), 'layer')}"
    if 0 < len(clear) < len(layers):
        where += f" ({layer_list(clear)})"
    if "ratio" not in summary:
        return f"{differ}, clearly {where}; whether another seed would do the same, only a --control can say"
    ratio = summary["ratio"]["mean"]
    if ratio["value"] is None or ratio["ci_low"] is None:
        return f"{differ}, clearly {where}; how that compares with another seed is not known"
    if ratio["ci_low"] > 1:
        return f"{differ}, {times(ratio['value'])} times what another seed makes and clearly more than that"
    if ratio["ci_high"] < 1:
        return f"{differ}, clearly less than what another seed makes"
    return f"{differ}, which is not clearly more or less than what another seed makes"
