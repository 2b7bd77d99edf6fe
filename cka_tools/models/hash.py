"""Content hashes that say which weights, which config and which tokenizer a number came from."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch


def hash_file(path: Path) -> str:
    """sha256 of one file, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_weight_files(files: Iterable[Path]) -> str:
    """sha256 of a checkpoint: the file's own, or of `digest  name` lines where it is in shards."""
    hashes = [(path.name, hash_file(path)) for path in files]
    if len(hashes) == 1:
        return hashes[0][1]
    listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes))
    return hashlib.sha256(listing.encode()).hexdigest()


def hash_state_dict(state: Mapping[str, torch.Tensor]) -> str:
    """sha256 of a state dict: names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def hash_tokenizer(tokenizer: Any) -> str:
    """sha256 of what makes a tokenizer's ids: vocabulary, rules, special tokens; not its name or path."""
    content: dict[str, Any] = {
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "truncation_side": tokenizer.truncation_side,
        "split_special_tokens": getattr(tokenizer, "split_special_tokens", False),
    }
    if tokenizer.is_fast:
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        # Both are a call's settings, left over in the backend from the last call or from the file.
        content["backend"] = {k: v for k, v in backend.items() if k not in {"truncation", "padding"}}
    else:
        content["class"] = type(tokenizer).__name__
        content["vocabulary"] = tokenizer.get_vocab()
        left_out = {"name_or_path", "vocab_file", "tokenizer_file", "chat_template"}
        content["settings"] = {k: v for k, v in tokenizer.init_kwargs.items() if k not in left_out}
    return hash_json(content)


def hash_json(value: Any) -> str:
    """sha256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
