"""Model sources → loaded models and their blocks."""

from cka_tools.models.blocks import Block
from cka_tools.models.folder import demo_models, parse_spec
from cka_tools.models.model import DTYPES, LoadedModel, ModelOutline, resolve_device, resolve_dtype
from cka_tools.models.source import (
    CausalSource,
    LoadOptions,
    MemorySource,
    ModelGiven,
    ModelSource,
    SpecSource,
    as_source,
    load_model,
    outline_model,
)

__all__ = [
    "DTYPES",
    "Block",
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
    "outline_model",
    "parse_spec",
    "resolve_device",
    "resolve_dtype",
]
