"""What can be hooked in a model, layer by layer (`cka layers MODEL`)."""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from cka_tools.models.load import ModelGiven, load_model


@dataclass(frozen=True)
class LayerDescription:
    """One layer: its block and branches (module paths below the base model), width and attention.

    `scope` is "global" or "local" where the config says which (`window` then in tokens), else None;
    `attention` and `mlp` are None where those sites cannot be hooked.
    """

    index: int
    block: str
    path: str
    width: int
    attention: str | None
    mlp: str | None
    scope: str | None
    window: int | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def describe_model(
    spec: ModelGiven,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
    trust_remote_code: bool = False,
) -> list[LayerDescription]:
    """Load a model with the checks of `load_model` and describe each layer, bottom to top."""
    loaded = load_model(spec, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
    return [
        LayerDescription(
            block.index,
            block.kind,
            block.path,
            int(block.width or 0),
            block.attention,
            block.mlp,
            block.scope,
            block.window,
        )
        for block in loaded.blocks
    ]
