"""The key of an entry: everything that can change a bit of its features, and nothing else."""

import hashlib
import inspect
import os
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from cka_tools.extraction.activations import PooledForward
from cka_tools.extraction.extract import Prepared, feature_dtype
from cka_tools.extraction.tokens import TextDocument, TokenTable
from cka_tools.models.content import NotKeyed, hash_attributes
from cka_tools.models.folder import hash_file, hash_json, hash_state_dict
from cka_tools.models.model import LoadedModel
from cka_tools.settings import Settings
from cka_tools.store.entry import EntryKey, make_key

# Both pick kernels; libraries read them when they start.
_KERNEL_VARIABLES = ("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE")


def numerics(device: torch.device) -> dict[str, Any]:
    """JSON-ready state of everything below the model's own code.

    The number of threads belongs to it on a CPU: a float32 product of (7, 768) and (768, 768) was seen to
    differ between one thread and two. A CPU is named by its instruction set, not by its model.
    """
    common = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": device.type,
        "float32_precision": _float32_precision(),
        "autocast": str(torch.get_autocast_dtype(device.type)) if torch.is_autocast_enabled(device.type) else None,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "default_dtype": str(torch.get_default_dtype()),
    }
    if device.type == "cuda":
        return common | _cuda(device)
    # On Apple's GPU some operations fall back to the CPU.
    return common | {
        "architecture": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "flush_denormal": bool(torch.tensor([1e-40]).mul(1.0).item() == 0.0),
        "mkldnn": torch.backends.mkldnn.enabled,
        "environment": {name: os.environ[name] for name in _KERNEL_VARIABLES if name in os.environ},
    }


def _cuda(device: torch.device) -> dict[str, Any]:
    cuda = torch.backends.cuda
    return {
        "gpu": torch.cuda.get_device_name(device),
        "cuda": torch.version.cuda or torch.version.hip,
        "cudnn": torch.backends.cudnn.version(),
        "reduced_precision": [
            str(cuda.matmul.allow_fp16_reduced_precision_reduction),
            str(cuda.matmul.allow_bf16_reduced_precision_reduction),
        ],
        "attention_kernels": [
            cuda.flash_sdp_enabled(),
            cuda.mem_efficient_sdp_enabled(),
            cuda.math_sdp_enabled(),
            cuda.cudnn_sdp_enabled(),
        ],
    }


def _float32_precision() -> list[str]:
    """What float32 products may be rounded to, as the older and the newer settings of torch say it."""
    backends = torch.backends
    settings: list[Callable[[], object]] = [
        torch.get_float32_matmul_precision,
        lambda: backends.cuda.matmul.allow_tf32,
        lambda: backends.cudnn.allow_tf32,
    ]
    places = [backends, backends.cuda.matmul, backends.cudnn, getattr(backends.mkldnn, "matmul", None)]
    settings += [partial(getattr, place, "fp32_precision", None) for place in places]
    return [_read(setting) for setting in settings]


def _read(setting: Callable[[], object]) -> str:
    try:
        return str(setting())
    except RuntimeError:  # torch does not answer by the older names once the newer were used
        return "mixed"


_KNOWN = {"torch", "transformers", "tokenizers", "builtins"}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_PROBE_TOKENS = 8


def hash_custom_code(loaded: LoadedModel, held: Sequence[object] = ()) -> dict[str, str]:
    """sha256 of the source files of classes that came with the model or are the caller's own, by file name.

    Of remote code every file beside them counts, as they import each other.

    Args:
        held: what its modules hold, whose classes and functions count too.

    Raises:
        NotKeyed: a class without a source file, a replaced `forward`, or hooks that change the output.
    """
    objects = [loaded.model.config, loaded.tokenizer, *loaded.model.modules(), *held]
    for module in loaded.model.modules():
        if "forward" in vars(module):
            raise NotKeyed("a module's forward was replaced")
    if _custom_hooks(loaded.model) and _hooks_change_output(loaded):
        raise NotKeyed("its modules have hooks that change the output")
    hashes: dict[str, str] = {}
    for path in sorted(_source_files(objects)):
        # Two folders may hold files of one name: the contents then count together.
        earlier = hashes.get(path.name, "")
        hashes[path.name] = hashlib.sha256((earlier + hash_file(path)).encode()).hexdigest()
    return hashes


def _source_files(objects: Iterable[Any]) -> set[Path]:
    files: set[Path] = set()
    for name in {of.__module__ for thing in objects for of in (*type(thing).__mro__, *_code(thing))}:
        top = name.split(".")[0]
        if top in _KNOWN or top in sys.stdlib_module_names - {"__main__"}:
            continue
        source = getattr(sys.modules.get(name), "__file__", None)
        if source is None or not Path(source).is_file():
            raise NotKeyed(f"its class is defined in {name}, which has no source file")
        files.add(Path(source))
        if top == "transformers_modules":
            files.update(Path(source).parent.glob("*.py"))
    return files


def _code(thing: Any) -> list[Any]:
    """A function or class itself; of a module its class's forward, which another may have put there."""
    if isinstance(thing, nn.Module):
        return [type(thing).forward]
    return [thing] if isinstance(thing, type) or inspect.isroutine(thing) else []


def _custom_hooks(model: nn.Module) -> list[tuple[dict[int, Any], int]]:
    """Forward hooks that neither torch nor transformers set: the module's dictionary, the key in it."""
    return [
        (hooks, key)
        for module in model.modules()
        for hooks in (getattr(module, kind) for kind in _HOOKS)
        for key, hook in hooks.items()
        if str(getattr(hook, "__module__", "")).split(".")[0] not in _KNOWN
    ]


def _hooks_change_output(loaded: LoadedModel) -> bool:
    """Whether a short forward pass gives other bits without the caller's hooks. They are put back."""
    ids = (torch.arange(_PROBE_TOKENS) % loaded.vocabulary).unsqueeze(0).to(loaded.device)

    def output() -> torch.Tensor:
        with loaded.evaluating():
            result = loaded.run(ids, torch.ones_like(ids))
        return result[0] if isinstance(result, tuple) else result.last_hidden_state

    hooked = output()
    held = [(hooks, hooks.copy()) for hooks, _ in _custom_hooks(loaded.model)]
    try:
        for hooks, key in _custom_hooks(loaded.model):
            del hooks[key]
        bare = output()
    finally:
        for hooks, before in held:
            hooks.clear()
            hooks.update(before)
    return not torch.equal(hooked, bare)


#: Raised whenever the same key would give other features or another layout of the files.
FORMAT = 2

# What a config says of where it was loaded from and by whom; versions enter the key on their own.
_NOT_CONTENT = {"_name_or_path", "name_or_path", "transformers_version"}


def entry_key(
    forward: PooledForward,
    table: TokenTable,
    prepared: Prepared,
    documents: Sequence[TextDocument],
    settings: Settings,
    content: dict[str, Any] | None = None,
) -> EntryKey:
    """Key of one model's features of the prepared documents. Names, paths and times are not in it.

    Args:
        content: what tells the model from others, where that is known without its weights in memory.

    Raises:
        NotKeyed: the model does something that its content does not tell.
    """
    model = forward.model
    return make_key(
        {
            "format": FORMAT,
            "model": _model_content(model) if content is None else content,
            "documents": _hash_texts(documents[int(row)].text for row in prepared.kept),
            "tokens": _hash_arrays(
                table.ids, table.ordinary, table.offsets, *([] if table.types is None else [table.types])
            ),
            "pad_id": table.pad_id,
            "special_tokens": sorted(map(int, model.tokenizer.all_special_ids)),
            "max_length": prepared.max_length,
            "padding_side": "right",
            "plan": prepared.plan.record()["sha256"],
            "pooling": settings.pooling,
            "token_draws": None
            if prepared.positions is None
            else {
                "seed": settings.seed,
                "per_document": settings.tokens_per_document,
                "positions": _hash_arrays(prepared.positions),
            },
            "sites": settings.sites,
            "layers": forward.layers,
            "features": feature_dtype(model).name,
            "numerics": numerics(model.device),
        }
    )


def known_content(model: LoadedModel, fingerprint: dict[str, Any]) -> dict[str, Any]:
    """What tells a model that is not in memory: its source's fingerprint without the name it was given."""
    return _told_either_way(model) | {
        "files": {k: v for k, v in fingerprint.items() if k.endswith("_sha256") and k != "config_sha256"},
        "mask": fingerprint.get("mask"),
        "dtype": str(model.dtype),
    }


def _model_content(model: LoadedModel) -> dict[str, Any]:
    stored = model.model.state_dict()
    # Rotary frequencies and the like: not among the weights, and a caller may have changed them.
    others = {name: buffer for name, buffer in model.model.named_buffers() if name not in stored}
    attributes, held = hash_attributes(model.model)
    return _told_either_way(model) | {
        "weights": model.provenance.get("weights_sha256") or hash_state_dict(stored),
        "buffers": hash_state_dict(others),
        "tokenizer": model.provenance["tokenizer_sha256"],
        "attributes": attributes,
        "code": hash_custom_code(model, held),
        "dtypes": sorted({str(p.dtype) for p in model.model.parameters()}),
    }


def _told_either_way(model: LoadedModel) -> dict[str, Any]:
    """What is said of a model with and without its weights in memory."""
    kind = type(model.model)
    return {
        "class": f"{kind.__module__.split('.')[0]}.{kind.__qualname__}",
        "config": hash_json(_config_content(model.model.config.to_dict())),
        "attention": model.provenance["attention"],
    }


def _config_content(value: Any) -> Any:
    """A config without what its place and time put into it, also in nested configs."""
    if isinstance(value, dict):
        return {str(k): _config_content(v) for k, v in value.items() if k not in _NOT_CONTENT}
    if isinstance(value, list | tuple):
        return [_config_content(v) for v in value]
    return value


def _hash_texts(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        content = text.encode("utf-8", "surrogatepass")
        # The length first: ["ab", "c"] and ["a", "bc"] are two corpora.
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


def _hash_arrays(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
