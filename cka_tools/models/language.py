"""Language-model heads: which kind a checkpoint has, and logits at single tokens."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
)
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from cka_tools.errors import UserError
from cka_tools.models.model import LoadedModel

HeadKind = Literal["masked", "causal"]
"""Predicts hidden tokens from both sides, or the next token."""

HEADS = {"masked": "masked-LM", "causal": "causal-LM"}
"""In words."""

_NAMED = {"MaskedLM": "masked", "ForPreTraining": "masked", "CausalLM": "causal", "LMHead": "causal"}
_FACTORIES = {"masked": AutoModelForMaskedLM, "causal": AutoModelForCausalLM}
_MAPPINGS = {"masked": MODEL_FOR_MASKED_LM_MAPPING, "causal": MODEL_FOR_CAUSAL_LM_MAPPING}


def head_kind(given: str, config: Any, classes: Sequence[str]) -> HeadKind:
    """The kind of head that a model's class has.

    Args:
        classes: names of the model's class, as config.json has them under "architectures".

    Raises:
        UserError: a class without such a head; the error names the one that is needed.
    """
    kinds: list[HeadKind] = ["masked", "causal"]
    for kind in kinds:
        if any(part in name and _NAMED[part] == kind for name in classes for part in _NAMED):
            return kind
    fitting = [_MAPPINGS[kind][type(config)].__name__ for kind in kinds if type(config) in _MAPPINGS[kind]]
    wanted = f"a checkpoint of {' or '.join(fitting)}" if fitting else "an encoder or decoder with one"
    named = ", ".join(classes) or type(config).__name__
    raise UserError(f"model {given!r} ({named}) has no masked-LM or causal-LM head: give {wanted}")


def head_factory(kind: HeadKind) -> Any:
    """The class of transformers that loads models with such a head."""
    return _FACTORIES[kind]


def vocabulary_logits(loaded: LoadedModel, hidden: Tensor) -> Tensor:
    """Logits of single tokens, (tokens, vocabulary), from their last hidden states, (tokens, d).

    The head runs as the model's own class runs it; only the base model is passed over.
    """
    base = loaded.model

    def passed_over(*args: Any, **options: Any) -> Any:
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=hidden[None])

    before = base.__dict__.get("forward")
    base.__dict__["forward"] = passed_over
    try:
        dummy = torch.zeros((1, len(hidden)), dtype=torch.long, device=hidden.device)
        return loaded.language_model(input_ids=dummy, return_dict=True).logits[0]
    finally:
        if before is None:
            del base.__dict__["forward"]
        else:
            base.__dict__["forward"] = before


def check_head(loaded: LoadedModel) -> None:
    """Compare logits of single tokens with what the whole model gives, on one small batch.

    Raises:
        UserError: they differ, so that the head looks at more than a token at a time.
    """
    ids = (torch.arange(8) % loaded.vocabulary)[None].to(loaded.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with loaded.evaluating():
        whole = loaded.language_model(**inputs, return_dict=True).logits[0]
        hidden = loaded.model(**inputs, return_dict=True).last_hidden_state[0]
        single = torch.cat([vocabulary_logits(loaded, part) for part in hidden.split(5)])
    scale = float(whole.float().abs().max()) if len(whole) else 1.0
    near = 100 * torch.finfo(whole.dtype).eps * max(1.0, scale)
    if whole.shape != single.shape or not torch.allclose(whole, single, rtol=0.0, atol=near, equal_nan=True):
        raise UserError(
            f"model {loaded.name!r}: the head of {type(loaded.language_model).__name__} does not give a token's "
            "logits from its hidden state alone: it cannot be read here"
        )


def has_head(model: nn.Module) -> bool:
    """Whether a model in memory is more than its base model."""
    return getattr(model, "base_model", model) is not model
