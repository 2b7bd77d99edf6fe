"""Interventions: which parameters do not learn in a phase."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast, get_args

from torch import nn
from torch.nn import Parameter
from transformers import PreTrainedModel

from cka_tools.errors import UserError
from cka_tools.settings import parse_layers
from cka_tools.training.objectives import prediction_head
from cka_tools.training.recipe import THIRDS, FrozenModule, Phase, Recipe, third


def named_layers(given: str, layers: int) -> tuple[int, ...]:
    """Return the layers that "low", "middle", "high", "0-7" or "0,3,5-6" names in a model of that depth.

    Raises:
        UserError: it names none, or some that the model does not have.
    """
    if given in THIRDS:
        return third(given, layers)
    chosen = parse_layers(given)
    check_layers(chosen, layers)
    return chosen


def check_layers(chosen: tuple[int, ...], layers: int) -> None:
    """Raise a UserError where a frozen layer does not exist."""
    if beyond := [layer for layer in chosen if layer >= layers]:
        raise UserError(f"frozen layer {beyond[0]} does not exist: the start model has layers 0 to {layers - 1}")


def freeze(recipe: Recipe, intervention: str, layers: int) -> Recipe:
    """Return the recipe with the layers of "LAYERS@PHASE" frozen, for a start model of `layers` layers.

    LAYERS is what `named_layers` takes, "embeddings" or "head"; PHASE is the name of a phase, or "clm" or
    "mlm" for the first phase of that objective.

    Raises:
        UserError: it does not name layers of the model, or a phase of the recipe.
    """
    what, at, where = intervention.partition("@")
    named = [i for i, phase in enumerate(recipe.phases) if phase.name == where]
    named += [i for i, phase in enumerate(recipe.phases) if phase.objective == where]
    if not at or not named:
        phases = dict.fromkeys(
            [*(phase.name for phase in recipe.phases), *(phase.objective for phase in recipe.phases)]
        )
        raise UserError(
            f"intervention {intervention!r} names no phase of {recipe.name!r}: write LAYERS@PHASE, "
            f"where PHASE is one of {', '.join(phases)}"
        )
    phase = recipe.phases[named[0]]
    if what in get_args(FrozenModule):
        frozen = dataclasses.replace(phase, frozen_modules=(*phase.frozen_modules, cast(FrozenModule, what)))
    else:
        chosen = sorted({*phase.frozen, *named_layers(what, layers)})
        frozen = dataclasses.replace(phase, frozen=tuple(chosen))
    phases_now = tuple(frozen if i == named[0] else old for i, old in enumerate(recipe.phases))
    return dataclasses.replace(recipe, phases=phases_now)


@contextmanager
def frozen_parameters(model: PreTrainedModel, phase: Phase) -> Iterator[None]:
    """Keep the phase's frozen parameters without gradients while the context lasts.

    A parameter whose gradient is None is passed over by AdamW; one whose gradient is zero is still moved by
    its moments and its decay. Embeddings and head learn unless they are named. Where the output matrix is the
    embedding matrix, it belongs to the embeddings: the head is then its dense layer, norm and bias.

    Raises:
        UserError: a layer that does not exist, or nothing left to learn.
    """
    parameters = frozen_list(model, phase)
    before = [parameter.requires_grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise UserError(f"phase {phase.name!r} freezes every parameter: nothing is left to train")
        yield
    finally:
        for parameter, learnt in zip(parameters, before, strict=True):
            parameter.requires_grad_(learnt)


def frozen_list(model: PreTrainedModel, phase: Phase) -> list[Parameter]:
    """Return the parameters that the phase freezes.

    Raises:
        UserError: a layer that does not exist.
    """
    check_layers(phase.frozen, len(model.model.layers))
    modules: list[nn.Module] = [model.model.layers[layer] for layer in phase.frozen]
    embeddings = list(model.model.embeddings.parameters())
    frozen = [parameter for module in modules for parameter in module.parameters()]
    if "embeddings" in phase.frozen_modules:
        frozen += embeddings
    if "head" in phase.frozen_modules:
        shared = {id(parameter) for parameter in embeddings}
        head = prediction_head(model)
        assert isinstance(head, nn.Module)
        of_head = [*head.parameters(), *model.decoder.parameters()]
        frozen += [parameter for parameter in of_head if id(parameter) not in shared]
    return frozen
