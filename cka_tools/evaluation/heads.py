"""A model source → a model of transformers with a task's head: known weights below, drawn ones above."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from cka_tools.errors import UserError, failing_as
from cka_tools.models import LoadedModel, LoadOptions, ModelOutline, ModelSource, head_of
from cka_tools.models.load import quiet_transformers
from cka_tools.tasks.task import Kind

PROBLEMS = {"label": "single_label_classification", "labels": "multi_label_classification", "tags": None}
"""What transformers calls them."""


def check_head(outline: ModelOutline, kind: Kind) -> None:
    """Raise a UserError, without weights, where a model cannot be given a task's head."""
    name = outline.name
    if outline.provenance.get("mask"):
        raise UserError(f"model {name!r} is seen causally, as no class of transformers does: give the model itself")
    if outline.provenance.get("kind") == "adapter":
        raise UserError(f"model {name!r} has an adapter: merge it into its base (merge_and_unload), save that, give it")
    if outline.needs_equal_lengths:
        raise UserError(f"model {name!r} does not take padded batches, in which texts are trained: give another")
    mapping = MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING if kind == "tags" else MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    lacking = f"model {name!r} ({type(outline.model).__name__}) has no class of transformers with a head for "
    lacking += (
        f"{'tags of words' if kind == 'tags' else 'classes of texts'}: give an encoder such as BERT or ModernBERT"
    )
    if type(outline.model.config) not in mapping:
        raise UserError(lacking)
    with failing_as(lacking), torch.device("meta"):
        whole = _empty(outline, kind, ("a", "b"))
    if type(whole.base_model) is not type(outline.model):
        raise UserError(lacking)


def model_with_head(source: ModelSource, options: LoadOptions, kind: Kind, labels: tuple[str, ...]) -> Any:
    """The model with its own weights and a new head's, in float32, in evaluation mode.

    What the checkpoint has of the head by name and shape is taken too, as `from_pretrained` does (ModernBERT's
    dense map before the classifier is that of its language-model head); the rest is drawn by torch's generator.

    Args:
        labels: of the classifier's outputs, in order.

    Raises:
        UserError: as `ModelSource.load`; a base that has not the weights of the class with a head.
    """
    loaded = source.load(options)
    with quiet_transformers():
        whole = _empty(loaded, kind, labels)
    report = whole.base_model.load_state_dict(loaded.model.state_dict(), strict=False)
    if type(whole.base_model) is not type(loaded.model) or report.missing_keys:
        what = report.missing_keys[0] if report.missing_keys else type(whole.base_model).__name__
        raise UserError(f"model {source.name!r} does not fit {type(whole).__name__}, it lacks {what}: give another")
    known = {name: value for name, value in _own_head(source, options).items() if not _is_of(whole, name)}
    own = whole.state_dict()
    fitting = {name: value for name, value in known.items() if name in own and own[name].shape == value.shape}
    whole.load_state_dict(fitting, strict=False)
    return whole.float().eval()


def _empty(loaded: LoadedModel, kind: Kind, labels: tuple[str, ...]) -> Any:
    config = copy.deepcopy(loaded.model.config)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: at for at, label in config.id2label.items()}
    config.problem_type = PROBLEMS[kind]
    config.pad_token_id = loaded.pad_id
    factory = AutoModelForTokenClassification if kind == "tags" else AutoModelForSequenceClassification
    return factory.from_config(config, dtype=torch.float32)


def _is_of(whole: Any, name: str) -> bool:
    return name.startswith(f"{whole.base_model_prefix}.")


def _own_head(source: ModelSource, options: LoadOptions) -> dict[str, torch.Tensor]:
    """What a checkpoint has beside its base model; nothing where it has no language-model head."""
    try:
        head_of(source, options)
        loaded = source.load(options.with_head())
    except UserError:
        return {}
    return dict(loaded.language_model.state_dict())
