"""A checkpoint's directory → its config, its tokenizer, and a base model with its weights, each checked."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.quantizers.auto import AutoHfQuantizer
from transformers.utils import logging

from cka_tools.errors import UserError, failing_as
from cka_tools.models.attention import attention_for
from cka_tools.models.blocks import OTHERS, Block, find_blocks, text_config, text_part
from cka_tools.models.check import check_blocks, check_padding
from cka_tools.models.folder import ModelSpec, check_folder, hash_json, hash_tokenizer, hash_weight_files, weight_files
from cka_tools.models.language import HEADS, HeadKind, check_head, head_factory
from cka_tools.models.model import LoadedModel
from cka_tools.models.snapshot import fetch_snapshot
from cka_tools.planning import stop_if_planning


@dataclass
class Checkpoint:
    """A checkpoint on this machine before its weights are read.

    Attributes:
        revision: the hub's commit, None for a directory.
        trusted: whether code that came with it may run. allow_bin: whether its weights may be pickled.
        written: its config.json.
        notes: plain sentences for the user.
    """

    spec: ModelSpec
    folder: Path
    revision: str | None
    trusted: bool
    allow_bin: bool
    written: dict[str, Any]
    config: Any
    tokenizer: Any
    notes: list[str]
    _hashed: tuple[Any, str] | None = field(default=None, repr=False)

    @property
    def has_own_code(self) -> bool:
        """Whether classes that came with the checkpoint run, which its hashes do not cover."""
        return self.trusted and "auto_map" in self.written

    @cached_property
    def _tokenizer_sha256(self) -> str:
        return hash_tokenizer(self.tokenizer)

    def fingerprint(self) -> dict[str, Any]:
        """Hashes of weights, config and tokenizer, and the hub's commit; JSON-ready."""
        files = weight_files(self.folder, self.spec.given, allow_bin=self.allow_bin)
        # Gigabytes are read again only where a file was written since.
        state = [(file, stat.st_size, stat.st_mtime_ns) for file in files for stat in (file.stat(),)]
        if self._hashed is None or self._hashed[0] != state:
            self._hashed = state, hash_weight_files(files)
        revision = {} if self.revision is None else {"revision": self.revision}
        method = quantization(self.config)
        return {
            **revision,
            "weights_sha256": self._hashed[1],
            "config_sha256": hash_json(self.written),
            "tokenizer_sha256": self._tokenizer_sha256,
            # What the stored numbers mean is for these packages to say.
            **({} if method is None else {"quantization": {"method": method, "packages": _installed(_QUANTIZERS)}}),
        }


_QUANTIZERS = (
    "bitsandbytes",
    "gptqmodel",
    "autoawq",
    "torchao",
    "compressed-tensors",
    "optimum-quanto",
    "hqq",
    "kernels",
)


def _installed(packages: Iterable[str]) -> dict[str, str]:
    """Versions of those of some packages that are here."""
    found = {}
    for name in packages:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def quantization(config: Any) -> str | None:
    """The method by which a checkpoint's weights are quantized; None where they are not."""
    written = getattr(config, "quantization_config", None)
    if not written:
        return None
    method = written.get("quant_method") if isinstance(written, dict) else written.quant_method
    return str(getattr(method, "value", method))


def open_checkpoint(spec: ModelSpec, *, trust_remote_code: bool = False, allow_bin: bool = False) -> Checkpoint:
    """Find a model (fetch it, if it is on the hub) and read its config and tokenizer.

    Raises:
        UserError: no such model, a file that is missing or damaged, code that is not trusted.
    """
    found = fetch_snapshot(spec, trust_remote_code=trust_remote_code, allow_bin=allow_bin)
    folder = found.folder
    written = check_folder(spec.given, folder, allow_bin=allow_bin)
    with quiet_transformers():
        config = _load_config(spec.given, folder, written, trust_remote_code)
    tokenizer = load_tokenizer(spec.given, folder, trust_remote_code)
    notes, method = found.notes, quantization(config)
    if method is not None:
        notes = [*notes, f"The weights of {spec.given} are quantized ({method}): its features are of these weights."]
    return Checkpoint(spec, folder, found.commit, trust_remote_code, allow_bin, written, config, tokenizer, notes)


def empty_model(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, *, stack: str | None = None) -> Any:
    """The base model on torch's meta device, without its weights; `device` is where it will run.

    Raises:
        UserError: as `load_weights`.
    """
    try:
        with quiet_transformers(), torch.device("meta"):
            model = AutoModel.from_config(checkpoint.config, **_kernels(checkpoint, device, dtype))
    except Exception:
        # Code that comes with a model may not run without data: its weights are loaded, then let go.
        return load_weights(checkpoint, torch.device("cpu"), dtype, allow_unused=True, stack=stack).to("meta")
    return take_stack(checkpoint.spec.given, model, stack)


def take_stack(given: str, model: Any, stack: str | None) -> Any:
    """The part of a model that `stack` names; the model itself where it has one stack of layers.

    Args:
        stack: "encoder", of an encoder-decoder; "text", of a model that has parts for images or sound as well.

    Raises:
        UserError: an encoder-decoder of which no stack was named.
    """
    if getattr(model.config, "is_encoder_decoder", False) and hasattr(model, "decoder"):
        if stack != "encoder":
            raise UserError(
                f"model {given!r} is an encoder-decoder ({model.config.model_type}), which has two stacks of layers: "
                "take its encoder with --stack encoder"
            )
        encoder = model.get_encoder()
        if not hasattr(encoder, "config"):  # FSMT's, which runs inside its model alone
            kind = type(encoder).__name__
            raise UserError(f"model {given!r}: {kind} is not a model of its own, so it cannot be hooked: {OTHERS}")
        return encoder
    part = text_part(model) if stack == "text" else None
    return model if part is None else part


def _kernels(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """What makes a model with weights and one without the same, as transformers is asked for it."""
    attention = attention_for(checkpoint.config, device, dtype)
    return {"dtype": dtype, "attn_implementation": attention, "trust_remote_code": checkpoint.trusted}


def load_weights(
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    *,
    allow_unused: bool = False,
    stack: str | None = None,
    device_map: str | None = None,
    head: HeadKind | None = None,
) -> Any:
    """The base model of a checkpoint, or one stack of it, with its weights, on `device`, in evaluation mode.

    Args:
        head: load the model with this language-model head instead.
        allow_unused: leave weights inside the layers out that the model's class does not use, with a note.
            Those of heads and poolers always are.
        stack: as `take_stack` takes it.
        device_map: "auto" spreads the model over all devices there are.

    Raises:
        UserError: weights that are damaged, missing, not used, of another shape or of more layers than the
            config has.
    """
    stop_if_planning()
    given = checkpoint.spec.given
    quantized = getattr(checkpoint.config, "quantization_config", None)
    # Quantized weights are made on the device where they stay.
    place = device_map or ({"": device} if quantized else None)
    problem = f"model {given!r} cannot be loaded as its config.json says"
    if quantized:
        problem += f", its weights are quantized ({quantization(checkpoint.config)}): install what reads them, or"
        problem += " give a checkpoint in full precision"
        for name in ("bitsandbytes", "transformers.integrations"):  # a line for every product
            getLogger(name).setLevel(ERROR)
    with failing_as(problem), quiet_transformers():
        if isinstance(quantized, dict) and not AutoHfQuantizer.supports_quant_method(quantized):
            raise ValueError("transformers does not know this method")  # and would take the numbers as they stand
        factory = AutoModel if head is None else head_factory(head)
        whole, report = factory.from_pretrained(
            checkpoint.folder,
            config=checkpoint.config,
            use_safetensors=not _is_pickled(checkpoint),
            weights_only=True,
            ignore_mismatched_sizes=True,  # they are refused below, in one line
            output_loading_info=True,
            **({} if place is None else {"device_map": place}),
            **_kernels(checkpoint, device, dtype),
        )
    model = take_stack(given, whole if head is None else whole.base_model, stack)
    wanted = model if head is None else whole
    kind = type(wanted).__name__
    if mismatched := sorted(report.get("mismatched_keys", ())):
        name, found, expected = mismatched[0]
        raise UserError(
            f"model {given!r} holds {len(mismatched)} weights of another shape than its config makes (such as {name}: "
            f"{tuple(found)}, not {tuple(expected)}): correct config.json, or give the weights that belong to it"
        )
    kept = {id(one) for one in (*wanted.parameters(), *wanted.buffers())}
    named = dict([*whole.named_parameters(remove_duplicate=False), *whole.named_buffers(remove_duplicate=False)])
    of_stack = (key for key in report.get("missing_keys", ()) if key not in named or id(named[key]) in kept)
    missing = sorted(key for key in of_stack if "pooler" not in key.split("."))
    if head is not None and missing and not any(key.startswith(f"{whole.base_model_prefix}.") for key in missing):
        raise UserError(
            f"model {given!r} lacks the weights of a {HEADS[head]} head (such as {missing[0]}): give a checkpoint "
            f"that was saved as {kind}"
        )
    if missing:
        raise UserError(
            f"model {given!r} lacks {len(missing)} weights of {kind} (such as {missing[0]}): they would be "
            "random, and so would the result; give a complete checkpoint"
        )
    blocks = find_blocks(given, model)
    inside = next(path for path, module in whole.named_modules() if module is model)
    unused = _of_blocks(report.get("unexpected_keys", ()), f"{inside}." if inside else "", whole, blocks)
    if beyond := [key for key, layer in unused.items() if layer >= len(blocks)]:
        raise UserError(
            f"model {given!r} holds weights of layers beyond the {len(blocks)} of its config (such as "
            f"{beyond[0]}): correct num_hidden_layers"
        )
    if unused:
        few = f"{', '.join(list(unused)[:3])}{', …' if len(unused) > 3 else ''}"
        if not allow_unused:
            raise UserError(
                f"model {given!r} holds {len(unused)} weights inside its layers that {kind} does not use "
                f"({few}): correct config.json, or leave them out with --allow-unused-weights"
            )
        note = f"{len(unused)} weights inside the layers of {given} were not used: {few}."
        checkpoint.notes += [] if note in checkpoint.notes else [note]
    return (wanted if place else wanted.to(device)).eval()


def _is_pickled(checkpoint: Checkpoint) -> bool:
    files = weight_files(checkpoint.folder, checkpoint.spec.given, allow_bin=checkpoint.allow_bin)
    return files[0].suffix != ".safetensors"


def _of_blocks(keys: Iterable[str], inside: str, whole: nn.Module, blocks: Sequence[Block]) -> dict[str, int]:
    """Those of some weights' names that lie inside a block, sorted, each with the block's index.

    Args:
        inside: where the model that has the blocks lies in the whole one, with a point behind it.
    """
    where = (inside + blocks[0].path.rpartition(".")[0]).split(".")
    place = r"\.".join(r"\d+" if name.isdigit() else re.escape(name) for name in where)  # ALBERT has groups of blocks
    pattern = re.compile(rf"(?:{re.escape(str(whole.base_model_prefix))}\.)?{place}\.(\d+)\.")
    return {key: int(match[1]) for key in sorted(keys) if (match := pattern.match(key))}


def finish(loaded: LoadedModel) -> LoadedModel:
    """Find the blocks of a model, check that hooks on them see the residual stream, and describe it.

    Raises:
        UserError: as `find_blocks`, `check_blocks`, `check_padding` and `check_head`.
    """
    loaded.blocks = find_blocks(loaded.name, loaded.model)
    check_blocks(loaded)
    check_padding(loaded)
    if loaded.language_model is not None:
        check_head(loaded)
    loaded.provenance |= describe(loaded)
    return loaded


def describe(model: LoadedModel) -> dict[str, Any]:
    """What provenance says of a model, loaded or not, besides where it came from; JSON-ready."""
    config = text_config(model.model.config)
    return {
        "architecture": type(model.model).__name__,
        "model_type": getattr(config, "model_type", None),
        "layers": len(model.blocks),
        "hidden_size": model.blocks[-1].width or model.hidden_size or None,
        "final_norm": model.final_norm,
        "parameters": parameters_of(model.model),
        "max_length": model.max_length,
        "attention": getattr(config, "_attn_implementation", None),
        "dtype": model.dtype_name,
        "device": str(model.device),
    }


def parameters_of(model: Any) -> int:
    """How many parameters a model has; of packed ones (two of 4 bits in a byte) how many they stand for."""
    if quantization(model.config) is not None and hasattr(model, "num_parameters"):
        return int(model.num_parameters())
    return sum(p.numel() for p in model.parameters())


class UntrustedCode(UserError):  # noqa: N818 - a kind of UserError that a fingerprint has to know
    """A model that needs code that comes with it, which is not allowed to run."""


def _load_config(given: str, folder: Path, written: dict[str, Any], trust: bool) -> Any:
    model_type = written.get("model_type")
    if "auto_map" in written and model_type not in CONFIG_MAPPING and not trust:
        raise UntrustedCode(
            f"model {given!r} needs code that comes with it: read that code, then allow it with --trust-remote-code"
        )
    if model_type is None:
        raise UserError(f"model {given!r}: config.json names no model_type: write it with save_pretrained")
    if model_type not in CONFIG_MAPPING and not trust:
        raise UserError(
            f"model {given!r}: transformers {transformers.__version__} does not know model_type "
            f"{model_type!r}: update transformers, or correct config.json"
        )
    with failing_as(f"model {given!r}: config.json does not fit its model_type"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust)
    return config


def load_tokenizer(given: str, folder: Path, trust: bool = False) -> Any:
    """The tokenizer in a directory.

    Raises:
        UserError: it cannot be loaded, or has no vocabulary.
    """
    cure = "write it with tokenizer.save_pretrained"
    with failing_as(f"model {given!r}: its tokenizer cannot be loaded, {cure}"), quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
        tokenizer("a b")  # some are found to be damaged by their first text
    # A tokenizer_config.json alone gives a tokenizer of special tokens only, without an error.
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise UserError(f"model {given!r}: its tokenizer has no vocabulary: save it with save_pretrained")
    return tokenizer


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without transformers' own bars and loading report; its settings are put back."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
