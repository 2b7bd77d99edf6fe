"""Whether a frozen encoder tells that a long document holds a fact: the needle task of checkpoints, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any, Literal

import numpy as np

from cka_tools.comparison.pairs import DrawResult
from cka_tools.comparison.readout_results import Needle
from cka_tools.comparison.record import NEEDLE, PACKAGES, JsonObject, circumstances, interval_entry, provenance
from cka_tools.compute import CorpusGiven, Features, Layers, Progress, open_run
from cka_tools.documents import Document
from cka_tools.errors import UserError
from cka_tools.extraction.activations import resolve_layers
from cka_tools.extraction.extract import prepare
from cka_tools.formatting import NEEDLE_PROBES
from cka_tools.models import LoadedModel, ModelGiven
from cka_tools.processes import from_first
from cka_tools.settings import FINAL_NORM, Settings, takes_settings
from cka_tools.statistics.intervals import LEVEL
from cka_tools.statistics.paired import Reading
from cka_tools.tasks import classifier, mlp_probe
from cka_tools.tasks.needle import POSITIONS, SPLITS, Asked, Example, Haystacks, make_examples
from cka_tools.tasks.needle import templates as known_templates
from cka_tools.tasks.power import DIFFERENCE, power
from cka_tools.tasks.task import DEV, TEST, TRAIN, Task

LENGTHS = (512, 1024, 2048, 4096, 8192)
"""The paper's; by default those that every model takes."""

EXAMPLES, TRAINING = 2000, 1050
"""In test, and in train, which is the paper's number."""

DEV_SHARE = 225 / 1050
"""Of train, beside it, the paper's."""

LEAST_TEST, LEAST_TRAINING = 60, 40
"""With fewer there is nothing to fit or to score."""

MOST_EXAMPLES = 10**6
"""More would take days to write."""

Pooling = Literal["cls", "mean", "last"]
Group = tuple[int | None, str | None]
"""A length and a position; None is all."""


@takes_settings("needle")
def needle(
    models: Sequence[ModelGiven],
    corpus: CorpusGiven = "sample",
    *,
    lengths: Sequence[int] | None = None,
    positions: Sequence[str] = POSITIONS,
    templates: Sequence[str] | None = None,
    examples: int = EXAMPLES,
    training: int = TRAINING,
    pooling: Pooling = "cls",
    label_shuffle: bool = False,
    settings: Settings | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Needle:
    """Fit probes on frozen features of query and document, and read on test whether the document states the query.

    Every model reads the same examples, once: the query and the document as a pair of segments, in the
    tokenizer's own way. What leaves the model is read, and the layers that the settings name besides. Probes
    are the paper's (`tasks.mlp_probe`) and logistic regression with a penalty chosen within train; accuracy has
    intervals over examples of test, with the fitted probes as they are, and differences are paired.

    Args:
        corpus: what haystacks are made of, as `compare` takes it; `documents` of it.
        lengths: tokens of the whole pair under the first model's tokenizer; by default 512 to 8,192, as far as
            all models take them.
        positions: of start, middle, end. templates: kinds of fact (`tasks.needle.templates`), by default all.
        examples, training: in test and in train; rounded up until all lengths, positions and labels are equal.
        pooling: whose row is read: "cls" (the paper's), "mean", or "last", for decoders.
        label_shuffle: also fit every probe on permuted labels of train.
        settings, options, progress: as `compare` takes them; `seed` is also that of the examples and probes.

    Raises:
        UserError: input that does not fit, in one line; scikit-learn is not installed.
    """
    if not models:
        raise UserError("no model is given: name one or more")
    classifier.need_sklearn()
    chosen = Settings.of(options, settings)
    if chosen.max_length is not None:
        raise UserError(f"max-length {chosen.max_length}: the lengths of a needle are its own: give --lengths")
    for name, value, least in (("examples", examples, LEAST_TEST), ("training", training, LEAST_TRAINING)):
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST_EXAMPLES:
            raise UserError(f"{name} {value!r} does not fit: give a whole number of {least} to {MOST_EXAMPLES:,}")
    if pooling not in ("cls", "mean", "last"):
        raise UserError(f"pooling {pooling!r} is not one of cls, mean, last")
    sizes = {TRAIN: training, DEV: max(1, round(training * DEV_SHARE)), TEST: examples}
    asked = Asked(
        LENGTHS if lengths is None else _listed(lengths), _listed(positions),
        tuple(known_templates()) if templates is None else _listed(templates), sizes,
    )  # fmt: skip
    run = open_run(models, corpus, replace(chosen, pooling=pooling))
    given = [run.outlines[at] for at in run.order]
    asked = _fitting(asked, given, chosen=lengths is not None)
    for model in given:
        _check_reading(model, pooling)
        resolve_layers(model, chosen.layers)
    documents = run.draws[0].documents
    made = from_first(
        lambda: make_examples(Haystacks(documents, given[0].tokenizer, run.draws[0].corpus), asked, chosen.seed)
    )
    pairs = [Document(f"{one.split}:{at}", one.document, query=one.query) for at, one in enumerate(made)]
    prepared = prepare(run.outlines, pairs, replace(run.settings, max_length=max(asked.lengths)))
    for outline, table in zip(run.outlines, prepared.tables, strict=True):
        if table.truncated:
            raise UserError(
                f"model {outline.name!r}: its tokenizer makes more than {prepared.max_length} tokens of "
                f"{table.truncated:,} of {len(made):,} examples, whose lengths are those of {given[0].name!r}: run it "
                "alone, or name it first"
            )
    paired = replace(run, draws=[replace(run.draws[0], documents=pairs)], prepared=[prepared])
    wanted: Layers = (*(chosen.layers or ()), FINAL_NORM)
    each = paired.features([wanted] * len(run.sources), progress)
    found = [each[at][0] for at in run.order]
    fitted, arrays = from_first(lambda: _read(found, made, asked, chosen.seed, label_shuffle))
    extractions = [(one.extraction, 0) for one in found]
    draw = DrawResult(run.draws[0], run.ids(0), [], extractions, [one.provenance for one in found])
    notes = [*fitted.pop("notes"), *draw.notes]
    kept = run.settings.record("needle") | {"pooling": pooling, "sites": "residual"}
    origin = provenance(paired, [draw], ["model"] * len(found), kept)
    record: JsonObject = {
        "kind": NEEDLE,
        "summary": {
            "n_documents": asked.number(TEST),
            "interval": {"level": LEVEL, "over": "examples"},
            "haystack_documents": len(documents),
            "examples": {split: asked.number(split) for split in SPLITS},
            "lengths": list(asked.lengths),
            "positions": list(asked.positions),
            "templates": list(asked.templates),
            "measured_by": given[0].name,
            "label_shuffle": label_shuffle,
            "chance": 0.5,
            "power": {"difference": DIFFERENCE, "independent": power(asked.number(TEST))},
            "warnings": [],
            "notes": list(dict.fromkeys(notes)),
        },
        **fitted,
        "pairs": [],
        "provenance": origin | circumstances((*PACKAGES, "scikit-learn")),
    }
    for entry, model in zip(record["models"], origin["models"], strict=True):
        entry |= {"name": model["name"], "weights_sha256": model.get("weights_sha256")}
    return Needle(record, arrays)


def _listed(given: Any) -> tuple[Any, ...]:
    """A list as it is, anything else as a list of one."""
    return tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else (given,)


def _fitting(asked: Asked, models: Sequence[LoadedModel], *, chosen: bool) -> Asked:
    """The lengths that all models take.

    Raises:
        UserError: a model that does not take one that was chosen.
    """
    limits = {model.name: model.max_length for model in models if model.max_length is not None}
    if not limits:
        return asked
    name, limit = min(limits.items(), key=lambda one: one[1])
    if chosen and max(asked.lengths) > limit:
        raise UserError(
            f"length {max(asked.lengths)} is above what model {name!r} takes ({limit} tokens): ask for {limit} or less"
        )
    return replace(asked, lengths=tuple(length for length in asked.lengths if length <= limit) or (limit,))


def _check_reading(model: LoadedModel, pooling: Pooling) -> None:
    """Refuse a tokenizer without pairs, and a CLS row where there is no such token.

    Raises:
        UserError: either.
    """
    tokenizer = model.tokenizer
    single, pair = (list(tokenizer(*texts)["input_ids"]) for texts in (["a"], ["a", "a"]))
    plain = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    if tokenizer.num_special_tokens_to_add(pair=True) == 0 or pair == single + plain:
        raise UserError(
            f"model {model.name!r}: its tokenizer puts nothing between two segments: give a model whose tokenizer "
            "encodes pairs"
        )
    if pooling == "cls" and (tokenizer.cls_token_id is None or pair[0] != tokenizer.cls_token_id):
        raise UserError(
            f"model {model.name!r}: its tokenizer puts no CLS token first, and pooling 'cls' reads it: use --pooling "
            "mean, or last for a decoder"
        )


@dataclass(frozen=True)
class _Split:
    """Rows of features of a split's examples, and their labels."""

    rows: np.ndarray
    gold: np.ndarray


def _read(
    found: Sequence[Features], made: Sequence[Example], asked: Asked, seed: int, shuffle: bool
) -> tuple[JsonObject, dict[str, np.ndarray]]:
    place = {name: row for row, name in enumerate(found[0].ids)}
    splits = {}
    for split in SPLITS:
        numbers = [at for at, one in enumerate(made) if one.split == split]
        rows = np.array([place[f"{split}:{at}"] for at in numbers])
        splits[split] = _Split(rows, np.array([made[at].label for at in numbers]))
    tested = [one for one in made if one.split == TEST]
    groups = _groups(asked)
    members = [_members(tested, group) for group in groups]
    rng = np.random.default_rng(seed)
    orders = {False: np.arange(len(splits[TRAIN].rows)), True: rng.permutation(len(splits[TRAIN].rows))}
    notes: list[str] = []
    kinds = (False, True) if shuffle else (False,)
    by_content: dict[int, dict[tuple[int, str, bool], tuple[np.ndarray, JsonObject]]] = {}
    for one in found:
        if id(one.layers) in by_content:
            continue
        by_content[id(one.layers)] = own = {}
        for (layer, values), shuffled in product(one.layers.items(), kinds):
            for name, fit in (("mlp", _mlp), ("logistic", _logistic)):
                said, facts = fit(values, splits, orders[shuffled], seed)
                own[layer, name, shuffled] = (said == splits[TEST].gold).astype(np.float64), facts
                if not facts.pop("converged", True):
                    notes.append(f"{one.name}: at {_layer_name(layer, one)} the solver stopped before it converged.")
    each = [by_content[id(one.layers)] for one in found]

    def entries(correct: np.ndarray) -> list[JsonObject]:
        return [interval_entry(Reading.mean(correct[rows]).interval()) for rows in members]

    models = []
    for one, own in zip(found, each, strict=True):
        layers = []
        for layer in one.layers:
            probes = {name: own[layer, name, False][1] | {"accuracy": entries(own[layer, name, False][0])}
                      for name in NEEDLE_PROBES}  # fmt: skip
            for name in NEEDLE_PROBES if shuffle else ():
                probes[name]["shuffled"] = entries(own[layer, name, True][0])
            layers.append({"layer": layer, "output": layer == one.depth, "probes": probes})
        models.append({"depth": one.depth, "layers": layers})
    differences = [
        {"a": a, "b": b, "layers": _differences(found, each, (a, b), entries)}
        for b, a in combinations(range(len(found)), 2)
    ]
    told: JsonObject = {
        "models": models,
        "differences": differences,
        "groups": [
            {"length": length, "position": position, "examples": len(rows)}
            for (length, position), rows in zip(groups, members, strict=True)
        ],
        "notes": notes,
    }
    depth = max(len(one.layers) for one in found)
    arrays = {name: np.full((len(found), depth, len(tested)), np.nan) for name in NEEDLE_PROBES}
    for at, one in enumerate(found):
        for number, layer in enumerate(one.layers):
            for name in NEEDLE_PROBES:
                arrays[name][at, number] = each[at][layer, name, False][0]
    arrays["example.length"] = np.array([one.length for one in tested], dtype=np.float64)
    arrays["example.place"] = np.array([one.place for one in tested])
    arrays["example.label"] = np.array([one.label for one in tested], dtype=np.float64)
    for what, names in (("position", asked.positions), ("template", asked.templates)):
        arrays[f"example.{what}"] = np.array([names.index(getattr(one, what)) for one in tested], dtype=np.float64)
    return told, arrays


def _differences(
    found: Sequence[Features],
    each: Sequence[Mapping[tuple[int, str, bool], tuple[np.ndarray, JsonObject]]],
    models: tuple[int, int],
    entries: Callable[[np.ndarray], list[JsonObject]],
) -> list[JsonObject]:
    """a − b at layers of one index, and at what leaves both."""
    a, b = models
    shared = [(layer, layer) for layer in found[a].layers if layer < found[a].depth and layer in found[b].layers]
    shared = [both for both in shared if both[1] < found[b].depth] + [(found[a].depth, found[b].depth)]
    return [
        {
            "layer_a": m,
            "layer_b": n,
            "output": m == found[a].depth,
            "probes": {
                name: {"accuracy": entries(each[a][m, name, False][0] - each[b][n, name, False][0])}
                for name in NEEDLE_PROBES
            },
        }
        for m, n in shared
    ]


def _groups(asked: Asked) -> list[Group]:
    """All examples, those of each length, of each position, and of each of both."""
    found: list[Group] = [(None, None)]
    found += [(length, None) for length in asked.lengths]
    found += [(None, position) for position in asked.positions]
    return found + list(product(asked.lengths, asked.positions))


def _members(examples: Sequence[Example], group: Group) -> np.ndarray:
    length, position = group
    return np.flatnonzero([length in (None, one.length) and position in (None, one.position) for one in examples])


def _layer_name(layer: int, of: Features) -> str:
    return "its output" if layer == of.depth else f"layer {layer}"


def _mlp(
    values: np.ndarray, splits: Mapping[str, _Split], order: np.ndarray, seed: int
) -> tuple[np.ndarray, JsonObject]:
    train, dev, test = (splits[split] for split in SPLITS)
    fitted = mlp_probe.fit(values[train.rows], train.gold[order], values[dev.rows], dev.gold, seed)
    return fitted.predict(values[test.rows]), {"epoch": fitted.epoch, "dev_accuracy": fitted.dev}


def _logistic(
    values: np.ndarray, splits: Mapping[str, _Split], order: np.ndarray, seed: int
) -> tuple[np.ndarray, JsonObject]:
    train, test = splits[TRAIN], splits[TEST]
    both = [np.stack([~gold, gold], axis=1) for gold in (train.gold[order], test.gold)]
    task = Task("needle", "needle", "label", ("absent", "present"), (), (), ())
    of = classifier.Labelled(task, [], [], train.rows, test.rows, *both)
    scored = classifier.probe(values, of, seed)
    return scored.found[:, 1], {"strength": scored.strength, "converged": scored.converged}
