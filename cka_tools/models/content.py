"""What a model in memory does beyond its weights: the class and the plain attributes of every module."""

import functools
import inspect
import json
import sys
import types
from enum import Enum
from types import NoneType
from typing import Any

import numpy as np
import torch
from torch import nn

from cka_tools.models.folder import hash_json, hash_state_dict

#: What torch keeps in every module (parameters, buffers and hooks are looked at on their own), and what says
#: where a model is from or that it was looked at, not what it does.
_NOT_CONTENT = set(vars(nn.Module())) | {
    "_name_or_path", "name_or_path", "transformers_version", "generation_config", "warnings_issued",
    "_is_hf_initialized", "_output_capturing_hooks_installed", "_commit_hash", "_hf_peft_config_loaded",
}  # fmt: skip

#: Whose text is their content.
_SHOWN = (Enum, np.generic, torch.dtype, torch.device, bytes, range)


class NotKeyed(Exception):  # noqa: N818 - a condition for the caller to name, not a fault
    """A model whose output cannot be told from its content; the message says why."""


def hash_attributes(model: nn.Module) -> tuple[str, list[object]]:
    """sha256 of each module's class and of all that it holds beside parameters, buffers and modules.

    Switches, scales, epsilons, activation functions and which adapters are active are such attributes.

    Returns:
        The hash, and the objects that were found, whose classes' code it does not cover.

    Raises:
        NotKeyed: an attribute whose content cannot be told, by name.
    """
    reader = _Reader({id(module): name for name, module in model.named_modules()})
    content = []
    for name, module in model.named_modules(remove_duplicate=False):
        held = reader.attributes(module, f"{name}." if name else "")
        content.append([name, _qualified(type(module)), held])
    return hash_json(content), list(reader.objects.values())


class _Reader:
    """Makes JSON data of what modules hold; `objects` are instances of classes that were met, by id."""

    def __init__(self, modules: dict[int, str]) -> None:
        self._modules = modules
        self._seen: dict[int, Any] = {}
        self.objects: dict[int, object] = {}

    def attributes(self, value: object, place: str) -> list[Any]:
        """What an object holds, in the form of `mapping`."""
        held = getattr(value, "__dict__", {}).items()
        return self.mapping({key: one for key, one in held if key not in _NOT_CONTENT}, place)

    def mapping(self, values: dict[Any, Any], place: str) -> list[Any]:
        """Items in an order that does not depend on when they were set."""
        items = [[self.read(key, place), self.read(value, f"{place}{key}")] for key, value in values.items()]
        return sorted(items, key=lambda item: json.dumps(item, sort_keys=True))

    def read(self, value: Any, place: str) -> Any:
        """JSON data that is equal for equal content alone.

        Raises:
            NotKeyed: an object that does not show its content.
        """
        kind = _qualified(type(value))
        if type(value) in (NoneType, bool, int, float, str) or isinstance(value, _SHOWN):
            return [kind, repr(value)]
        if isinstance(value, torch.Tensor):
            return [kind, hash_state_dict({"": value})]
        if isinstance(value, np.ndarray) and value.dtype != object:
            return [kind, hash_state_dict({"": torch.from_numpy(np.ascontiguousarray(value))})]
        if id(value) in self._modules:
            return ["module", self._modules[id(value)]]
        if isinstance(value, type) or inspect.isroutine(value):
            return [kind, self._named(value, place)]
        if id(value) not in self._seen:
            # Whatever leads back to itself says no more the second time.
            self._seen[id(value)] = [kind, "seen above"]
            self._seen[id(value)] = [kind, self._inside(value, place)]
            self.objects[id(value)] = value  # alive, so that no other object gets its id
        return self._seen[id(value)]

    def _inside(self, value: Any, place: str) -> Any:
        if isinstance(value, functools.partial):
            return self.read((value.func, value.args, value.keywords), place)
        parts: list[Any] = []
        if isinstance(value, dict):
            parts.append(self.mapping(dict(value), f"{place}."))
        elif isinstance(value, set | frozenset):
            parts.append(sorted(json.dumps(self.read(one, place)) for one in value))
        elif isinstance(value, list | tuple):
            parts.append([self.read(one, place) for one in value])
        elif isinstance(value, nn.Module) or not hasattr(value, "__dict__"):
            raise NotKeyed(f"what {place} holds ({type(value).__name__}) does not show its content")
        return [*parts, self.attributes(value, f"{place}.")]

    def _named(self, value: Any, place: str) -> Any:
        """A class or a function by its name, where that is what its module calls it."""
        if isinstance(value, types.MethodType):
            return [self.read(value.__self__, place), self._named(value.__func__, place)]
        home: Any = sys.modules.get(str(getattr(value, "__module__", None)))
        name = str(getattr(value, "__qualname__", ""))
        for part in name.split("."):
            home = getattr(home, part, None)
        if home is not value:
            raise NotKeyed(f"{place} is a function that no module names ({name})")
        self.objects[id(value)] = value
        return _qualified(value)


def _qualified(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"
