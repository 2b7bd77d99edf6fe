"""Model sources → loaded models and their blocks."""

from cka_tools.models.folder import demo_models
from cka_tools.models.model import LoadedModel, ModelOutline, resolve_device
from cka_tools.models.source import (
    CausalSource,
    LoadOptions,
    MemorySource,
    ModelGiven,
    ModelSource,
    SpecSource,
    as_source,
    load_model,
)

__all__ = [
    "CausalSource",
    "LoadOptions",
    "LoadedModel",
    "MemorySource",
    "ModelGiven",
    "ModelOutline",
    "ModelSource",
    "SpecSource",
    "as_source",
    "demo_models",
    "load_model",
    "resolve_device",
]
