"""Which layers are hooked, and at which module of each."""

from collections.abc import Sequence

from cka_tools.errors import UserError
from cka_tools.models.model import LoadedModel


def resolve_layers(model: LoadedModel, layers: Sequence[int] | None) -> list[int]:
    """Layer indices, ascending and each once; all of them for None.

    Raises:
        UserError: an index the model does not have.
    """
    depth = len(model.blocks)
    if layers is None:
        return list(range(depth))
    chosen = sorted(set(layers))
    outside = [layer for layer in chosen if not 0 <= layer < depth]
    if outside:
        raise UserError(
            f"layers {', '.join(map(str, outside))}: model {model.name!r} has layers 0 to {depth - 1}: "
            "choose among them"
        )
    return chosen


def site_paths(model: LoadedModel, site: str, layers: Sequence[int]) -> list[str]:
    """Module path of the site in each layer, below the base model.

    Raises:
        UserError: a branch that could not be checked at load.
    """
    paths = []
    for layer in layers:
        block = model.blocks[layer]
        path = block.path if site == "residual" else getattr(block, site)
        if path is None:
            raise UserError(
                f"sites {site!r}: in layer {layer} of model {model.name!r} ({block.kind}) no module was "
                "found whose "
                "output is what the branch adds to the residual: use sites 'residual'"
            )
        paths.append(path)
    return paths
