"""Model sources → loaded models and their blocks."""

from cka_tools.models.folder import demo_models
from cka_tools.models.graft import GraftSource, InterpolatedSource, graft, interpolate
from cka_tools.models.model import LoadedModel, ModelOutline, resolve_device
from cka_tools.models.source import (
    CausalSource,
    LoadOptions,
    MemorySource,
    ModelGiven,
    ModelSource,
    SpecSource,
    as_source,
    head_of,
    load_model,
)

__all__ = [
    "CausalSource",
    "GraftSource",
    "InterpolatedSource",
    "LoadOptions",
    "LoadedModel",
    "MemorySource",
    "ModelGiven",
    "ModelOutline",
    "ModelSource",
    "SpecSource",
    "as_source",
    "demo_models",
    "graft",
    "head_of",
    "interpolate",
    "load_model",
    "resolve_device",
]
