"""Model specs → loaded models and their blocks."""

from cka_tools.models.blocks import Block
from cka_tools.models.load import LayerDescription, ModelGiven, describe_model, load_model, outline_model
from cka_tools.models.model import DTYPES, LoadedModel, ModelOutline, resolve_device, resolve_dtype
from cka_tools.models.spec import demo_models, parse_spec

__all__ = [
    "DTYPES",
    "Block",
    "LayerDescription",
    "LoadedModel",
    "ModelGiven",
    "ModelOutline",
    "demo_models",
    "describe_model",
    "load_model",
    "outline_model",
    "parse_spec",
    "resolve_device",
    "resolve_dtype",
]
