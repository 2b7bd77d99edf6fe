"""The model that training starts from: a directory with a ModernBERT and its LM head."""

from pathlib import Path

import torch
from transformers import (
    AutoTokenizer,
    ModernBertDecoderForCausalLM,
    ModernBertForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from cka_tools.errors import UserError, one_line
from cka_tools.models.folder import check_folder, fetch_snapshot, parse_spec
from cka_tools.models.load import quiet_transformers
from cka_tools.training.attention import BLOCKED, IMPLEMENTATIONS

AUTO = "auto"

ENCODER = "ModernBertForMaskedLM"
CLASSES = {
    ENCODER: ModernBertForMaskedLM,
    "ModernBertDecoderForCausalLM": ModernBertDecoderForCausalLM,
}


def find_start(given: str) -> Path:
    """Return the local directory of a model spec, checked to be one that can be trained.

    Args:
        given: demo:NAME, a directory, org/name or org/name@revision; a hub repository is fetched, without
            code and without pickles.

    Raises:
        UserError: not a model spec, a repository that cannot be fetched, a directory without config, weights
            or tokenizer, or a class that cannot be trained here.
    """
    folder = fetch_snapshot(parse_spec(given)).folder
    check_start(folder, given)
    return folder


def check_start(folder: Path, given: str | None = None) -> str:
    """Return the name of a model's class, one of `CLASSES`, by the first of `architectures` in its config.

    Nothing is loaded, so that a whole plan can be checked before any training.

    Args:
        given: how the user named the directory, for the error; its path when None.

    Raises:
        UserError: not a model directory (config, safetensors, tokenizer), or another class.
    """
    name = given or str(folder)
    if not folder.is_dir():
        raise UserError(f"start model {name!r} is not a directory: give one written by save_pretrained")
    written = check_folder(name, folder).get("architectures") or ["none"]
    if written[0] not in CLASSES:
        raise UserError(
            f"start model {name!r} is a {written[0]}: training needs an LM head, "
            f"so give a {' or a '.join(CLASSES)}"
        )
    return str(written[0])


def load_start(
    folder: Path, *, attention: str = AUTO, device_type: str = "cpu", given: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model in float32, on the CPU, in eval mode, and its tokenizer.

    Weights that the directory holds in another format are cast; every parameter must be in it, as a head
    with random weights would be trained without a word.

    Args:
        folder: a directory that `check_start` accepts.
        attention: one of `IMPLEMENTATIONS`, or "auto": blocked on a CPU, where it is half as fast again as
            SDPA, SDPA elsewhere and for models with attention dropout.
        device_type: where it will be trained, as `torch.device.type` has it: chooses between the two.
        given: how the user named the directory, for errors.

    Raises:
        UserError: as `check_start`; weights that are not there, the LM head's above all; an attention
            implementation that is not offered, or not for this model.
    """
    if attention not in (AUTO, *IMPLEMENTATIONS):
        raise UserError(
            f"attention implementation {attention!r} is not offered: "
            f"choose {', '.join(IMPLEMENTATIONS)} or {AUTO}"
        )
    name = given or str(folder)
    model_class = CLASSES[check_start(folder, given)]
    dropout = check_folder(name, folder).get("attention_dropout") or 0.0
    if dropout and attention == BLOCKED:
        raise UserError(
            f"start model {name!r} has attention dropout of {dropout}, which blocked attention does not "
            f"offer: choose sdpa"
        )
    if attention == AUTO:
        attention = BLOCKED if device_type == "cpu" and not dropout else "sdpa"
    try:
        with quiet_transformers():
            model, info = model_class.from_pretrained(
                folder, dtype=torch.float32, attn_implementation=attention, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"start model {name!r} cannot be loaded ({one_line(error)})") from error
    if missing := sorted(info["missing_keys"]):
        raise UserError(
            f"start model {name!r} lacks the weights of {missing[0]} (and {len(missing) - 1} more): "
            f"give a checkpoint that was trained with its LM head"
        )
    return model, tokenizer
