"""Model specs → loaded models and their blocks."""

from cka_tools.models.blocks import Block
from cka_tools.models.describe import LayerDescription, describe_model
from cka_tools.models.device import DTYPES, resolve_device, resolve_dtype
from cka_tools.models.load import ModelGiven, load_model, outline_model
from cka_tools.models.model import LoadedModel, ModelOutline
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
