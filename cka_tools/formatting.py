"""How names, numbers and sizes are written where a person reads them: tables, sentences, figures."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import PurePath
from typing import Any

from cka_tools.errors import UserError

_UNITS = {"": 1, "b": 1, "kib": 1024, "mib": 1024**2, "gib": 1024**3, "tib": 1024**4}


def parse_bytes(size: int | str, option: str) -> int:
    """Bytes of a size that ends in KiB, MiB, GiB or TiB; a bare number is bytes.

    Raises:
        UserError: not a size; `option` names where it was given.
    """
    match = re.fullmatch(r"\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([A-Za-z]*)\s*", str(size))
    if match is None or match[2].lower() not in _UNITS:
        raise UserError(f"{option} {quoted(size)} is not a valid size: write it like 8GiB, 512MiB or 0")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def quoted(given: object, letters: int = 60) -> str:
    """What was given, in quotes; of a longer one both ends."""
    text = str(given)
    return repr(text if len(text) <= letters else f"{text[: letters // 2]}{ELLIPSIS}{text[-(letters // 2) :]}")


def size_in_words(size: float) -> str:
    """Bytes in binary units: 1536 → "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


NOTHING = "–"
"""Stands for a value that cannot be given."""

ELLIPSIS = "…"


def visible(text: str, keep: str = "") -> str:
    """Text without control characters, which a terminal would obey, bar those to `keep`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else "\N{REPLACEMENT CHARACTER}" for c in text)


def printable(text: str) -> str:
    """Text on one line, white space run together, without control characters."""
    return visible(" ".join(text.split()))


def shorten(text: str, limit: int) -> str:
    """A name or path in at most `limit` characters: its last parts, or both ends of a longer one."""
    text = printable(text)
    if len(text) <= limit:
        return text
    parts = PurePath(text).parts
    for first in range(1, len(parts)):
        tail = f"{ELLIPSIS}/{'/'.join(parts[first:])}"
        if len(tail) <= limit:
            return tail
    keep = limit - 1
    return f"{text[: keep // 2]}{ELLIPSIS}{text[len(text) - (keep - keep // 2) :]}"


NAME_LETTERS = 60
"""Of a model, in a directory's name."""


def slug(spec: str) -> str:
    """A model spec as part of a directory's name."""
    last = spec.rstrip("/").split("/")[-1].removeprefix("demo:")
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-.")[:NAME_LETTERS] or "model"


def short_names(a: str, b: str, limit: int) -> tuple[str, str]:
    """Two names in at most `limit` characters each, still different where the names are."""
    short = shorten(a, limit), shorten(b, limit)
    if a == b or short[0] != short[1]:
        return short
    return _apart(printable(a), printable(b), limit)


def telling_parts(names: Sequence[str]) -> list[str]:
    """Of paths the parts in which they differ: runs/a/final and runs/b/final are "a" and "b"."""
    paths = {name: list(PurePath(printable(name)).parts) for name in names}
    for end in (-1, 0):
        while len(paths) > 1 and all(len(p) > 1 for p in paths.values()) and len({p[end] for p in paths.values()}) == 1:
            for parts in paths.values():
                del parts[end]
    return [str(PurePath(*paths[name])) if len(paths) > 1 else printable(name) for name in names]


def shown_names(record: dict[str, Any], limit: int) -> list[str]:
    """What a run's models are called where room is short: their labels, else the telling parts of their names.

    Args:
        limit: letters of each, at most.
    """
    models = record["provenance"]["models"]
    paths = [model["name"] for model in models if model.get("kind") == "local"]
    parts = dict(zip(paths, telling_parts(paths), strict=True))
    names = [str(model.get("label") or parts.get(model["name"], model["name"])) for model in models]
    short = [shorten(name, limit) for name in names]
    if len(names) > 1:
        short[:2] = short_names(names[0], names[1], limit)
    return short


def _apart(a: str, b: str, limit: int) -> tuple[str, str]:
    """Two paths by the first part in which they differ and the last; else by an excerpt."""
    parts = PurePath(a).parts, PurePath(b).parts
    first = next((i for i, (x, y) in enumerate(zip(*parts, strict=False)) if x != y), None)
    if first is not None and min(map(len, parts)) > first + 2:
        tails = tuple(f"{ELLIPSIS}/{p[first]}/{ELLIPSIS}/{p[-1]}" for p in parts)
        if max(map(len, tails)) <= limit:
            return tails[0], tails[1]
    differ = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    start = max(0, differ - limit // 3)
    return _excerpt(a, start, limit), _excerpt(b, start, limit)


def _excerpt(text: str, start: int, limit: int) -> str:
    head = ELLIPSIS if start else ""
    shown = text[start : start + limit - len(head)]
    if start + len(shown) < len(text):
        shown = shown[:-1] + ELLIPSIS
    return head + shown


SMALLEST = 0.05
"""A number nearer to 0 is written as that: neither its digits nor a "0.00" would say more."""


def three_digits(number: float | None) -> str:
    """A number with three significant digits: "1,234", "106", "12.4", "6.53", "0.523", "< 0.05"; "0" is exact."""
    if number is None:
        return NOTHING
    if abs(number) < SMALLEST:
        return f"< {SMALLEST:g}" if number > 0 else f"> -{SMALLEST:g}" if number < 0 else "0"
    return f"{number:,.0f}" if abs(number) >= 999.5 else f"{number:#.3g}".rstrip(".")


def percent(fraction: float | None) -> str:
    """A fraction as a percentage, without its sign: 0.1023 → "10.2"."""
    return NOTHING if fraction is None else three_digits(100 * fraction)


def percent_interval(entry: dict[str, Any]) -> str | None:
    """`ci_low` and `ci_high` of an entry of the record: "9.10 to 11.3", or None where there is none."""
    return _interval(entry, percent)


def _interval(entry: dict[str, Any], write: Callable[[float], str]) -> str | None:
    low, high = entry.get("ci_low"), entry.get("ci_high")
    return None if low is None or high is None else f"{write(low)} to {write(high)}"


def times(ratio: float | None) -> str:
    """A ratio: 1.253 → "1.25"."""
    return three_digits(ratio)


def times_interval(entry: dict[str, Any]) -> str | None:
    """`ci_low` and `ci_high` of a ratio: "2.11 to 2.56", or None where there is none."""
    return _interval(entry, times)


def is_text(text: str) -> bool:
    """Whether text can be written as UTF-8: it holds no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def counted(number: int, noun: str) -> str:
    """ "1 document", "2 documents"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Seconds as "2 h 05 min", "3 min 20 s" or "41 s"."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def model_names(record: dict[str, Any], role: str) -> list[str]:
    """The models that have a role in a run, as they were given."""
    return [model["name"] for model in record["provenance"]["models"] if model["role"] == role]


def pairs_of(record: dict[str, Any], role: str) -> list[dict[str, Any]]:
    """The entries of the pairs that have a role in a run."""
    return [pair for pair in record["pairs"] if pair["role"] == role]


def settings_in_words(record: dict[str, Any], corpus_letters: int | None = None) -> list[str]:
    """Corpus, documents, tokens, pooling, sites, dtype, protocol: a phrase each."""
    origin = record["provenance"]
    settings, corpus = origin["settings"], str(origin["corpus"]["spec"])
    words = [
        f"corpus {printable(corpus) if corpus_letters is None else shorten(corpus, corpus_letters)}",
        counted(record["summary"]["n_documents"], "document")
        + ("" if corpus_letters else units_in_words(origin["corpus"])),
        f"at most {settings['max_length']} tokens",
        *(f"{settings[name]} {name}" for name in ("pooling", "sites") if name in settings),
        str(settings["dtype"]),
    ]
    return words + ([f"protocol {settings['protocol']}"] if settings.get("protocol") else [])


def fine_tuning_in_words(settings: dict[str, Any]) -> list[str]:
    """How models were fine-tuned: a phrase each."""
    epochs = list(dict.fromkeys(settings["epochs"].values()))
    return [
        f"lr {settings['lr']:g}",
        f"weight decay {settings['weight_decay']:g}",
        f"batches of {settings['batch_size']}{' of like length' if settings.get('group_by_length') else ''}",
        f"{' or '.join(map(str, epochs))} epoch{'' if epochs == [1] else 's'}",
        f"at most {settings['max_length']} tokens",
        str(settings["dtype"]),
    ]


def three_decimals(value: float | None) -> str:
    """A measure's value, or a loss, as tables print it."""
    return NOTHING if value is None else f"{value:z.3f}"


def in_unit(value: float | None, unit: str) -> str:
    """A number of a readout: nats with three decimals, a share in percent."""
    return three_decimals(value) if unit == "nats" else percent(value)


def interval_in_unit(entry: dict[str, Any], unit: str) -> str:
    """Its interval, "–" where there is none."""
    if entry.get("ci_low") is None:
        return NOTHING
    return f"{in_unit(entry['ci_low'], unit)} to {in_unit(entry['ci_high'], unit)}"


NEEDLE_PROBES = {"mlp": "two-layer probe", "logistic": "logistic regression"}
"""Those of a needle run, by their names in the record."""


def needle_in_words(record: dict[str, Any], corpus_letters: int | None = None) -> list[str]:
    """The same of a needle run: its haystacks, their lengths and whose tokens these are, whose row is read."""
    origin, lengths = record["provenance"], record["summary"]["lengths"]
    settings, corpus = origin["settings"], str(origin["corpus"]["spec"])
    return [
        f"haystacks of {counted(record['summary']['haystack_documents'], 'document')} of "
        + (printable(corpus) if corpus_letters is None else shorten(corpus, corpus_letters)),
        f"{' and '.join(f'{length:,}' for length in lengths)} tokens by "
        + shorten(record["summary"]["measured_by"], corpus_letters or CORPUS_LETTERS),
        f"{settings['pooling']} of what leaves the encoder",
        str(settings["dtype"]),
    ]


CORPUS_LETTERS = 48
"""Of a corpus's name under a title."""


def units_in_words(corpus: dict[str, Any]) -> str:
    """What a document of the corpus is, where there was a choice: " (lines)", " (column 'text')"."""
    source = corpus["source"]
    if corpus["spec"] in ("sample", "pubmed"):
        return ""
    columns = [*source.get("columns", {}).values(), *([source["column"]] if "column" in source else [])]
    words = [f"column {printable(column)!r}" for column in columns] + [*source.get("units", {}).values()]
    return f" ({' or '.join(dict.fromkeys(words))})" if words else ""


def tokens_in_words(record: dict[str, Any]) -> str:
    """Tokens a document and the share of documents cut, for each model; "" for a run that does not tell."""
    origin = record["provenance"]
    draws = origin["corpus"].get("draws") or [{}]
    summary, said = record["summary"], {}
    # What was read is more than what a probe is scored on.
    ids = draws[0].get("document_ids")
    read = sum(summary["examples"].values()) if "examples" in summary else len(ids) if isinstance(ids, list) else 0
    documents = read or summary["n_documents"]
    for model, found in zip(origin["models"], draws[0].get("tokens") or (), strict=False):
        if not isinstance(found, dict) or not found.get("tokens"):
            return ""
        share = f"{percent(found['truncated'] / documents)} % of documents cut"
        said[str(model["role"]).upper() if model["role"] in ("a", "b") else printable(str(model["name"]))] = (
            f"{found['tokens'] / documents:,.0f} tokens a document, {share}"
        )
    if len(set(said.values())) == 1:
        return f"{next(iter(said.values()))} (every model)"
    return "; ".join(f"{name}: {text}" for name, text in said.items())


def layer_list(layers: Sequence[int]) -> str:
    """Layers as a reader writes them: "0–3, 5, 7–9"."""
    # Of neighbours the layer less its place is the same.
    runs = groupby(enumerate(sorted(layers)), key=lambda at: at[1] - at[0])
    ends = [(run[0][1], run[-1][1]) for run in (list(run) for _, run in runs)]
    return ", ".join(f"{a}" if a == b else f"{a}–{b}" for a, b in ends)


def layers_in_words(layers: Sequence[int]) -> str:
    """ "layer 5", "layers 0–3, 7"."""
    return f"layer{'' if len(layers) == 1 else 's'} {layer_list(layers)}"


def level_in_words(summary: dict[str, Any]) -> str:
    """The level of a run's intervals: "95 %"."""
    return f"{100 * summary['interval']['level']:g} %"


NOISE_IN_WORDS: dict[str, str] = {
    "masks": "the same data in the same order with other masks",
    "order": "the data in another order with other masks",
    "unknown": "a run whose manifest does not say in what it differs",
}
"""What a control is, beside the model that it is a control of."""


DIFFER_IN: dict[str, str] = {
    "masks": "masks",
    "order": "masks and the order of the data",
    "unknown": "what their manifests do not say",
}
"""In what runs of one group differ, by kind of noise: completes "checkpoints that differ in …"."""


def noise_sentence(of: str, kinds: Iterable[str]) -> str:
    """What the seed noise is: the divergence of model `of` from controls of these kinds (`noise_kind`)."""
    words = "; ".join(f"{kind}: {NOISE_IN_WORDS[kind]}" for kind in dict.fromkeys(kinds))
    return f"Seed noise is the divergence of {of} from its control ({words})."


def ratio_sentence(summary: dict[str, Any]) -> str:
    """How many times the seed noise a pair's divergence is, and what noise that is.

    Args:
        summary: of a comparison with a control. One of version 0.1 does not say which kind of noise it has.
    """
    ratio, mean = summary["ratio"], summary["ratio"]["mean"]
    noise = f" {noise_sentence('B', [summary['noise']])}" if "noise" in summary else ""
    if mean["value"] is None:
        return f"The pair's mean divergence has no ratio to the seed noise; {printable(mean['reason'])}.{noise}"
    level = f"{level_in_words(summary)} interval "
    text = f"The pair's mean divergence is {_ratio_in_words(mean, ' times the seed noise', level)}"
    if summary["early_layers"]:
        early = _ratio_in_words(ratio["early"])
        text += f", in early {layers_in_words(summary['early_layers'])} {early}"
    if ratio["smallest"] != ratio["largest"]:
        text += f"; by layer {times(ratio['smallest'])} to {times(ratio['largest'])}"
    return f"{text}.{noise}"


def _ratio_in_words(entry: dict[str, Any], unit: str = "", level: str = "") -> str:
    if entry["value"] is None:
        return f"not given ({printable(entry['reason'])})"
    interval = times_interval(entry)
    return f"{times(entry['value'])}{unit} ({f'{level}{interval}' if interval else 'no interval'})"


def contrast_sentence(record: dict[str, Any]) -> str:
    """What a contrast of two groups found, and what must not be concluded from it."""
    summary = record["summary"]
    one, other = (printable(group["name"]) for group in summary["groups"])
    sizes = " and ".join(str(group["members"]) for group in summary["groups"])
    found, smallest = summary["mean"], summary["test"]["smallest_p"]
    c, p = found["difference"], found["p"]
    if c["value"] is None:
        return f"Nothing can be said of {one} and {other}: {printable(c['reason'])}."
    interval = percent_interval(c)
    level = f"{level_in_words(summary)} interval over {summary['interval']['over']}"
    text = f"Mean divergence between {one} and {other} is {percent(c['value'])} points above that within them"
    text += f" ({f'{level}: {interval}; ' if interval else ''}p = {p:.2g}"
    if smallest > TEST_LEVEL:
        more = f"; {sizes} checkpoints cannot give less than {smallest:.2g}): no test at 5 % is possible"
        return f"{text}{more}, so nothing is shown either way; add checkpoints."
    if p > TEST_LEVEL:
        return f"{text}): no difference is shown, which does not show that the groups are alike."
    layers = significant_layers(record)
    if p <= smallest * (1 + 1e-9):
        text += f", the least that {sizes} checkpoints can give"
    where = f"in {layers_in_words(layers)} at 5 % for all layers together" if layers else "in no layer by itself"
    text += (
        f"), {where}: the groups differ by more than their runs do, which does not say that what they "
        "are named after is the cause, should they differ in anything else."
    )
    early = early_to_rest_sentence(summary)
    return f"{text} {early}" if early else text


def early_to_rest_sentence(summary: dict[str, Any]) -> str:
    """Whether the early layers of a contrast stand out, as multiples of what runs differ by anyway."""
    found = summary.get("early_to_rest", {})
    if found.get("value") is None:
        return ""
    text = f"B / W of early {layers_in_words(summary['early_layers'])} is {times(found['value'])}"
    interval = times_interval(found)
    if interval is None:
        return f"{text} times that of the other layers."
    said = "neither is shown to stand out"
    if found["ci_low"] > 1 or found["ci_high"] < 1:
        said = "they stand out" if found["ci_low"] > 1 else "the others stand out"
    return f"{text} ({interval}) times that of the other layers: {said}."


MASSIVE_SHARE = 0.5
"""One feature with more than this share of a layer's variance decides its CKA, which is then said."""

TEST_LEVEL = 0.05
"""Error rate at which a contrast calls layers significant: that of one false layer among all."""


def significant_layers(record: dict[str, Any]) -> list[int]:
    """Layers of a contrast whose adjusted p is at most TEST_LEVEL."""
    return [one["layer"] for one in record["layers"] if one["p"] is not None and one["p"] <= TEST_LEVEL]


def p_value(p: float | None) -> str:
    """A p as tables print it: "0.0079", "0.24"."""
    return NOTHING if p is None else f"{p:.4f}" if p < 0.01 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def quantities(record: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Key, title and unit of every quantity of a run, in order."""
    return [
        (f"{readout['name']}.{one['name']}", f"{readout['title']} {one['title']}", one["unit"])
        if readout["name"] != "divergence"
        else (f"{readout['name']}.{one['name']}", one["title"], one["unit"])
        for readout in record["summary"]["readouts"]
        for one in readout["quantities"]
    ]


def recovery_refusals(record: dict[str, Any]) -> list[str]:
    """Why hybrids of a transplant have no recovery: for each kind of reason a line, with one's numbers.

    Args:
        record: of a transplant.
    """
    hybrids = record["hybrids"]
    titles = {key: title for key, title, _ in quantities(record)}
    by_kind: dict[str, list[str]] = {}
    for hybrid in hybrids:
        for quantity, found in hybrid["readouts"].items():
            if found["recovery"].get("reason"):
                kind = f"{quantity} {found['recovery']['reason'].split(':')[0]}"
                where = f"{titles.get(quantity, printable(quantity))} of {hybrid['label']} ({hybrid['direction']})"
                by_kind.setdefault(kind, []).append(f"{where}: {printable(found['recovery']['reason'])}")
    return [
        lines[0] + (f" (so in {len(lines)} of {counted(len(hybrids), 'hybrid')})" if len(lines) > 1 else "")
        for lines in by_kind.values()
    ]


def ratio_refusals(layers: Sequence[dict[str, Any]]) -> list[str]:
    """Why layers have no ratio: for each kind of reason "in layers 0–3: …", with one layer's numbers.

    Args:
        layers: `layers` of the record of a comparison with a control.
    """
    by_kind: dict[str, list[tuple[int, str]]] = {}
    for entry in layers:
        ratio = entry.get("ratio")
        if ratio is not None and ratio["value"] is None:
            kind = ratio["reason"].split(":")[0]
            by_kind.setdefault(kind, []).append((entry["layer_a"], ratio["reason"]))
    lines = []
    for found in by_kind.values():
        first, reason = found[0]
        example = f" (layer {first})" if len(found) > 1 and ":" in reason else ""
        lines.append(f"in {layers_in_words([layer for layer, _ in found])}: {printable(reason)}{example}")
    return lines
