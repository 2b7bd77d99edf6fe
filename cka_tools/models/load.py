"""Model spec → LoadedModel, checked."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging as transformers_logging

from cka_tools.errors import UserError
from cka_tools.models.attention import attention_for
from cka_tools.models.blocks import find_blocks, text_config
from cka_tools.models.check import check_blocks
from cka_tools.models.folder import (
    check_folder,
    fetch_snapshot,
    hash_json,
    hash_state_dict,
    hash_tokenizer,
    hash_weight_files,
    one_line,
    weight_files,
)
from cka_tools.models.model import LoadedModel, ModelOutline, resolve_device, resolve_dtype
from cka_tools.models.spec import ModelSpec, parse_spec

#: What a model may be given as: a spec, or a loaded model with its tokenizer.
ModelGiven = str | PathLike[str] | tuple[Any, Any]


def load_model(
    spec: ModelGiven,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "float32",
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load a model without its head, find its blocks and check that hooks on them see the residual stream.

    A `(model, tokenizer)` pair is used as it is: where it has a head, its base model; it is never moved,
    cast or switched to evaluation for longer than a forward pass.

    Raises:
        UserError: anything about the model that does not fit, in one line.
    """
    if isinstance(spec, tuple):
        return _load_in_memory(spec, device, dtype)
    place = resolve_device(device)
    number = resolve_dtype(dtype, place)
    opened = open_checkpoint(spec, trust_remote_code=trust_remote_code)
    given, folder = opened.spec.given, opened.folder
    with _quiet():
        model = _load_weights(given, folder, opened.config, place, number, trust_remote_code)
    model = model.to(place).eval()
    provenance: dict[str, Any] = {"spec": given, "kind": opened.spec.kind}
    if opened.revision is not None:
        provenance |= {"repo": opened.spec.repo, "revision": opened.revision}
    # Of a hub's commit too: two commits, or a commit and a directory, may hold the same weights.
    provenance["weights_sha256"] = hash_weight_files(weight_files(folder))
    provenance["config_sha256"] = hash_json(opened.written)
    return _finish(LoadedModel(given, model, opened.tokenizer, [], provenance, notes=opened.notes))


def outline_model(
    spec: str | PathLike[str],
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "float32",
    trust_remote_code: bool = False,
) -> ModelOutline:
    """A model without its weights: tokenizer, blocks and limits, as tokenization and a batch plan need them.

    Raises:
        UserError: as `load_model`, of what does not need the weights.
    """
    place = resolve_device(device)
    number = resolve_dtype(dtype, place)
    opened = open_checkpoint(spec, trust_remote_code=trust_remote_code)
    given = opened.spec.given
    try:
        with _quiet(), torch.device("meta"):
            model = AutoModel.from_config(opened.config, dtype=number, trust_remote_code=trust_remote_code)
    except Exception:
        # Code that comes with a model may not run without data: its weights are loaded, then let go.
        with _quiet():
            model = _load_weights(given, opened.folder, opened.config, place, number, trust_remote_code).to(
                "meta"
            )
    provenance = {"tokenizer_sha256": hash_tokenizer(opened.tokenizer)}
    blocks = find_blocks(given, model)
    return ModelOutline(given, model, opened.tokenizer, blocks, provenance, notes=opened.notes, place=place)


@dataclass
class OpenedCheckpoint:
    """A checkpoint on this machine before its weights are read; `written` is its config.json."""

    spec: ModelSpec
    folder: Path
    revision: str | None
    written: dict[str, Any]
    config: Any
    tokenizer: Any
    notes: list[str]


def open_checkpoint(spec: str | PathLike[str], *, trust_remote_code: bool = False) -> OpenedCheckpoint:
    """Find a model (fetch it, if it is on the hub) and read its config and tokenizer.

    Raises:
        UserError: as `load_model`.
    """
    parsed = parse_spec(spec)
    notes: list[str] = []
    revision = None
    if parsed.kind == "hub":
        snapshot = fetch_snapshot(parsed, trust_remote_code=trust_remote_code)
        folder, revision, notes = snapshot.folder, snapshot.commit, snapshot.notes
    else:
        assert parsed.folder is not None
        folder = parsed.folder
    written = check_folder(parsed.given, folder)
    with _quiet():
        config = _load_config(parsed.given, folder, written, trust_remote_code)
        tokenizer = _load_tokenizer(parsed.given, folder, trust_remote_code)
    return OpenedCheckpoint(parsed, folder, revision, written, config, tokenizer, notes)


def _load_in_memory(
    pair: tuple[Any, Any], device: str | torch.device, dtype: str | torch.dtype
) -> LoadedModel:
    if (
        len(pair) != 2
        or not isinstance(pair[0], nn.Module)
        or not isinstance(pair[1], PreTrainedTokenizerBase)
    ):
        given = ", ".join(type(part).__name__ for part in pair)
        raise UserError(
            f"a model in memory is given as (model, tokenizer) of transformers; this is ({given})"
        )
    whole, tokenizer = pair
    name = type(whole).__name__
    if not hasattr(whole, "config") or not hasattr(whole, "base_model"):
        raise UserError(f"model {name} is not a transformers PreTrainedModel: give one, with its tokenizer")
    _refuse_encoder_decoder(name, whole.config)
    model = whole.base_model
    parameters = [p for p in model.parameters() if p.is_floating_point()]
    here = parameters[0].device
    if str(device) != "auto" and resolve_device(device).type != here.type:
        raise UserError(f"model {name} lies on {here}, asked for {device}: move it, or pass device='auto'")
    asked = resolve_dtype(dtype, here)
    others = sorted({str(p.dtype).removeprefix("torch.") for p in parameters if p.dtype != asked})
    if others:
        short = str(asked).removeprefix("torch.")
        raise UserError(
            f"model {name} is in {', '.join(others)}, asked for {short}: cast it, or pass dtype={others[0]!r}"
        )
    provenance = {
        "spec": name,
        "kind": "memory",
        "weights_sha256": hash_state_dict(model.state_dict()),
        "config_sha256": hash_json(model.config.to_dict()),
    }
    return _finish(LoadedModel(name, model, tokenizer, [], provenance, in_memory=True))


def _finish(loaded: LoadedModel) -> LoadedModel:
    loaded.blocks = find_blocks(loaded.name, loaded.model)
    check_blocks(loaded)
    config = text_config(loaded.model.config)
    loaded.provenance |= {
        "architecture": type(loaded.model).__name__,
        "model_type": getattr(config, "model_type", None),
        "layers": len(loaded.blocks),
        "hidden_size": loaded.blocks[-1].width,
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        "max_length": loaded.max_length,
        "tokenizer_sha256": hash_tokenizer(loaded.tokenizer),
        "attention": getattr(config, "_attn_implementation", None),
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "device": str(loaded.device),
    }
    return loaded


def _load_config(given: str, folder: Path, written: dict[str, Any], trust: bool) -> Any:
    model_type = written.get("model_type")
    if "auto_map" in written and model_type not in CONFIG_MAPPING and not trust:
        raise UserError(
            f"model {given!r} needs code that comes with it: read that code, then allow it with "
            "--trust-remote-code"
        )
    if model_type is None:
        raise UserError(
            f"model {given!r}: config.json names no model_type: write it anew with save_pretrained"
        )
    if model_type not in CONFIG_MAPPING and not trust:
        raise UserError(
            f"model {given!r}: transformers {transformers.__version__} does not know model_type "
            f"{model_type!r}: "
            "update transformers, or correct config.json"
        )
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust)
    except Exception as error:
        raise UserError(
            f"model {given!r}: config.json does not fit its model_type: {one_line(error)}"
        ) from error
    _refuse_encoder_decoder(given, config)
    return config


def _refuse_encoder_decoder(given: str, config: Any) -> None:
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(
            f"model {given!r} is an encoder-decoder ({config.model_type}), which has two stacks of layers: "
            "give an encoder or a decoder"
        )


def _load_tokenizer(given: str, folder: Path, trust: bool) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
    except Exception as error:
        raise UserError(f"model {given!r}: its tokenizer cannot be loaded: {one_line(error)}") from error
    # A tokenizer_config.json alone gives a tokenizer of special tokens only, without an error.
    if len(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)) == 0:
        raise UserError(
            f"model {given!r}: its tokenizer has no vocabulary: save it there with save_pretrained"
        )
    return tokenizer


def _load_weights(
    given: str, folder: Path, config: Any, device: torch.device, dtype: torch.dtype, trust: bool
) -> Any:
    try:
        model, report = AutoModel.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation=attention_for(config, device, dtype),
            use_safetensors=True,
            trust_remote_code=trust,
            output_loading_info=True,
        )
    except Exception as error:
        raise UserError(f"model {given!r} cannot be loaded: {one_line(error)}") from error
    missing = sorted(key for key in report.get("missing_keys", ()) if "pooler" not in key.split("."))
    if missing:
        raise UserError(
            f"model {given!r} lacks {len(missing)} weights of {type(model).__name__} (such as "
            f"{missing[0]}): they "
            "would be random, and so would the result; give a complete checkpoint"
        )
    depth = getattr(text_config(config), "num_hidden_layers", None)
    extra = [key for key in report.get("unexpected_keys", ()) if _beyond(key, model, depth)]
    if extra:
        raise UserError(
            f"model {given!r} holds weights of layers beyond the {depth} of its config (such as {extra[0]}): "
            "correct num_hidden_layers"
        )
    return model


def _beyond(key: str, model: nn.Module, depth: int | None) -> bool:
    """Whether an unexpected weight belongs to a block the config leaves out."""
    prefix = getattr(model, "base_model_prefix", "")
    parts = key.removeprefix(f"{prefix}.").split(".")
    lists = {path for path, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    return any(
        part.isdigit() and depth is not None and int(part) >= depth and ".".join(parts[:at]) in lists
        for at, part in enumerate(parts)
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' own bars and loading report; its settings are put back."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


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
