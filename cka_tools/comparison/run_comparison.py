"""Two models, one corpus: the main job, from specs to a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING, Literal

import torch

from cka_tools import paper
from cka_tools.comparison.comparison import Comparison
from cka_tools.comparison.pairing import choose_layers, early_layers
from cka_tools.comparison.provenance import provenance
from cka_tools.comparison.reading import DrawProgress, Progress, read_draw
from cka_tools.comparison.record import build_arrays, build_record
from cka_tools.documents import draw_documents
from cka_tools.errors import UserError
from cka_tools.extraction import ExtractionSettings
from cka_tools.formatting import parse_bytes
from cka_tools.models import LoadedModel, LoadOptions, ModelGiven, as_source, resolve_device

if TYPE_CHECKING:
    import datasets


PAIRS = ("all", "diagonal")


def compare(
    model_a: ModelGiven,
    model_b: ModelGiven,
    corpus: str | PathLike[str] | Sequence[str] | datasets.Dataset = "sample",
    *,
    control: ModelGiven | None = None,
    documents: int | None = None,
    max_length: int | None = None,
    pooling: Literal["mean", "cls", "last", "token"] = "mean",
    sites: Literal["residual", "attention", "mlp"] = "residual",
    layers: Sequence[int] | None = None,
    early: Sequence[int] | None = None,
    pairs: Literal["all", "diagonal"] = "all",
    dtype: str | None = None,
    device: str | torch.device = "auto",
    seed: int = 42,
    rescale: bool = False,
    protocol: Literal["paper"] | None = None,
    batch_tokens: int | None = None,
    tokens_per_document: int = ExtractionSettings.tokens_per_document,
    keep_features: int | str = ExtractionSettings.keep_features,
    snapshot_every: int = ExtractionSettings.snapshot_every,
    trust_remote_code: bool = False,
    cache: bool = True,
    progress: Progress | None = None,
) -> Comparison:
    """Compare two models layer by layer over documents of a corpus.

    Args:
        model_a, model_b: `demo:NAME`, a local directory, `org/name[@revision]`, or `(model, tokenizer)`.
        corpus: a corpus spec, a path, a list of strings or a `datasets.Dataset`.
        control: a baseline of another seed, as deep as `model_b`: its divergence from `model_b` is the seed
            noise that the pair's divergence is divided by. Every model runs once.
        documents: documents to draw; None takes 500, or what there is if less.
        max_length: tokens a document is cut to; None takes 512, or what the models take if less.
        pooling: how the hidden states of a document become one row.
        sites: the residual stream after each block, or what a branch adds to it.
        layers: layer indices (of the shallower model where depths differ); None is all.
        early: layers that count as early; None is the first third, rounded up.
        pairs: "all" layers of A against all of B, or "diagonal" for the paired layers alone: the matrices are
            null elsewhere, and there is no best match.
        dtype: float32 (default), bfloat16, float16 or float64, for the forward passes.
        device: auto, cpu, cuda, cuda:N or mps.
        seed: of the document draw, and of token draws.
        rescale: also give CKA with every feature scaled to unit variance.
        protocol: "paper" for the settings of arXiv 2605.12438: 500 documents in each of three draws (seeds
            42, 43, 44), 512 tokens, batches of 16 in corpus order, float16, mean pooling.
        batch_tokens: padded tokens a batch holds; None chooses by device.
        tokens_per_document: draws of token pooling.
        keep_features: bytes, or a size such as "8GiB": features of both models beyond it are not kept,
            statistics are streamed. See docs/statistics.md for what is approximate then.
        snapshot_every: documents from one snapshot of streamed statistics to the next.
        trust_remote_code: run code that comes with a model.
        cache: take features from the activation store (`CKA_TOOLS_CACHE`) and keep them there.
        progress: called after each batch with documents done, tokens done, documents in all.

    Raises:
        UserError: input that does not fit, in one line.
    """
    sources = [as_source(given) for given in (model_a, model_b, control) if given is not None]
    if pairs not in PAIRS:
        raise UserError(f"pairs {pairs!r} is not known: choose one of {', '.join(PAIRS)}")
    place = resolve_device(device)
    settings = ExtractionSettings(
        max_length=max_length,
        pooling=pooling,
        sites=sites,
        batch_tokens=batch_tokens,
        tokens_per_document=tokens_per_document,
        seed=seed,
        keep_features=parse_bytes(keep_features, "keep-features"),
        snapshot_every=snapshot_every,
    )
    seeds: Sequence[int] = (seed,)
    if protocol is not None:
        settings, seeds = _paper_settings(protocol, settings, documents, dtype)
        documents, dtype = documents or paper.DOCUMENTS, paper.MODEL_DTYPE
    draws = [draw_documents(corpus, documents, s) for s in seeds]
    load = LoadOptions(place, dtype or "float32", trust_remote_code)
    loaded = {source: source.load(load) for source in dict.fromkeys(sources)}
    a, b, *others = (loaded[source] for source in sources)
    noise = others[0] if others else None
    if noise is not None:
        _check_control(noise, b)
    paired, layers_a, layers_b = choose_layers(len(a.blocks), len(b.blocks), layers)
    early_given = early_layers(min(len(a.blocks), len(b.blocks)), early)
    done = DrawProgress(progress, sum(len(d.documents) for d in draws))
    chosen = (layers_a, layers_b)
    options = {"cache": cache, "diagonal": pairs == "diagonal"}
    readings = [
        read_draw(a, b, draw, settings, paired, chosen, early_given, rescale, done, control=noise, **options)
        for draw in draws
    ]
    origin = provenance(a, b, noise, readings, settings, protocol=protocol, device=place, rescale=rescale)
    origin["settings"]["pairs"] = pairs
    record = build_record(readings, (a, b), origin, early_given, protocol)
    return Comparison(record, build_arrays(readings[0]))


def _check_control(control: LoadedModel, b: LoadedModel) -> None:
    """Raise a UserError where the control is not as deep as B."""
    depths = len(control.blocks), len(b.blocks)
    if depths[0] != depths[1]:
        raise UserError(
            f"control {control.name!r} has {depths[0]} layers, {b.name!r} has {depths[1]}: give a model "
            "trained like B with another seed, which is as deep"
        )


def _paper_settings(
    protocol: str, settings: ExtractionSettings, documents: int | None, dtype: str | None
) -> tuple[ExtractionSettings, Sequence[int]]:
    """The paper's settings.

    Raises:
        UserError: an unknown protocol, or a setting that contradicts it.
    """
    if protocol != "paper":
        raise UserError(f"protocol {protocol!r} is not known: the one there is is 'paper'")
    fixed = {
        "documents": (documents, None, paper.DOCUMENTS),
        "max-length": (settings.max_length, None, paper.MAX_LENGTH),
        "dtype": (dtype, None, paper.MODEL_DTYPE),
        "pooling": (settings.pooling, "mean", "mean"),
        "sites": (settings.sites, "residual", "residual"),
        "seed": (settings.seed, paper.DRAW_SEEDS[0], paper.DRAW_SEEDS[0]),
    }
    for name, (given, default, wanted) in fixed.items():
        if given not in (default, wanted):
            raise UserError(
                f"{name} {given!r} contradicts protocol 'paper', which has {wanted!r}: leave one of them out"
            )
    exact = replace(settings, max_length=paper.MAX_LENGTH, plan="corpus-order", batch_size=paper.BATCH_SIZE)
    return exact, paper.DRAW_SEEDS
