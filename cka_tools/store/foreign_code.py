"""Code that runs in a model's forward pass and is not of torch or transformers."""

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cka_tools.extraction.activations import forward_options
from cka_tools.models.hash import hash_file
from cka_tools.models.model import LoadedModel

_KNOWN = {"torch", "transformers", "tokenizers", "builtins"}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_PROBE_TOKENS = 8


class NotKeyed(Exception):  # noqa: N818 - a condition for the caller to name, not a fault
    """A model whose output cannot be told from its content; the message says why."""


def hash_foreign_code(loaded: LoadedModel) -> dict[str, str]:
    """sha256 of the source files of classes that came with the model or are the caller's own, by file name.

    Of remote code every file beside them counts, as they import each other.

    Raises:
        NotKeyed: a class without a source file, a replaced `forward`, or hooks that change the output.
    """
    objects = [loaded.model.config, loaded.tokenizer, *loaded.model.modules()]
    for module in loaded.model.modules():
        if "forward" in vars(module):
            raise NotKeyed("a module's forward was replaced")
    if _foreign_hooks(loaded.model) and _hooks_change_output(loaded):
        raise NotKeyed("its modules have hooks that change the output")
    hashes: dict[str, str] = {}
    for path in sorted(_source_files(objects)):
        # Two folders may hold files of one name: the contents then count together.
        earlier = hashes.get(path.name, "")
        hashes[path.name] = hashlib.sha256((earlier + hash_file(path)).encode()).hexdigest()
    return hashes


def _source_files(objects: Iterable[Any]) -> set[Path]:
    files: set[Path] = set()
    for name in {cls.__module__ for thing in objects for cls in type(thing).__mro__}:
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


def _foreign_hooks(model: nn.Module) -> list[tuple[dict[int, Any], int]]:
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
    options = forward_options(loaded)

    def output() -> torch.Tensor:
        with loaded.evaluating():
            result = loaded.model(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
        return result[0] if isinstance(result, tuple) else result.last_hidden_state

    hooked = output()
    held = [(hooks, hooks.copy()) for hooks, _ in _foreign_hooks(loaded.model)]
    try:
        for hooks, key in _foreign_hooks(loaded.model):
            del hooks[key]
        bare = output()
    finally:
        for hooks, before in held:
            hooks.clear()
            hooks.update(before)
    return not torch.equal(hooked, bare)
