"""What a run says in plain sentences, which follow from its record by fixed rules: for reports and notebooks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cka_tools.comparison.evaluation_table import headlines
from cka_tools.comparison.readout_results import Evaluation, Health, Interpolation, Needle, Probe, Transplant
from cka_tools.comparison.results import Ablation, Comparison, Contrast, ModelMatrix, RunResult, Trajectory
from cka_tools.comparison.verdict import verdict
from cka_tools.formatting import (
    NEEDLE_PROBES,
    NOISE_IN_WORDS,
    contrast_sentence,
    counted,
    fine_tuning_in_words,
    in_unit,
    interval_in_unit,
    layers_in_words,
    level_in_words,
    needle_in_words,
    noise_sentence,
    percent,
    percent_interval,
    printable,
    quantities,
    ratio_refusals,
    ratio_sentence,
    recovery_refusals,
    settings_in_words,
    shorten,
    shown_names,
    times,
    times_interval,
    tokens_in_words,
)

NAME_LETTERS, TITLE_LETTERS = 60, 40

Entry = dict[str, Any]


@dataclass
class Findings:
    """Sentences on a run; names in them come from elsewhere and are not escaped.

    Attributes:
        title: what it is, in a few words.
        compared: what was done with what. found: what came out, the main thing first.
        warned: warnings of the run and what could not be given, each with its code.
        cautions: what must not be concluded from any run of its kind.
        notes: how the run was made, where that is not as usual.
    """

    title: str
    compared: list[str]
    found: list[str]
    warned: list[tuple[str, str]] = field(default_factory=list)
    cautions: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def findings(result: RunResult) -> Findings:
    """The sentences on a result of any kind; of one without rules of its own its settings and remarks."""
    said = RULES.get(result.kind, _any)(result)
    record, summary = result.record, result.summary
    if "settings" in record["provenance"]:
        in_words = SETTINGS_IN_WORDS.get(result.kind, settings_in_words)
        said.compared.append(_sentence(", ".join(in_words(record))))
        # Of a needle these would be of its examples in all splits.
        if result.kind != Needle.kind and (tokens := tokens_in_words(record)):
            said.compared.append(_sentence(tokens))
    warned = []
    for warning in summary["warnings"]:
        where = f"In {counted(len(warning['pairs']), 'comparison')}, such as " if "pairs" in warning else ""
        warned.append((printable(warning["code"]), f"{where}{printable(warning['text'])}"))
    said.warned = [*warned, *said.warned]
    if record["provenance"]["corpus"]["spec"] == "sample":
        said.cautions.append("The bundled corpus is synthetic: on natural text the numbers are others.")
    over = summary.get("interval", {}).get("over", "")
    if over and "seed" not in over:
        said.cautions.append(f"Intervals are over {over}: what another training seed would change is not in them.")
    said.notes += [printable(note) for note in summary["notes"]]
    return said


def _sentence(text: str) -> str:
    text = text.strip()
    return text if not text or text.endswith((".", "!", "?")) else f"{text[0].upper()}{text[1:]}."


def stated(entry: Entry, level: str = "") -> str:
    """A divergence with its interval: "3.9 % (3.5 to 4.3)", or why there is none."""
    if entry["value"] is None:
        return f"undefined ({printable(entry['reason'])})" if entry.get("reason") else "undefined"
    interval = percent_interval(entry)
    return f"{percent(entry['value'])} % ({f'{level}{interval}' if interval else 'no interval'})"


def told(entry: Entry, unit: str) -> str:
    """A number of a readout with its interval."""
    if entry["value"] is None:
        return f"undefined ({printable(entry['reason'])})" if entry.get("reason") else "undefined"
    if entry.get("ci_low") is None:
        return f"{_in_words(entry['value'], unit)} (no interval)"
    return f"{_in_words(entry['value'], unit)} ({interval_in_unit(entry, unit)})"


def _in_words(value: float, unit: str) -> str:
    return f"{in_unit(value, unit)} {'nats' if unit == 'nats' else '%'}"


def _documents(result: RunResult) -> str:
    return counted(result.summary["n_documents"], "document")


def _early(summary: Entry) -> str:
    early = summary.get("early_layers")
    return f"early {layers_in_words(early)}" if early else "early layers"


APART = "Divergence says how far apart representations are, not which model is better, nor what either can do."


def _comparison(result: Any) -> Findings:
    run: Comparison = result
    summary = run.summary
    a, b, *others = (_model(model) for model in run.record["provenance"]["models"])
    control = f", with {others[0]} as the control" if others else ""
    compared = f"{a} (A) was compared with {b} (B){control}, layer by layer over the same {_documents(run)}."
    level = f"{level_in_words(summary)} interval "
    means = f"The mean divergence (1 − CKA, debiased) is {stated(summary['mean_divergence']['debiased'], level)}"
    if summary["early_layers"]:
        means += f", in {_early(summary)} {stated(summary['early_divergence']['debiased'])}"
    found = [verdict(run.record), f"{means}."]
    if "ratio" in summary:
        found.append(ratio_sentence(summary))
    warned = [("no ratio", _sentence(line)) for line in ratio_refusals(run.layers)]
    warned += [("not given", _sentence(line)) for line in _missing(run.layers)]
    title = " against ".join(shown_names(run.record, TITLE_LETTERS)[:2])
    return Findings(title, [compared], found, warned, [APART])


def _model(model: Entry) -> str:
    """What a model is called and what it is."""
    label = f"{printable(str(model['label']))}: " if model.get("label") else ""
    return f"{label}{printable(model['name'])}"


def _missing(layers: Sequence[Entry]) -> list[str]:
    """Why layers have no value or interval, a line a reason."""
    by_reason: dict[str, list[int]] = {}
    for entry in layers:
        if entry["divergence"].get("reason"):
            by_reason.setdefault(printable(entry["divergence"]["reason"]), []).append(entry["layer_a"])
    return [f"{layers_in_words(at)}: {reason}" for reason, at in by_reason.items()]


def _unclear(pairs: Iterable[Entry]) -> list[tuple[str, str]]:
    """Why pairs have no value or interval, each reason once."""
    counts: dict[str, int] = {}
    for pair in pairs:
        parts = [layer["divergence"] for layer in pair["layers"]]
        parts += [pair[f"{name}_divergence"]["debiased"] for name in ("mean", "early")]
        for reason in dict.fromkeys(part["reason"] for part in parts if part.get("reason")):
            counts[printable(reason)] = counts.get(printable(reason), 0) + 1
    return [("not given", f"In {counted(count, 'comparison')}: {reason}.") for reason, count in counts.items()]


def place_in_words(x: float, kind: str) -> str:
    """Where a checkpoint stands on the axis of a trajectory."""
    return f"{x:,.10g} tokens" if kind == "tokens" else f"{x:,.10g}"


def _trajectory(result: Any) -> Findings:
    run: Trajectory = result
    summary, points = run.summary, run.checkpoints
    reference = shown_names(run.record, TITLE_LETTERS)[0]
    compared = f"{counted(len(points), 'checkpoint')} of training were compared with {printable(run.reference)}, "
    compared += f"over the same {_documents(run)}."
    kind = summary["x"]["kind"]
    means = [one["mean_divergence"]["debiased"] for one in points]
    found = []
    ends = [f"({place_in_words(points[at]['x'], kind)})" for at in (0, -1)]
    if len(points) > 1:
        words = f"From the first checkpoint {ends[0]} to the last one {ends[1]} the mean divergence goes from "
        found.append(f"{words}{stated(means[0])} to {stated(means[-1])}.")
    else:
        found.append(f"At the only checkpoint {ends[0]} the mean divergence is {stated(means[0])}.")
    known = [at for at, one in enumerate(means) if one["value"] is not None]
    if len(known) > 2 and (top := max(known, key=lambda at: means[at]["value"])) not in (0, len(points) - 1):
        found.append(f"It is largest at {place_in_words(points[top]['x'], kind)}: {stated(means[top])}.")
    if run.control is not None:
        noise = run.control["mean_divergence"]["debiased"]
        ratio = points[-1].get("ratio", {}).get("mean", {"value": None})
        words = f"The control's is {stated(noise)}"
        if ratio["value"] is not None:
            words += f", and the last checkpoint's is {times(ratio['value'])} times that"
            words += f" ({times_interval(ratio)})" if times_interval(ratio) else " (no interval)"
        found.append(f"{words}.")
        if "noise" in summary:
            found.append(noise_sentence("the reference", [summary["noise"]]))
    cautions = [APART]
    if len(known) > 2:
        cautions.append("Between checkpoints nothing was measured: lines there only join the points.")
    title = f"Divergence from {reference} along training"
    return Findings(title, [compared], found, _unclear(points), cautions)


def _matrix(result: Any) -> Findings:
    run: ModelMatrix = result
    names, pairs = shown_names(run.record, NAME_LETTERS), run.pairs
    compared = f"{counted(len(names), 'model')} were compared, all {counted(len(pairs), 'pair')} of them, over the "
    compared += f"same {_documents(run)}."
    known = [pair for pair in pairs if pair["mean_divergence"]["debiased"]["value"] is not None]
    known.sort(key=lambda pair: pair["mean_divergence"]["debiased"]["value"])
    found = []
    warned, cautions = _unclear(pairs), [APART]
    if known:
        for which, pair in (("Closest", known[0]), ("Furthest apart", known[-1]))[: len(known)]:
            both = " and ".join(names[pair[side]] for side in "ab")
            found.append(f"{which} are {both}: mean divergence {stated(pair['mean_divergence']['debiased'])}.")
    if len(known) > 2:
        cautions.append("The closest and the furthest were picked among all pairs: their intervals ignore that.")
    if "reason" in run.record["linkage"]:
        warned.append(("no tree", _sentence(printable(run.record["linkage"]["reason"]))))
    return Findings(f"{counted(len(names), 'model')}, all pairs", [compared], found, warned, cautions)


def _contrast(result: Any) -> Findings:
    run: Contrast = result
    summary = run.summary
    groups = summary["groups"]
    both = " and ".join(f"{printable(one['name'])} ({counted(one['members'], 'checkpoint')})" for one in groups)
    compared = f"Two groups were compared, {both}: pairs between them with pairs within one, over the same "
    test, mean = summary["test"], summary["mean"]
    way = "all" if test["exact"] else "a sample of the"
    tested = f"p is of a permutation test over {way} {test['relabelings']:,} ways to label the checkpoints."
    found = []
    if mean["between"]["value"] is not None and mean["within"]["value"] is not None:
        words = f"Between the groups the mean divergence is {stated(mean['between'])}, within them "
        words += stated(mean["within"])
        if mean["ratio"]["value"] is not None:
            words += f": {times(mean['ratio']['value'])} times ({times_interval(mean['ratio']) or 'no interval'})"
        found.append(f"{words}; p = {mean['p']:.2g}." if mean["p"] is not None else f"{words}.")
    found.append(contrast_sentence(run.record))
    refused = ratio_refusals([one | {"layer_a": one["layer"]} for one in run.layers])
    warned = [("no ratio", _sentence(line)) for line in refused]
    if "reason" in summary["interval"]:
        words = f"Intervals are over {summary['interval']['over']} alone: {printable(summary['interval']['reason'])}"
        warned.append(("intervals", _sentence(words)))
    title = " and ".join(shorten(one["name"], TITLE_LETTERS) for one in groups)
    return Findings(title, [f"{compared}{_documents(run)}.", tested], found, warned, [APART])


def _ablation(result: Any) -> Findings:
    run: Ablation = result
    cells = run.cells
    axes = list(dict.fromkeys(cell["axis"] for cell in cells))
    named = ", ".join(printable(axis) for axis in axes)
    compared = f"{counted(len(cells), 'detour')} were each compared with the baseline of its own cell ({named}), over "
    compared += f"{_documents(run)}."
    found = []
    for axis in axes:
        own = [c for c in cells if c["axis"] == axis and c["mean_divergence"]["debiased"]["value"] is not None]
        own.sort(key=lambda cell: cell["mean_divergence"]["debiased"]["value"])
        if own:
            ends = [f"{stated(c['mean_divergence']['debiased'])} at {_cell(c)}" for c in (own[0], own[-1])]
            ends = ends[:1] if len(own) == 1 else ends
            words = "is" if len(own) == 1 else "runs from"
            found.append(f"{_sentence(printable(axis))[:-1]}: the mean divergence {words} {' to '.join(ends)}.")
    ratios = [cell["ratio"]["mean"] for cell in cells if cell["ratio"]["mean"]["value"] is not None]
    above = sum(ratio["ci_low"] is not None and ratio["ci_low"] > 1 for ratio in ratios)
    if ratios:
        words = f"In {above} of {counted(len(ratios), 'comparison')} the mean divergence"
        found.insert(0, f"{words} is clearly above the seed noise.")
    if kinds := [cell["noise"] for cell in cells if cell["noise"]]:
        found.append(noise_sentence("the baseline", kinds))
    reasons = [c["ratio"]["mean"]["reason"] for c in cells if c["ratio"]["mean"].get("reason")]
    warned = [
        ("no ratio", f"In {counted(reasons.count(reason), 'comparison')}: {printable(reason)}.")
        for reason in dict.fromkeys(reasons)
    ]
    return Findings(f"Ablation: {printable(run.record['axis'])}", [compared], found, warned, [APART])


def _cell(cell: Entry) -> str:
    return f"{printable(cell['cell'])} ({printable(cell['size'])}, seed {cell['seed']})"


def _transplant(result: Any) -> Findings:
    run: Transplant = result
    record, names = run.record, {end["role"]: printable(end["name"]) for end in run.record["ends"]}
    compared = f"Parts of {names['donor']} were put into {names['base']}: {counted(len(run.hybrids), 'hybrid')}, read "
    compared += f"over the same {_documents(run)}."
    if "control" in names:
        noise = record["summary"].get("noise")
        compared += f" As a control the same parts of {names['control']} were put in"
        compared += f" ({NOISE_IN_WORDS[noise]})." if noise else "."
    found = []
    for key, title, unit in quantities(record):
        gap = told(record["gap"][key], unit)
        sentence = f"{_sentence(title)[:-1]}: donor less base is {gap.replace(' %', ' points', 1)}"
        own = [one for one in run.hybrids if one["direction"] == "transplant"]
        known = [one for one in own if one["readouts"][key]["recovery"]["value"] is not None]
        whole = max((len(one["layers"]) for one in own if one["layers"]), default=0)
        known = [one for one in known if one["layers"] and len(one["layers"]) < whole] or known
        if known:
            best = max(known, key=lambda one: one["readouts"][key]["recovery"]["value"])
            recovery = best["readouts"][key]["recovery"]
            sentence += (
                f"; of the grafts of some layers, that of {printable(best['label'])} moves most: "
                f"{stated(recovery)} of it"
            )
        found.append(f"{sentence}.")
    warned = [("no recovery", _sentence(line)) for line in recovery_refusals(record)]
    cautions = [
        "The graft that moves most was picked among several; its interval does not allow for that.",
        "What moves with a graft in these models need not be where training put it in others.",
    ]
    title = f"Parts of {shorten(names['donor'], TITLE_LETTERS)} in {shorten(names['base'], TITLE_LETTERS)}"
    return Findings(title, [compared], found, warned, cautions)


def _interpolation(result: Any) -> Findings:
    run: Interpolation = result
    a, b = (printable(name) for name in run.summary["names"])
    compared = f"{counted(len(run.points), 'point')} on the straight line from {a} to {b} were read over the same "
    compared += f"{_documents(run)}."
    titles = {key: (title, unit) for key, title, unit in quantities(run.record)}
    found = []
    for key, one in run.record["barrier"].items():
        title, unit = titles[key]
        low, high = one["ci_low"], one["ci_high"]
        known = low is not None and high is not None
        verdict_ = "no interval can be given" if not known else "a barrier" if low > 0 else "no barrier is shown"
        where = f" at {one['alpha']:.3g}" if one["alpha"] is not None else ""
        excess = told(one, unit).replace(" %", " points", 1)
        found.append(
            f"{_sentence(title)[:-1]}: the largest excess over the line between the ends is {excess}{where}, "
            f"with an interval for all points at once: {verdict_}."
        )
    cautions = ["Between the points nothing was measured: a narrow barrier may be missed."]
    return Findings(f"From {shorten(a, TITLE_LETTERS)} to {shorten(b, TITLE_LETTERS)}", [compared], found, [], cautions)


def _health(result: Any) -> Findings:
    run: Health = result
    models = run.models
    compared = f"{counted(len(models), 'model')} were read over the same {_documents(run)}."
    found = []
    better = {f"{r['name']}.{q['name']}": q["better"] for r in run.summary["readouts"] for q in r["quantities"]}
    for key, title, unit in quantities(run.record):
        known = [one for one in models if one["readouts"][key]["value"] is not None]
        if known:
            choose = min if better[key] == "lower" else max
            best = choose(known, key=lambda one: one["readouts"][key]["value"])
            word = "lowest" if better[key] == "lower" else "highest"
            found.append(
                f"{_sentence(title)[:-1]} is {word} in {printable(best['name'])}: {told(best['readouts'][key], unit)}."
            )
    cautions = ["Differences between models are paired and surer than their intervals side by side."]
    return Findings("Health of checkpoints", [compared], found, [], cautions)


def _probe(result: Any) -> Findings:
    run: Probe = result
    task, models = run.summary["task"], run.models
    sizes = f"{task['train']:,} texts of train, {task['test']:,} of test, {len(task['classes'])} classes"
    named = printable(task.get("title", task["name"]))
    compared = f"{named} ({sizes}) was read by logistic regression from every layer of "
    compared += f"{' and '.join(printable(model['name']) for model in models)}."
    found = []
    for model in models:
        (best,) = [layer for layer in model["layers"] if layer["layer"] == model["chosen_layer"]]
        words = f"{printable(model['name'])}: macro F1 {stated(best['readouts']['macro_f1'])} at layer {best['layer']}"
        above = best["above_words"]["macro_f1"]
        found.append(f"{words}, which train chose; less a bag of words, {_points(above)}.")
    for one in run.record["differences"]:
        both = " less ".join(printable(models[one[side]]["name"]) for side in "ab")
        found.append(f"{both}, at their chosen layers: {_points(one['chosen']['readouts']['macro_f1'])}.")
    floors = ", ".join(f"{printable(f['name'])} {stated(f['readouts']['macro_f1'])}" for f in run.record["floors"])
    if floors:
        found.append(f"Floors: {floors}.")
    cautions = ["What a probe can read, the model need not use."]
    return Findings(f"Probe of {named}", [compared], found, [], cautions)


def _needle(result: Any) -> Findings:
    run: Needle = result
    summary, names = run.summary, [printable(model["name"]) for model in run.models]
    whole = next(at for at, one in enumerate(run.groups) if one["length"] is None and one["position"] is None)
    chance = summary["chance"]
    sizes = summary["examples"]
    compared = f"Probes of what leaves the frozen {' and '.join(names)}, fitted on {sizes['train']:,} examples, told "
    compared += f"whether a long document states a fact, in {sizes['test']:,} examples of test."
    found, reasons = [], []
    for probe, title in NEEDLE_PROBES.items():
        entries = [
            next(one for one in model["layers"] if one["output"])["probes"][probe]["accuracy"][whole]
            for model in run.models
        ]
        reasons += [one["reason"].replace("document", "example") for one in entries if one.get("reason")]
        above = [
            name
            for name, one in zip(names, entries, strict=True)
            if one.get("ci_low") is not None and one["ci_low"] > chance
        ]
        words = ", ".join(f"{name} {stated(one)}" for name, one in zip(names, entries, strict=True))
        words = f"{_sentence(title)[:-1]}, accuracy: {words}; clearly above chance ({percent(chance)} %): "
        found.append(f"{words}{' and '.join(above) or 'none'}.")
        for one in run.record["differences"]:
            both = " less ".join(names[one[side]] for side in "ab")
            apart = next(layer for layer in one["layers"] if layer["output"])["probes"][probe]["accuracy"][whole]
            found.append(f"{both}: {_points(apart)}.")
    warned = [("not given", _sentence(printable(reason))) for reason in dict.fromkeys(reasons)]
    power = summary["power"]
    cautions = ["What a probe can read, the model need not use."]
    cautions.append(
        f"With {sizes['test']:,} examples of test a difference of {100 * power['difference']:g} points would be clear "
        f"of 0 in {percent(power['independent'])} % of such runs, if the models' errors were independent."
    )
    return Findings("Needle in a haystack", [compared], found, warned, cautions)


def _evaluation(result: Any) -> Findings:
    run: Evaluation = result
    record, names = run.record, [printable(model["name"]) for model in run.models]
    tasks, seeds = run.summary["tasks"], counted(len(run.summary["seeds"]), "seed")
    compared = f"{' and '.join(names)} {'was' if len(names) == 1 else 'were'} fine-tuned with {seeds} on "
    compared += (
        f"{' and '.join(printable(task.get('title', task['name'])) for task in tasks)}, and read on test with the "
    )
    compared += "epoch that is best on dev."
    found = []
    for at, head in enumerate(headlines(record)):
        t = at if at < len(tasks) else None
        of = [one for one in record["scores"] if one["task"] == t]
        scores = ", ".join(f"{names[one['model']]} {stated(one['readouts'][head.name])}" for one in of)
        found.append(f"{' '.join(f'{printable(head.task)} {head.quantity}'.split())}: {scores}.")
        floors = [one for one in record["floors"] if one["task"] == t]
        if floors:
            told_floors = ", ".join(f"{printable(f['name'])} {stated(f['readouts'][head.name])}" for f in floors)
            found.append(f"Floors: {told_floors}.")
        for one in record["differences"]:
            if one["task"] == t:
                both = " less ".join(names[one[side]] for side in "ab")
                found.append(f"{both}, over seeds and documents: {_points(one['readouts'][head.name]['over_both'])}.")
    cautions = [
        "Intervals of scores are over seeds: another test set is not in them, as it is in those of differences."
    ]
    return Findings(f"Fine-tuning on {' and '.join(printable(task['name']) for task in tasks)}", [compared], found, [],
                    cautions)  # fmt: skip


def _points(entry: Entry) -> str:
    return stated(entry).replace(" %", " points", 1)


def _any(result: RunResult) -> Findings:
    """A kind without rules of its own."""
    command = printable(str(result.record["provenance"].get("command", "")))
    compared = f"A run of the kind {printable(result.kind)} over {_documents(result)}"
    return Findings(printable(result.kind).capitalize(), [f"{compared}{f': {command}' if command else ''}."], [])


RULES: dict[str, Callable[[Any], Findings]] = {
    Comparison.kind: _comparison,
    Trajectory.kind: _trajectory,
    ModelMatrix.kind: _matrix,
    Contrast.kind: _contrast,
    Ablation.kind: _ablation,
    Transplant.kind: _transplant,
    Interpolation.kind: _interpolation,
    Health.kind: _health,
    Probe.kind: _probe,
    Needle.kind: _needle,
    Evaluation.kind: _evaluation,
}
"""What is said of each kind of run."""

SETTINGS_IN_WORDS: dict[str, Callable[[Entry], list[str]]] = {
    Needle.kind: needle_in_words,
    Evaluation.kind: lambda record: fine_tuning_in_words(record["provenance"]["settings"]),
}
"""Of kinds that do not read the documents of a corpus as they are."""
