"""A ModernBERT that was trained causally, seen causally: the mask of its training, for the comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import ModernBertModel

from cka_tools.ablation.plan import Plan
from cka_tools.ablation.result import build_record
from cka_tools.ablation.starts import load_tokenizer
from cka_tools.ablation.train import segment_folder
from cka_tools.ablation.tree import Use
from cka_tools.comparison.caveats import find_caveats
from cka_tools.comparison.pairing import choose_layers, early_layers
from cka_tools.comparison.reading import DrawProgress, Reading, read_draw
from cka_tools.comparison.record import interval_entry, number
from cka_tools.documents import DocumentDraw
from cka_tools.extraction import ExtractionSettings
from cka_tools.manifest import NoiseKind, read_manifest
from cka_tools.models import LoadedModel, load_model
from cka_tools.models.folder import hash_json, hash_weight_files, weight_files
from cka_tools.statistics.intervals import Interval
from cka_tools.statistics.ratio import DivergenceRatio, divergence_ratio, ratio_second_order
from cka_tools.training.attention import attention_masks
from cka_tools.training.start_model import check_start, quiet_transformers


class CausalModernBertModel(ModernBertModel):
    """ModernBERT under the masks of `attention_masks`, causal; pad tokens see and are seen by pads alone."""

    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **options: Any
    ) -> Any:
        assert input_ids is not None
        tokens = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        masks = attention_masks(self, tokens, causal=True)
        return super().forward(input_ids=input_ids, attention_mask=masks, **options)


def load_seen(folder: Path, *, causal: bool, device: str | torch.device = "auto") -> LoadedModel:
    """Load a checkpoint as it is to be compared: under the causal mask, or as its class sees by itself.

    A `ModernBertDecoder` is causal by itself.

    Raises:
        UserError: as `load_model`.
    """
    if not causal or check_start(folder) != "ModernBertForMaskedLM":
        return load_model(folder, device=device)
    plain = load_model(folder, device=device)
    with quiet_transformers():
        model = CausalModernBertModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    loaded = load_model((model.to(plain.device).eval(), load_tokenizer(folder)), device=plain.device)
    loaded.name = str(folder)
    loaded.in_memory = False
    loaded.provenance |= {
        "spec": str(folder),
        "kind": "local",
        "mask": "causal",
        "weights_sha256": hash_weight_files(weight_files(folder)),
    }
    return loaded


LOADED_AT_ONCE = 3
NO_CONTROL = "no baseline of another seed"


@dataclass(frozen=True)
class Trained:
    """A run's last checkpoint.

    Attributes:
        seed, data_seed: of masks and dropout, and of the order of the documents.
        tokens: of the run, its start model's not counted.
        recipe_sha256: of its recipe, None where its manifest holds none.
    """

    folder: Path
    seed: int
    data_seed: int
    tokens: int | None
    recipe_sha256: str | None


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

    @property
    def seeds(self) -> dict[str, Any]:
        """What the record says of the trio's seeds."""
        return {
            "data_seed": self.baseline.data_seed,
            "control_seed": None if self.control is None else self.control.seed,
            "control_data_seed": None if self.control is None else self.control.data_seed,
            "noise": self.noise,
        }


@dataclass
class Comparer:
    """Compares checkpoints on one draw of documents; what was compared is not compared again.

    Attributes:
        cache: take features from the activation store and keep them there.
        progress: called with the pair that is compared now.
    """

    draw: DocumentDraw
    settings: ExtractionSettings = field(default_factory=ExtractionSettings)
    device: str = "auto"
    cache: bool = True
    progress: Callable[[Path, Path], None] | None = None
    _models: dict[tuple[Path, bool], LoadedModel] = field(default_factory=dict)
    _readings: dict[tuple[Path, Path, bool], Reading] = field(default_factory=dict)

    def model(self, folder: Path, causal: bool) -> LoadedModel:
        key = folder, causal
        found = self._models.pop(key, None) or load_seen(folder, causal=causal, device=self.device)
        self._models[key] = found
        while len(self._models) > LOADED_AT_ONCE:
            del self._models[next(iter(self._models))]
        return found

    def read(self, a: Path, b: Path, causal: bool) -> Reading:
        """Compare two checkpoints.

        Raises:
            UserError: as `read_draw`.
        """
        key = a, b, causal
        if key not in self._readings:
            if self.progress is not None:
                self.progress(a, b)
            first, second = self.model(a, causal), self.model(b, causal)
            depths = len(first.blocks), len(second.blocks)
            pairs, layers_a, layers_b = choose_layers(*depths, None)
            early = early_layers(min(depths), None)
            progress = DrawProgress(None, len(self.draw.documents))
            self._readings[key] = read_draw(
                first,
                second,
                self.draw,
                self.settings,
                pairs,
                (layers_a, layers_b),
                early,
                False,
                progress,
                cache=self.cache,
            )
        return self._readings[key]


def measure(trio: Trio, comparer: Comparer) -> dict[str, Any]:
    """Return a cell's entry in the record: means, layers, ratios, warnings; fractions, null with a reason."""
    reading = comparer.read(trio.detour.folder, trio.baseline.folder, trio.causal)
    noise = ratio = None
    if trio.control is not None:
        noise = comparer.read(trio.control.folder, trio.baseline.folder, trio.causal)
        ratio = _ratio_to(reading, noise)
    entry: dict[str, Any] = {
        "axis": trio.axis,
        "cell": trio.cell,
        "position": trio.position,
        "size": trio.size,
        "seed": trio.seed,
        "mask": "causal" if trio.causal else "bidirectional",
        "n_documents": reading.plain.n,
        "tokens": trio.detour.tokens,
        "recipe_sha256": trio.detour.recipe_sha256,
        "baseline_recipe_sha256": trio.baseline.recipe_sha256,
        "control_seed": None if trio.control is None else trio.control.seed,
        "weights": {
            role: None
            if one is None
            else comparer.model(one.folder, trio.causal).provenance["weights_sha256"]
            for role, one in (("detour", trio.detour), ("baseline", trio.baseline), ("control", trio.control))
        },
        "mean_divergence": interval_entry(reading.plain.mean.debiased),
        "early_divergence": interval_entry(reading.plain.early.debiased),
        "control_mean_divergence": _of(noise, "mean"),
        "control_early_divergence": _of(noise, "early"),
        "mean_ratio": _ratio(None if ratio is None else ratio.mean),
        "early_ratio": _ratio(None if ratio is None else ratio.early),
        "ratio_range": None if ratio is None else [number(ratio.smallest), number(ratio.largest)],
        "layers": _layers(reading, noise, ratio),
        "warnings": list(find_caveats(reading.plain, reading.layers_a, reading.layers_b)),
    }
    return entry


def _ratio_to(reading: Reading, noise: Reading) -> DivergenceRatio:
    """The ratio of two divergences from one baseline, with the second order that they share."""
    (detour, *_, baseline), control = reading.extraction.features, noise.extraction.features[0]
    together = ratio_second_order(
        detour.features, control.features, baseline.features, reading.plain, noise.plain
    )
    return divergence_ratio(reading.plain, noise.plain, together)


def _of(reading: Reading | None, which: str) -> dict[str, Any]:
    if reading is None:
        return interval_entry(Interval(None, reason=NO_CONTROL))
    return interval_entry(getattr(reading.plain, which).debiased)


def _ratio(interval: Interval | None) -> dict[str, Any]:
    return interval_entry(interval or Interval(None, reason=NO_CONTROL))


def _layers(reading: Reading, noise: Reading | None, ratio: DivergenceRatio | None) -> list[dict[str, Any]]:
    entries = []
    for at, pair in enumerate(reading.plain.layers):
        entry: dict[str, Any] = {
            "layer": reading.layers_a[pair.layer_a],
            "early": at in reading.early,
            "divergence": interval_entry(pair.debiased.complement()),
            "control": interval_entry(
                Interval(None, reason=NO_CONTROL)
                if noise is None
                else noise.plain.layers[at].debiased.complement()
            ),
            "ratio": _ratio(None if ratio is None else ratio.layers[at]),
        }
        for side, spectrum in (("a", pair.spectrum_a), ("b", pair.spectrum_b)):
            entry[f"effective_dim_{side}"] = number(spectrum.effective_dim)
            entry[f"top_feature_share_{side}"] = number(spectrum.top_feature_share)
        entries.append(entry)
    return entries


def compare_plan(plan: Plan, out: Path, comparer: Comparer) -> dict[str, Any]:
    """Compare what `train_tree` has trained in `out`, and return the record.

    Raises:
        UserError: what a comparison refuses.
    """
    notes = list(plan.notes)
    if comparer.draw.corpus == plan.corpus.spec:
        notes.append(f"the models are compared on the corpus they were trained on, {plan.corpus.spec!r}")
    notes += _other_data(plan, out)
    training = plan.identity | {"corpus": plan.corpus.spec, "preset": plan.settings.preset}
    cells = [measure(trio, comparer) | trio.seeds for trio in plan_trios(plan, out)]
    return build_record(plan.settings.axis, cells, comparer.draw, training, notes)


def run_checkpoints(
    axis: str, trios: Sequence[Trio], comparer: Comparer, notes: Sequence[str]
) -> dict[str, Any]:
    """Compare checkpoints that are there, and return the record."""
    folders = dict.fromkeys(
        str(one.folder) for t in trios for one in (t.detour, t.baseline, t.control) if one is not None
    )
    cells = [measure(trio, comparer) | trio.seeds for trio in trios]
    return build_record(axis, cells, comparer.draw, {"checkpoints": list(folders)}, notes)


def plan_trios(plan: Plan, out: Path) -> list[Trio]:
    """Return each cell's checkpoints, as seen with each seed."""

    def trained(use: Use) -> Trained:
        leaf = plan.tree.leaf(use)
        recipe = hash_json(plan.budget.recipe(use.branch).to_dict())
        folder, tokens = segment_folder(out, leaf.key), plan.budget.tokens(use.branch)
        return Trained(folder, use.run.masks, use.run.data, tokens, recipe)

    uses = plan.tree.uses
    return [
        Trio(
            cell.axis,
            cell.name,
            cell.position,
            cell.size,
            detour.seed,
            cell.causal,
            trained(detour),
            trained(baseline),
            trained(control),
            control.noise,
        )
        for detour, baseline, control in zip(uses[::3], uses[1::3], uses[2::3], strict=True)
        for cell in (detour.cell,)
    ]


def _other_data(plan: Plan, out: Path) -> list[str]:
    """Say where the start models of a direction's two sides were not trained on the same data."""
    if not any(cell.axis == "direction" for cell in plan.cells):
        return []
    notes = []
    for (name, size), start in plan.starts.items():
        if name != "decoder" or ("encoder", size) not in plan.starts:
            continue
        data = []
        for one in (start, plan.starts["encoder", size]):
            folder = one.folder
            if folder is None:
                segment = plan.tree.children(None, (one.name, size))[0]
                folder = segment_folder(out, segment.key)
            data.append((read_manifest(folder) or {}).get("data_sha256"))
        if None in data or data[0] != data[1]:
            notes.append(
                f"the start models of direction at {size} were not, or not by their manifests, trained "
                f"on the same packed data; for both on one, give --start {size} and --start-corpus"
            )
    return notes
