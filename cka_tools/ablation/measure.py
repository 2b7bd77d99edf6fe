"""Checkpoints → divergences, seed noise and their ratio, cell by cell, over the same documents."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cka_tools.ablation.fine_tuned import FineTuned
from cka_tools.ablation.plan import Plan
from cka_tools.ablation.readouts import read_cells, readouts_of
from cka_tools.ablation.starts import Start
from cka_tools.ablation.train import segment_folder, start_directory
from cka_tools.ablation.tree import Use
from cka_tools.comparison.pairs import DrawResult, Pair, check_pairs, compare_pairs
from cka_tools.comparison.record import (
    ABLATION,
    PACKAGES,
    circumstances,
    early_of,
    interval_entry,
    pair_entry,
    provenance,
)
from cka_tools.comparison.results import Ablation
from cka_tools.comparison.warnings import grouped_warnings
from cka_tools.compute import FeatureRun, Progress, open_run
from cka_tools.interventions.readout_runs import describe_readouts
from cka_tools.manifest import NoiseKind, read_manifest
from cka_tools.models import (
    CausalSource,
    LoadedModel,
    LoadOptions,
    ModelOutline,
    ModelSource,
    SpecSource,
    as_source,
    head_of,
)
from cka_tools.models.language import HeadKind
from cka_tools.settings import Settings
from cka_tools.statistics.intervals import LEVEL, Interval
from cka_tools.training.start_model import ENCODER, check_start

FINE_TUNED = "fine-tuned"
"""In an ablation's folder: what is finished of a readout that trains."""

NO_CONTROL = "no baseline of another seed"


@dataclass(frozen=True)
class Trained:
    """A run's last checkpoint.

    Attributes:
        seed, data_seed: of masks and dropout, and of the order of the documents.
        tokens: of the run, its start model's not counted.
        recipe_sha256: of its recipe, None where its manifest holds none.
        name: what it is called; its folder where that says what it is.
    """

    folder: Path
    seed: int
    data_seed: int
    tokens: int | None
    recipe_sha256: str | None
    name: str = ""


@dataclass(frozen=True)
class Trio:
    """One cell as seen with one seed: a detour, its baseline, and the baseline of another seed.

    Attributes:
        noise: in what the control differs from the baseline; None without a control.
    """

    axis: str
    cell: str
    position: float | None
    size: str
    seed: int
    causal: bool
    detour: Trained
    baseline: Trained
    control: Trained | None
    noise: NoiseKind | None

    def __str__(self) -> str:
        return f"{self.axis}:{self.cell}@{self.size} seed {self.seed}"


def compare_trios(
    axis: str,
    trios: Sequence[Trio],
    compare_on: Any,
    settings: Settings,
    *,
    readout: Sequence[str] = (),
    training: dict[str, Any] | None = None,
    notes: Sequence[str] = (),
    progress: Progress | None = None,
    saved: Ablation | None = None,
    parts: Path | None = None,
) -> Ablation:
    """Compare the checkpoints of all cells, each of which runs once, and once more for each readout.

    Args:
        compare_on: the corpus, as `compare` takes it.
        readout: names of readouts, such as "probe:sections", that are read of every checkpoint as well.
        training: where the checkpoints come from, for provenance; their folders where None.
        saved: an earlier result, which is given back where all that it was made of is the same.
        parts: where finished fine-tunings of a readout "evaluate:TASK" are kept and found again.

    Raises:
        UserError: what a comparison refuses.
    """
    asked = _Asked(trios, _seen)
    run = open_run(asked.sources, compare_on, settings)
    readouts = readouts_of(run, readout)
    packages = PACKAGES if training is None else (*PACKAGES, "accelerate")
    if training is None:
        training = {"checkpoints": [source.name for source in asked.sources]}
    # A readout may read a file that has changed since.
    plain = saved is not None and not readouts and "readouts" not in saved.record.get("summary", {})
    if saved is not None and plain and _is_of(saved.record, run, asked, trios, training, packages):
        return saved
    draw = compare_pairs(run, asked.pairs, progress)[0]
    read = read_cells(run, readouts, progress, parts)
    cells = list(zip(trios, asked.places, strict=True))
    record = {
        "kind": ABLATION,
        "axis": axis,
        "summary": {
            "axis": axis,
            "n_documents": len(draw.ids),
            "interval": {"level": LEVEL, "over": "documents"},
            "early_layers": early_of(draw.pairs[cells[0][1][0]]) if cells else [],
            "warnings": grouped_warnings((str(trio), draw.pairs[at]) for trio, (at, _) in cells),
            "notes": list(dict.fromkeys([*notes, *draw.notes, *read.notes])),
        }
        | ({"readouts": describe_readouts(readouts)} if readouts else {}),
        "pairs": [
            _cell(trio, places, draw) | ({"readouts": read.entry(*_models(places, draw))} if readouts else {})
            for trio, places in cells
        ],
        "provenance": provenance(run, [draw], ["checkpoint"] * len(run.order), run.settings.record())
        | {"training": training, **circumstances(packages)},
    }
    return Ablation(record, {})


def _is_of(
    record: dict[str, Any],
    run: FeatureRun,
    asked: _Asked,
    trios: Sequence[Trio],
    training: dict[str, Any],
    packages: Sequence[str],
) -> bool:
    """Whether a record was made of these very weights, documents, settings and versions."""
    weights = [run.outlines[at].provenance.get("weights_sha256") for at in run.order]
    cells = [
        (trio.axis, trio.cell, trio.size, trio.seed, weights[asked.pairs[at].a], weights[asked.pairs[at].b])
        for trio, (at, _) in zip(trios, asked.places, strict=True)
    ]
    controls = [None if at is None else weights[asked.pairs[at].a] for _, at in asked.places]
    try:
        origin, kept = record["provenance"], [pair["weights"] for pair in record["pairs"]]
        found = [
            (pair["axis"], pair["cell"], pair["size"], pair["seed"], own["detour"], own["baseline"])
            for pair, own in zip(record["pairs"], kept, strict=True)
        ]
        settings = run.settings.record() | {"device": str(run.options.device), "dtype": str(run.options.dtype)}
        settings["max_length"] = run.prepared[0].max_length
        return (
            None not in weights
            and (found, [own["control"] for own in kept]) == (cells, controls)
            and [d["document_ids"] for d in origin["corpus"]["draws"]] == [run.ids(0)]
            and origin["corpus"]["draws"][0]["fingerprint"] == run.draws[0].fingerprint
            and origin["settings"] == json.loads(json.dumps(settings))
            and origin["training"] == json.loads(json.dumps(training))
            and origin["versions"] == circumstances(packages)["versions"]
        )
    except (KeyError, TypeError, IndexError):
        return False


def _seen(one: Trained, causal: bool) -> ModelSource:
    """A checkpoint under the mask that its cell is seen with; a decoder class is causal by itself."""
    source: ModelSource = as_source(one.folder)
    if one.name and isinstance(source, SpecSource):
        source = replace(source, spec=replace(source.spec, given=one.name))
    return CausalSource(source) if causal and check_start(one.folder) == ENCODER else source


class _Asked:
    """The distinct models and pairs of all trios, and where each trio's pair and its control pair are."""

    def __init__(self, trios: Sequence[Trio], seen: Callable[[Trained, bool], ModelSource]) -> None:
        self.sources: list[ModelSource] = []
        self.pairs: list[Pair] = []
        self.places: list[tuple[int, int | None]] = []
        for trio in trios:
            a, b = (_at(self.sources, seen(one, trio.causal)) for one in (trio.detour, trio.baseline))
            control = None
            if trio.control is not None:
                twin = _at(self.sources, seen(trio.control, trio.causal))
                control = _at(self.pairs, Pair(twin, b, called=("the control", "the baseline")))
            self.places.append((_at(self.pairs, Pair(a, b, control=control)), control))


def _at(known: list[Any], one: Any) -> int:
    """The position of a thing among those that are known, of which it becomes one."""
    if one not in known:
        known.append(one)
    return known.index(one)


def _models(places: tuple[int, int | None], draw: DrawResult) -> tuple[int, int, int | None]:
    """A cell's detour, baseline and control, by their place among the models."""
    pair, control = draw.pairs[places[0]].pair, None if places[1] is None else draw.pairs[places[1]].pair
    return pair.a, pair.b, None if control is None else control.a


def _cell(trio: Trio, places: tuple[int, int | None], draw: DrawResult) -> dict[str, Any]:
    """A cell's entry: means, layers, ratios; fractions, null with a reason."""
    at, control_at = places
    pair, control = draw.pairs[at], None if control_at is None else draw.pairs[control_at]
    models = dict(zip(("detour", "baseline", "control"), _models(places, draw), strict=True))
    facts: dict[str, Any] = {
        "axis": trio.axis,
        "cell": trio.cell,
        "position": trio.position,
        "size": trio.size,
        "seed": trio.seed,
        "mask": "causal" if trio.causal else "bidirectional",
        "n_documents": pair.plain.n,
        "tokens": trio.detour.tokens,
        "recipe_sha256": trio.detour.recipe_sha256,
        "baseline_recipe_sha256": trio.baseline.recipe_sha256,
        "data_seed": trio.baseline.data_seed,
        "control_seed": trio.control and trio.control.seed,
        "control_data_seed": trio.control and trio.control.data_seed,
        "noise": trio.noise,
        "folders": {
            "detour": trio.detour.folder.name,
            "baseline": trio.baseline.folder.name,
            "control": trio.control and trio.control.folder.name,
        },
        "weights": {
            role: None if model is None else draw.provenance[model]["weights_sha256"] for role, model in models.items()
        },
    }
    entry = pair_entry(pair, control, role="cell", **facts)
    if control is None:
        nothing = interval_entry(Interval(None, reason=NO_CONTROL))
        both = {"debiased": nothing, "biased": nothing}
        entry["control"] = {"mean_divergence": both, "early_divergence": both}
        entry["ratio"] = {"mean": nothing, "early": nothing, "smallest": None, "largest": None}
        for layer in entry["layers"]:
            layer |= {"control": nothing, "ratio": nothing}
    return entry


@dataclass(frozen=True)
class _Untrained:
    """A checkpoint that is still to be trained, known by the model that its training starts from."""

    folder: Path
    start: ModelSource
    called: str

    @property
    def name(self) -> str:
        return self.called

    def fingerprint(self) -> None:
        return None

    def outline(self, options: LoadOptions) -> ModelOutline:
        return self.start.outline(options)

    def head(self, options: LoadOptions) -> HeadKind:
        return head_of(self.start, options)

    def load(self, options: LoadOptions) -> LoadedModel:
        raise AssertionError(f"{self.name} is not trained yet")


def check_comparison(
    plan: Plan, out: Path, compare_on: Any, settings: Settings, readout: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Make every check of `compare_plan` that can be made before anything is trained.

    Returns:
        what readouts cost that train, each with its name, checkpoints, texts, and passes over these.

    Raises:
        UserError: what a comparison refuses.
    """
    with tempfile.TemporaryDirectory() as place:
        roots = {key: start_directory(start, plan.template, Path(place)) for key, start in plan.starts.items()}
        start_of = {segment_folder(out, s.key): roots[s.start] for s in plan.tree.segments.values()}
        asked = _Asked(
            plan_trios(plan, out),
            lambda one, causal: _Untrained(
                one.folder, _seen(replace(one, folder=start_of[one.folder]), causal), one.name
            ),
        )
        run = open_run(asked.sources, compare_on, settings)
        check_pairs(run, asked.pairs)
        return [one.cost(run) for one in readouts_of(run, readout) if isinstance(one, FineTuned)]


def compare_plan(
    plan: Plan,
    out: Path,
    compare_on: Any,
    settings: Settings,
    progress: Progress | None = None,
    saved: Ablation | None = None,
    readout: Sequence[str] = (),
) -> Ablation:
    """Compare what `train_tree` has trained in `out`; `saved` as `compare_trios` takes it.

    Raises:
        UserError: what a comparison refuses.
    """
    notes = list(plan.notes)
    if compare_on == plan.corpus.spec:
        notes.append(f"the models are compared on the corpus they were trained on, {plan.corpus.spec!r}")
    notes += _other_data(plan, out)
    training = plan.identity | {"corpus": plan.corpus.spec, "preset": plan.settings.preset}
    trios = plan_trios(plan, out)
    return compare_trios(
        plan.settings.axis,
        trios,
        compare_on,
        settings,
        readout=readout,
        training=training,
        notes=notes,
        progress=progress,
        saved=saved,
        parts=out / FINE_TUNED,
    )


def plan_trios(plan: Plan, out: Path) -> list[Trio]:
    """Return each cell's checkpoints, as seen with each seed."""

    names: dict[Path, str] = {}

    def trained(use: Use) -> Trained:
        leaf = plan.tree.leaf(use)
        recipe = plan.budget.recipe(use.branch).fingerprint
        folder, tokens = segment_folder(out, leaf.key), plan.budget.tokens(use.branch)
        # A folder is called by its hash; cells that share a checkpoint call it by the first of them.
        name = names.setdefault(folder, f"{use.cell} {use.role} seed {use.seed}")
        return Trained(folder, use.run.masks, use.run.data, tokens, recipe, name)

    uses, trios = plan.tree.uses, []
    for detour, baseline, control in zip(uses[::3], uses[1::3], uses[2::3], strict=True):
        cell = detour.cell
        place = cell.axis, cell.name, cell.position, cell.size, detour.seed, cell.causal
        trios.append(Trio(*place, trained(detour), trained(baseline), trained(control), control.noise))
    return trios


def _other_data(plan: Plan, out: Path) -> list[str]:
    """Say where the start models of a direction's two sides were not trained on the same data."""
    if not any(cell.axis == "direction" for cell in plan.cells):
        return []

    def data(start: Start) -> str | None:
        first = plan.tree.children(None, (start.name, start.size))[0]
        return (read_manifest(start.folder or segment_folder(out, first.key)) or {}).get("data_sha256")

    notes = []
    for (name, size), start in plan.starts.items():
        encoder = plan.starts.get(("encoder", size))
        if name == "decoder" and encoder and (data(start) is None or data(start) != data(encoder)):
            notes.append(
                f"the start models of direction at {size} were not, or not by their manifests, trained "
                f"on the same packed data; for both on one, give --start {size} and --start-corpus"
            )
    return notes
