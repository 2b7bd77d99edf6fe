"""Checks at load, on one small batch: hooks see what they claim to see."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import nn

from cka_tools.errors import UserError
from cka_tools.models.blocks import Block, block_input, block_output
from cka_tools.models.model import LoadedModel


def check_blocks(loaded: LoadedModel) -> None:
    """Compare each block's output with what the model itself reports as its hidden states.

    Below the last layer they must be the same tensor. For the last layer the hook, or the final norm of it,
    must equal the last entry. Branch modules are kept only where input and branches give the block's output.
    Fills in each block's width, `loaded.final_norm`, and whether the first block's input is the first of the
    hidden states.

    Raises:
        UserError: naming the model and the first layer that does not fit.
    """
    paths = [p for block in loaded.blocks for p in (block.path, block.attention, block.mlp) if p is not None]
    ids = torch.arange(2 * _LENGTH).reshape(2, _LENGTH) % loaded.vocabulary
    mask = torch.ones_like(ids)
    mask[1, _LENGTH - 2 :] = 0
    with loaded.evaluating(), _own_hooks_only(loaded.model):
        output, seen = _run(loaded, ids, mask, paths, output_hidden_states=True)
        states: Sequence[torch.Tensor] = getattr(output, "hidden_states", None) or ()
        if len(states) != len(loaded.blocks) + 1:
            found = f"{len(loaded.blocks)} blocks were found, but {len(states) or 'none'}"
            raise _no_hooks(loaded, f"{found} hidden states come out of it")
        for block in loaded.blocks:
            layer, calls = f"layer {block.index} ({block.path})", seen[block.path]
            if len(calls) != 1:
                raise _no_hooks(loaded, f"{layer} ran {len(calls)} times in one forward pass, not once")
            output = calls[0][1]
            if not isinstance(output, torch.Tensor) or output.shape[:2] != (2, _LENGTH):
                shape = "(batch, tokens, features)"
                raise _no_hooks(loaded, f"{layer} does not return hidden states of shape {shape}")
            block.width = int(output.shape[-1])
            if block is loaded.blocks[-1]:
                loaded.final_norm, same = _final_norm(loaded, output, states[-1])
            else:
                same = _same(output, states[block.index + 1])
            if not same:
                reported = "the hidden state the model reports there"
                raise _no_hooks(loaded, f"the output of {layer} is not {reported}")
        given = seen[loaded.blocks[0].path][0][0]
        loaded.embeddings_seen = isinstance(given, torch.Tensor) and _same(given, states[0])
        modules = dict(loaded.model.named_modules())
        for block in loaded.blocks:
            if block.attention is not None and not _branches_add_up(block, seen, modules):
                # Sites `attention` and `mlp` are refused for this block; its residual stream is as checked.
                block.attention = block.mlp = block.norms = None


_LENGTH = 8
_LONG = 24

_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Most that rounding may move a token's hidden state, relative to its norm, from one shape to another.

Parts of a float64 model may compute in float32 (softmax in Gemma 2)."""


def check_padding(loaded: LoadedModel) -> None:
    """Run a short row alone, padded and beside a longer one, and compare its tokens in every layer.

    Padding is on the right, as in every batch that is run. Where the tokens differ the model is marked as one
    that `needs_equal_lengths`, with a note.

    Raises:
        UserError: the row differs even beside another of its own length, or from one pass to the next.
    """
    # Special tokens have a meaning of their own, such as where a sequence ends.
    special = set(loaded.tokenizer.all_special_ids)
    long = min(_LONG, loaded.max_length or _LONG)
    free = (token for token in range(loaded.vocabulary) if token not in special)
    ordinary = list(islice(free, 2 * long)) or [0]
    tokens = torch.tensor([ordinary[at % len(ordinary)] for at in range(2 * long)]).reshape(2, long)
    short = min(_LENGTH, long - 1)
    row, other, padded = tokens[:1, :short], tokens[1:, :short], tokens[:1].clone()
    padded[:, short:] = loaded.pad_id
    with loaded.evaluating():
        alone = _tokens_of_row(loaded, row, short)
        batches = (row, torch.cat([row, other]))
        if any(_apart(loaded, alone, _tokens_of_row(loaded, ids, short)) for ids in batches):
            raise UserError(
                f"model {loaded.name!r} gives a document other hidden states on another pass or beside "
                "another document of its length: its numbers would depend on the batches"
            )
        batches = (padded, torch.cat([padded, tokens[1:]]))
        if any(_apart(loaded, alone, _tokens_of_row(loaded, ids, short)) for ids in batches):
            loaded.needs_equal_lengths = True
            how = "in batches of documents of equal length, without padding"
            loaded.notes.append(f"Padding changes the hidden states of {loaded.name}: it runs {how}.")


def _tokens_of_row(loaded: LoadedModel, ids: torch.Tensor, length: int) -> list[torch.Tensor]:
    """The first row's hidden states in every layer, (length, features), the tokens beyond it masked."""
    mask = torch.ones_like(ids)
    mask[0, length:] = 0
    _, seen = _run(loaded, ids, mask, [block.path for block in loaded.blocks])
    return [seen[block.path][0][1][0, :length].double().cpu() for block in loaded.blocks]


def _apart(loaded: LoadedModel, first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    """Whether a token differs beyond rounding in some layer; an overflow (reported later) is not counted."""
    for a, b in zip(first, second, strict=True):
        moved, size = (a - b).norm(dim=-1), a.norm(dim=-1)
        if bool((moved > _TOLERANCE[loaded.dtype] * size)[torch.isfinite(moved)].any()):
            return True
    return False


def _run(
    loaded: LoadedModel, ids: torch.Tensor, mask: torch.Tensor, paths: list[str], **options: Any
) -> tuple[Any, dict[str, list[Any]]]:
    """One forward pass, and (input, output) of every call of the modules, by path."""
    modules = dict(loaded.model.named_modules())
    seen: dict[str, list[Any]] = {path: [] for path in paths}

    def record(path: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        seen[path].append((block_input(args, kwargs), block_output(output)))

    inputs = {"input_ids": ids.to(loaded.device), "attention_mask": mask.to(loaded.device)}
    with ExitStack() as hooks:
        for path in paths:
            hook = modules[path].register_forward_hook(partial(record, path), with_kwargs=True)
            hooks.enter_context(hook)
        try:
            return loaded.model(**inputs, return_dict=True, **options), seen
        except Exception as error:
            raise UserError(
                f"model {loaded.name!r}: {type(loaded.model).__name__} does not run on token ids and an "
                f"attention mask ({type(error).__name__}): give a text encoder or decoder"
            ) from error


def _final_norm(loaded: LoadedModel, output: torch.Tensor, last: torch.Tensor) -> tuple[str | None, bool]:
    """Path of the norm that turns the last block's output into the last hidden state, and whether one does.

    None where the two are equal.
    """
    if _same(output, last):
        return None, True
    inside = tuple(f"{block.path}." for block in loaded.blocks)
    for path, module in loaded.model.named_modules():
        is_norm = "norm" in type(module).__name__.lower() and not path.startswith(inside)
        if is_norm and output.shape == last.shape and _same(module(output), last):
            return path, True
    return None, False


def _branches_add_up(block: Block, seen: dict[str, list[Any]], modules: dict[str, nn.Module]) -> bool:
    branches = [seen[str(path)] for path in (block.attention, block.mlp)]
    given, output = seen[block.path][0]
    if any(len(calls) != 1 for calls in branches) or not isinstance(given, torch.Tensor):
        return False
    attention, mlp = (calls[0][1] for calls in branches)
    if not attention.shape == mlp.shape == given.shape == output.shape:
        return False
    if block.norms is not None:
        first, second = (modules[path] for path in block.norms)
        return _close(second(mlp + first(attention + given)), output)
    # Both orders of addition are in use, and they round differently.
    return _close((given + attention) + mlp, output) or _close((mlp + attention) + given, output)


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal, where an overflow (reported later, by its document) counts as equal to itself."""
    return a.shape == b.shape and (a is b or torch.allclose(a, b, rtol=0.0, atol=0.0, equal_nan=True))


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal to one unit in the last place of the larger terms."""
    scale = torch.finfo(b.dtype).eps * max(1.0, float(b.abs().max()))
    return torch.allclose(a, b, rtol=torch.finfo(b.dtype).eps, atol=scale, equal_nan=True)


def _no_hooks(loaded: LoadedModel, problem: str) -> UserError:
    return UserError(f"model {loaded.name!r}: {problem}: this architecture cannot be hooked")


@contextmanager
def _own_hooks_only(model: nn.Module) -> Iterator[None]:
    """Take away the hooks transformers installs for good once hidden states have been asked for."""
    before = {module: set(module._forward_hooks) for module in model.modules()}
    flags = [m for m in model.modules() if not getattr(m, "_output_capturing_hooks_installed", False)]
    try:
        yield
    finally:
        for module in model.modules():
            for key in set(module._forward_hooks) - before[module]:
                module._forward_hooks.pop(key)
        for module in flags:
            module.__dict__.pop("_output_capturing_hooks_installed", None)
