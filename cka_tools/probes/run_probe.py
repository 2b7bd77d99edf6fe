"""How well a task's labels can be read from every layer of checkpoints, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from cka_tools.comparison.layer_pairs import choose_layers
from cka_tools.comparison.pairs import DrawResult
from cka_tools.comparison.readout_results import Probe
from cka_tools.comparison.record import PACKAGES, PROBE, JsonObject, circumstances, interval_entry, number, provenance
from cka_tools.compute import FeatureRun, Features, Layers, Progress, Told, open_run
from cka_tools.errors import UserError
from cka_tools.extraction.activations import resolve_layers
from cka_tools.extraction.words import need_places, word_features, word_rows
from cka_tools.formatting import layer_list
from cka_tools.interventions.readout_runs import draw_of, readout_summary
from cka_tools.models import ModelGiven
from cka_tools.processes import from_first
from cka_tools.readouts.probe import QUANTITIES, TaskProbe, one_row_each
from cka_tools.settings import FINAL_NORM, Settings, takes_settings
from cka_tools.statistics.paired import Reading
from cka_tools.tasks import Task, classifier, tagger
from cka_tools.tasks.classifier import Scored
from cka_tools.tasks.scores import ACCURACY

Readings = Mapping[str, Reading]
ByLayer = dict[int, tuple[Scored, Scored | None]]
"""The probe of each layer, and the one of shuffled labels."""

WORDS = "bag of words"


@takes_settings("probe")
def probe(
    models: Sequence[ModelGiven],
    task: str,
    *,
    label_shuffle: bool = False,
    settings: Settings | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Probe:
    """Fit logistic regression on the frozen features of every layer of checkpoints, and read it on test.

    Costs one pass a model, none for pooled features that the activation store has; those of a task of tags, the
    states of each word's first piece, are made anew. The penalty is chosen within train;
    intervals are over test documents, by leaving each out, with the fitted probes as they are: differences
    between models, and from the floors, are paired.

    Args:
        task: as `tasks.read_task` takes it: "sections", "hoc=FILE", a file, a .toml that describes one.
        label_shuffle: also fit every probe on permuted labels of train: selectivity is what true labels add.
        settings, options, progress: as `compare` takes them; `seed` is also that of folds and shuffling.

    Raises:
        UserError: input that does not fit, in one line; scikit-learn is not installed.
    """
    if not models:
        raise UserError("no model is given: name one or more")
    chosen = Settings.of(options, settings)
    if chosen.documents is not None:
        raise UserError(f"documents {chosen.documents}: a probe reads all texts of its task: leave it out")
    readout = TaskProbe(task)
    one_row_each(chosen, readout.task)
    of_words = readout.task.kind == "tags"
    part = tagger.fitting_part(readout.task, chosen.seed) if of_words else readout.task
    corpus = classifier.texts_of(part)
    run = open_run(models, corpus, replace(chosen, documents=len(corpus)))
    pairs = [(b, a) for a, b in combinations(range(len(models)), 2)]
    matched = {(b, a): choose_layers(run.depths[b], run.depths[a], chosen.layers) for b, a in pairs}
    wanted = _wanted(run, matched)
    kept = run.settings.record("probe")
    if of_words:
        probes, missed = from_first(lambda: probe_words(run, part, wanted, label_shuffle, progress))
        draw = draw_of(run, [run.outlines[at].provenance for at in run.order])
        kept["pooling"] = "first-piece"
    else:
        each = run.features(wanted, progress)
        found = [each[at][0] for at in run.order]
        probes = from_first(lambda: probe_texts(found, part, chosen.seed, label_shuffle))
        missed = cut_texts(found)
        draw = DrawResult(
            run.draws[0], run.ids(0), [], [(one.extraction, 0) for one in found], [o.provenance for o in found]
        )
    floors = from_first(lambda: floors_of(part, chosen.seed, run.ids(0)))
    fitted, arrays = _record(run.names, probes, floors, matched)
    notes = [*part.notes, *missed, *fitted.pop("notes"), *draw.notes]
    summary = readout_summary(fitted.pop("n_documents"), [readout], notes)
    origin = provenance(run, [draw], ["model"] * len(models), kept)
    origin |= circumstances((*PACKAGES, "scikit-learn", *(["seqeval"] if of_words else [])))
    origin["corpus"]["spec"] = f"task {readout.task.name}"
    record: JsonObject = {
        "kind": PROBE,
        "summary": summary | {"task": readout.task.record(), "label_shuffle": label_shuffle},
        **fitted,
        "pairs": [],
        "provenance": origin,
    }
    for entry, model in zip(record["models"], origin["models"], strict=True):
        entry |= {"name": model["name"], "weights_sha256": model.get("weights_sha256")}
    return Probe(record, arrays)


def _wanted(run: FeatureRun, matched: Mapping[tuple[int, int], Sequence[tuple[int, int]]]) -> list[Layers]:
    """Layers of each distinct model: those asked for are of the shallower one, where there are several."""
    asked = run.settings.layers
    if asked is None or not matched:
        return [asked] * len(run.sources)
    found: list[set[int]] = [set() for _ in run.sources]
    for models, pairs in matched.items():
        for side, model in enumerate(models):
            found[run.order[model]] |= {pair[side] for pair in pairs}
    return [tuple(sorted(layers)) for layers in found]


def probe_texts(found: Sequence[Features], task: Task, seed: int, shuffle: bool) -> list[ByLayer]:
    """Probes of whole texts, on pooled features of each model."""
    of = classifier.labelled(task, found[0].ids)
    by_content: dict[int, ByLayer] = {}
    for one in found:
        if id(one) not in by_content:  # one model that is given twice is fitted once
            by_content[id(one)] = {
                layer: (
                    classifier.probe(values, of, seed),
                    classifier.probe(values, of, seed, shuffle=True) if shuffle else None,
                )
                for layer, values in one.layers.items()
            }
    return [by_content[id(one)] for one in found]


def cut_texts(found: Sequence[Features]) -> list[str]:
    """A sentence on each model whose texts were cut, which the bag of words reads whole."""
    said = []
    for one in found:
        tokens = one.extraction.tokens[0]
        if tokens["truncated"]:
            cut = f"{tokens['truncated']:,} of {len(one.extraction.kept):,} texts"
            said.append(f"{one.name}: {cut} were cut to {tokens['max_length']} tokens; the {WORDS} reads them whole.")
    return list(dict.fromkeys(said))


def probe_words(
    run: FeatureRun, task: Task, wanted: Sequence[Layers], shuffle: bool, progress: Progress | None
) -> tuple[list[ByLayer], list[str]]:
    """Probes of the words of sentences, of each model that was given, and notes.

    One pass of each distinct model, whose features are let go once they are probed.
    """
    for outline, layers in zip(run.outlines, wanted, strict=True):
        need_places(outline)
        resolve_layers(outline, layers)  # before weights are read
    prepared, documents, seed = run.prepared[0], run.draws[0].documents, run.settings.seed
    told = Told(progress, len(prepared.kept) * len(run.sources))
    by_model: list[ByLayer] = []
    notes = []
    for at, outline in enumerate(run.outlines):
        own = replace(prepared, tables=[prepared.tables[at]])
        first = run.copies.get(at)
        if first is not None and wanted[first] == wanted[at]:
            by_model.append(by_model[first])
        else:
            words = word_rows(outline, own, documents, tagger.words_of(task))
            notes += tagger.missed(words.cut, words.lost, task, prepared.max_length)
            features = word_features(run.load(at), own, documents, words, run.settings, wanted[at], told)
            places = [len(outline.blocks) if layer == FINAL_NORM else layer for layer in features.layers]
            by_model.append(
                {
                    layer: (
                        tagger.probe(values, words.rows, task, seed),
                        tagger.probe(values, words.rows, task, seed, shuffle=True) if shuffle else None,
                    )
                    for layer, values in zip(places, features.features, strict=True)
                }
            )
        told.next(len(prepared.kept), int(own.tables[0].lengths.sum()))
    return [by_model[at] for at in run.order], list(dict.fromkeys(notes))


def floors_of(task: Task, seed: int, ids: Sequence[str]) -> dict[str, Scored]:
    """What is right without a model: the most frequent class, or O, and a bag of words.

    Args:
        ids: of the documents that hold a token, as `classifier.labelled` takes them.
    """
    if task.kind == "tags":
        return {"majority": tagger.majority(task), WORDS: tagger.bag_of_words(task, seed)}
    of = classifier.labelled(task, ids)
    return {"majority": classifier.majority(of), WORDS: classifier.bag_of_words(of, seed)}


def _record(
    names: Sequence[str],
    probes: Sequence[ByLayer],
    floors: Mapping[str, Scored],
    matched: Mapping[tuple[int, int], Sequence[tuple[int, int]]],
) -> tuple[JsonObject, dict[str, np.ndarray]]:
    chosen = [max(own, key=lambda layer: own[layer][0].cv or 0.0) for own in probes]
    notes = []
    for name, own in zip(names, probes, strict=True):
        if stopped := [layer for layer, (scored, _) in own.items() if not scored.converged]:
            notes.append(f"{name}: in layers {layer_list(stopped)} the solver stopped before it converged.")
    models = [
        {"chosen_layer": best, "layers": [_layer(layer, *own[layer], floors) for layer in own]}
        for own, best in zip(probes, chosen, strict=True)
    ]
    differences = [
        {
            "a": b,
            "b": a,
            "layers": [
                {"layer_a": m, "layer_b": n, **_apart(probes[b][m][0].readings, probes[a][n][0].readings)}
                for m, n in matched[b, a]
            ],
            "chosen": {
                "layer_a": chosen[b],
                "layer_b": chosen[a],
                **_apart(probes[b][chosen[b]][0].readings, probes[a][chosen[a]][0].readings),
            },
        }
        for b, a in matched
    ]
    n_documents = len(floors[WORDS].right)
    hits = np.full((len(probes), max(map(len, probes)), n_documents), np.nan)
    for at, own in enumerate(probes):
        for row, (scored, _) in enumerate(own.values()):
            hits[at, row] = scored.right
    fitted: JsonObject = {
        "n_documents": n_documents,
        "notes": notes,
        "models": models,
        "floors": [
            {"name": name, "strength": one.strength, "readouts": _entries(one.readings)} for name, one in floors.items()
        ],
        "differences": differences,
    }
    return fitted, {ACCURACY: hits}


def _layer(layer: int, scored: Scored, shuffled: Scored | None, floors: Mapping[str, Scored]) -> JsonObject:
    entry: JsonObject = {
        "layer": layer,
        "strength": scored.strength,
        "cv_macro_f1": number(scored.cv),
        "readouts": _entries(scored.readings),
        "above_words": _apart(scored.readings, floors[WORDS].readings)["readouts"],
    }
    if shuffled is not None:
        entry["shuffled"] = _entries(shuffled.readings)
        entry["selectivity"] = _apart(scored.readings, shuffled.readings)["readouts"]
    return entry


def _entries(readings: Readings) -> JsonObject:
    return {one.name: interval_entry(readings[one.name].interval()) for one in QUANTITIES}


def _apart(a: Readings, b: Readings) -> JsonObject:
    """a − b."""
    return {"readouts": {one.name: interval_entry((a[one.name] - b[one.name]).interval()) for one in QUANTITIES}}
