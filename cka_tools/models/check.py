"""Checks at load, on one small batch: hooks see what they claim to see."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import nn

from cka_tools.errors import UserError, one_line
from cka_tools.models.blocks import OTHERS, Block, block_input, block_output, no_text, own_tokens
from cka_tools.models.model import LoadedModel


def check_blocks(loaded: LoadedModel) -> None:
    """Compare each block's output with what the model itself reports as its hidden states.

    Below the last layer they must be the same tensor. For the last layer the hook, or what the model makes of it
    behind its blocks (the final norm), must equal the last entry. Branch modules are kept only where input and
    branches give the block's output. Fills in each block's width, `loaded.final_norm`, and whether the first
    block's input is the first of the hidden states.

    Raises:
        UserError: naming the model and the first layer that does not fit.
    """
    inside = tuple(f"{block.path}." for block in loaded.blocks)
    behind = [path for path, module in loaded.model.named_modules() if path and not f"{path}.".startswith(inside)]
    paths = [block.path for block in loaded.blocks] + [p for block in loaded.blocks for c in _tried(block) for p in c]
    ids = torch.arange(2 * _LENGTH).reshape(2, _LENGTH) % loaded.vocabulary
    mask = torch.ones_like(ids)
    mask[1, _LENGTH - 2 :] = 0
    with loaded.evaluating(), _own_hooks_only(loaded.model):
        output, seen = _run(loaded, ids, mask, [*dict.fromkeys([*paths, *behind])], output_hidden_states=True)
        states: Sequence[torch.Tensor] = getattr(output, "hidden_states", None) or ()
        if len(states) != len(loaded.blocks) + 1:
            found = f"{len(loaded.blocks)} blocks were found, but {len(states) or 'none'}"
            raise _no_hooks(loaded, f"{found} hidden states come out of it")
        outputs = [_residual(loaded, block, seen[block.path]) for block in loaded.blocks]
        # RWKV reports no embeddings but, at the end, the last block's output before and after the final norm.
        first = 1 if len(outputs) == 1 or not _same(outputs[0], states[0]) else 0
        for block, hidden in zip(loaded.blocks, outputs, strict=True):
            block.width = int(hidden.shape[-1])
            reported = states[block.index + first]
            # RWKV halves the stream every few layers, which no centred and normalized measure sees.
            same = _same(hidden, reported) or _same(hidden / 2, reported)
            if block is loaded.blocks[-1]:
                loaded.final_norm, through = _final_norm(loaded, hidden, states[-1], behind, seen)
                same = through or (first == 0 and same)
            if not same:
                where = f"layer {block.index} ({block.path})"
                raise _no_hooks(loaded, f"the output of {where} is not the hidden state the model reports there")
        given = own_tokens(seen[loaded.blocks[0].path][0][0], _LENGTH)
        loaded.embeddings_seen = isinstance(given, torch.Tensor) and _same(given, states[0])
        modules = dict(loaded.model.named_modules())
        for block in loaded.blocks:
            # None: sites `attention` and `mlp` are refused for this block; its residual stream is as checked.
            proven = (paths for paths in _tried(block) if _branches_add_up(paths, block, seen, modules))
            block.take_branches(next(proven, None))


def _tried(block: Block) -> list[tuple[str, ...]]:
    """What the branches of a block may be, the present guess first."""
    guess = () if block.attention is None else ((block.attention, str(block.mlp), *(block.norms or ())),)
    return list(dict.fromkeys([*guess, *block.candidates]))


def _residual(loaded: LoadedModel, block: Block, calls: list[Any]) -> torch.Tensor:
    """The hidden states of the tokens that a block was given, (2, _LENGTH, features).

    Raises:
        UserError: the block did not run as often as it has layers (once, but in ALBERT), or returns something else.
    """
    layer = f"layer {block.index} ({block.path})"
    if len(calls) != block.calls:
        expected = "once" if block.calls == 1 else f"{block.calls} times"
        raise _no_hooks(loaded, f"{layer} ran {len(calls)} times in one forward pass, not {expected}")
    output = own_tokens(calls[block.call][1], _LENGTH)
    if not isinstance(output, torch.Tensor) or output.dim() != 3 or output.shape[:2] != (2, _LENGTH):
        found = f"{tuple(output.shape)}" if isinstance(output, torch.Tensor) else type(output).__name__
        expected = f"(2, {_LENGTH}, features) for 2 documents of {_LENGTH} tokens"
        raise _no_hooks(loaded, f"{layer} returns {found}, not {expected}")
    return output


_LENGTH = 8
_LONG = 24

_STEPS = 3
"""Modules that may stand between the last block's output and the last hidden state."""

_WHOLE = (201, 300)
"""Tokens of a longer row and of its padded form: some attend in pieces of up to some hundred (Reformer)."""

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
    # BigBird chooses its attention by the length of a batch.
    needed = getattr(loaded.model, "attention_type", None) == "block_sparse"
    long = min(_LONG, loaded.max_length or _LONG)
    short = min(_LENGTH, long - 1)
    tokens = _ordinary_tokens(loaded, long)
    row, other = tokens[:1, :short], tokens[1:, :short]
    with loaded.evaluating():
        alone = _tokens_of_row(loaded, row, short)
        batches = (row, torch.cat([row, other]))
        if any(_apart(loaded, alone, _tokens_of_row(loaded, ids, short)) for ids in batches):
            raise UserError(
                f"model {loaded.name!r} gives a document other hidden states on another pass or beside "
                "another document of its length: its numbers would depend on the batches"
            )
        padded = _padded(loaded, tokens[:1], short)
        batches = (padded, torch.cat([padded, tokens[1:]]))
        needed = needed or any(_apart(loaded, alone, _tokens_of_row(loaded, ids, short)) for ids in batches)
        if not needed and (loaded.max_length or _WHOLE[1]) > _LONG:
            long = min(_WHOLE[1], loaded.max_length or _WHOLE[1])
            short = min(_WHOLE[0], 2 * long // 3)
            row = _ordinary_tokens(loaded, long)[:1]
            alone = _tokens_of_row(loaded, row[:, :short], short)
            # A single token of many may change its expert by rounding.
            found = _tokens_of_row(loaded, _padded(loaded, row, short), short)
            needed = _apart(loaded, alone, found, share=0.1)
    if needed:
        loaded.needs_equal_lengths = True
        note = padding_note(loaded.name)
        loaded.notes += [] if note in loaded.notes else [note]


def can_pack(loaded: LoadedModel) -> bool:
    """Whether documents one behind the other have the hidden states that each has alone, in every layer.

    Tried once on short and long documents; positions start at 0 or, as in RoBERTa, behind the padding index.
    Nothing is taken from an architecture's name: one that lets a document see another, or does not take its
    positions, gives other hidden states.
    """
    if loaded.packs is None:
        loaded.packs = False
        most = loaded.max_length or _WHOLE[0]
        lengths = [min(length, most) for length in (_LENGTH, _WHOLE[0], 3, _LONG, 60, 1, 130)]
        tokens = _ordinary_tokens(loaded, sum(lengths))[:1]
        parts = tokens.split(lengths, dim=1)
        with loaded.evaluating():
            alone = [_tokens_of_row(loaded, part, part.shape[1]) for part in parts]
            for first in dict.fromkeys([0, loaded.pad_id + 1]):
                loaded.first_position = first
                try:
                    found = _tokens_of_pack(loaded, tokens, lengths)
                except UserError:  # it takes no positions, or its attention is not transformers'
                    continue
                both = zip(alone, found, strict=True)
                # A single token of many may change its expert by rounding.
                if not any(_apart(loaded, a, b, share=0.1 if len(b[0]) > _LONG else 0.0) for a, b in both):
                    loaded.packs = True
                    return True
        loaded.first_position = None
    return loaded.packs


def _tokens_of_pack(loaded: LoadedModel, ids: torch.Tensor, lengths: list[int]) -> list[list[torch.Tensor]]:
    """Each packed document's hidden states in every layer, (length, features)."""
    _, seen = _run(loaded, ids, torch.ones_like(ids), [block.path for block in loaded.blocks], packed=lengths)
    found = (own_tokens(seen[block.path][block.call][1], ids.shape[1]) for block in loaded.blocks)
    states = [hidden[0].double().cpu() for hidden in found]
    return [list(document) for document in zip(*(state.split(lengths) for state in states), strict=True)]


def _ordinary_tokens(loaded: LoadedModel, length: int) -> torch.Tensor:
    """Two rows (2, length) of ids that are not special: those have a meaning of their own, such as where a
    sequence ends."""
    special = set(loaded.tokenizer.all_special_ids)
    free = (token for token in range(loaded.vocabulary) if token not in special)
    ordinary = list(islice(free, 2 * length)) or [0]
    return torch.tensor([ordinary[at % len(ordinary)] for at in range(2 * length)]).reshape(2, length)


def _padded(loaded: LoadedModel, row: torch.Tensor, length: int) -> torch.Tensor:
    """A row whose first tokens alone are left."""
    padded = row.clone()
    padded[:, length:] = loaded.pad_id
    return padded


def padding_note(name: str) -> str:
    """What the user is told of a model that `needs_equal_lengths`."""
    how = "in batches of documents of equal length, without padding"
    return f"Padding changes the hidden states of {name}: it runs {how}."


def _tokens_of_row(loaded: LoadedModel, ids: torch.Tensor, length: int) -> list[torch.Tensor]:
    """The first row's hidden states in every layer, (length, features), the tokens beyond it masked."""
    mask = torch.ones_like(ids)
    mask[0, length:] = 0
    _, seen = _run(loaded, ids, mask, [block.path for block in loaded.blocks])
    return [seen[block.path][block.call][1][0, :length].double().cpu() for block in loaded.blocks]


def _apart(loaded: LoadedModel, first: list[torch.Tensor], second: list[torch.Tensor], share: float = 0.0) -> bool:
    """Whether more than a share of the tokens differ beyond rounding in some layer; an overflow (reported later) is
    not counted."""
    for a, b in zip(first, second, strict=True):
        moved, size = (a - b).norm(dim=-1), a.norm(dim=-1)
        beyond = (moved > _TOLERANCE[loaded.dtype] * size)[torch.isfinite(moved)]
        if len(beyond) and float(beyond.double().mean()) > share:
            return True
    return False


def _run(
    loaded: LoadedModel,
    ids: torch.Tensor,
    mask: torch.Tensor,
    paths: list[str],
    packed: list[int] | None = None,
    **options: Any,
) -> tuple[Any, dict[str, list[Any]]]:
    """One forward pass, and (input, output) of every call of the modules, by path.

    Args:
        packed: lengths of the documents that are packed.
    """
    modules = dict(loaded.model.named_modules())
    seen: dict[str, list[Any]] = {path: [] for path in paths}

    def record(path: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        given = block_input(args, kwargs)
        made = block_output(output)
        # Cloned: models add to tensors in place (Falcon adds its attention to what its MLP returned).
        seen[path].append(tuple(one.clone() if isinstance(one, torch.Tensor) else one for one in (given, made)))

    with ExitStack() as hooks:
        for path in seen:
            hook = modules[path].register_forward_hook(partial(record, path), with_kwargs=True)
            hooks.enter_context(hook)
        try:
            if packed is not None:
                return loaded.run_packed(ids.to(loaded.device), packed, return_dict=True), seen
            return loaded.run(ids.to(loaded.device), mask.to(loaded.device), return_dict=True, **options), seen
        except UserError as error:
            cause = error.__cause__
            if cause is None:
                raise
            asked = "token ids and an attention mask" + (
                "" if loaded.dtype == torch.float32 else f" in {loaded.dtype_name}"
            )
            reason = f"does not run on {asked} ({type(cause).__name__}: {one_line(cause)})"
            raise no_text(loaded.name, loaded.model, reason) from cause


def _final_norm(
    loaded: LoadedModel, output: torch.Tensor, last: torch.Tensor, behind: list[str], seen: dict[str, list[Any]]
) -> tuple[str | None, bool]:
    """Path of the norm that turns the last block's output into the last hidden state, and whether something does.

    None where the two are equal, or where no norm does it (OPT-350m: a projection).
    """
    if _same(output, last):
        return None, True
    # Each step: (paths so far, tensor). Behind a norm there may be a projection, or two.
    steps: list[tuple[tuple[str, ...], torch.Tensor]] = [((), output)]
    for _ in range(_STEPS):
        steps = [
            ((*paths, path), made)
            for paths, hidden in steps
            for path in behind
            for given, made in seen[path]
            if path not in paths and isinstance(given, torch.Tensor) and isinstance(made, torch.Tensor)
            if _same(own_tokens(given, _LENGTH), own_tokens(hidden, _LENGTH))
        ]
        through = [paths for paths, made in steps if _same(own_tokens(made, _LENGTH), last)]
        if through:
            found = (path for paths in through for path in paths)
            modules = {path: type(loaded.model.get_submodule(path)).__name__.lower() for path in found}
            return next((path for path, kind in modules.items() if "norm" in kind), None), True
    return None, False


def _branches_add_up(
    paths: tuple[str, ...], block: Block, seen: dict[str, list[Any]], modules: dict[str, nn.Module]
) -> bool:
    """Whether a block's input and the outputs of its branches give its output.

    Args:
        paths: of attention, mlp and the two norms of a post-norm block, if it is one.
    """
    given, output = seen[block.path][block.call]
    branches = [seen[path] for path in paths[:2]]
    if any(len(calls) != block.calls for calls in branches) or not isinstance(given, torch.Tensor):
        return False
    found = [given, *(calls[block.call][1] for calls in branches)]
    if not all(isinstance(one, torch.Tensor) and one.shape[-1] == output.shape[-1] for one in found):
        return False
    if any(one.numel() != output.numel() for one in found):
        return False
    given, attention, mlp = (one.reshape(output.shape) for one in found)
    if len(paths) > 2:
        first, second = (modules[path] for path in paths[2:])
        between = block_output(first(attention + given))
        return _close(block_output(second(mlp + between)), output)
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
    return UserError(f"model {loaded.name!r}: {problem}, so it cannot be hooked: {OTHERS}")


@contextmanager
def _own_hooks_only(model: nn.Module) -> Iterator[None]:
    """Take away the hooks transformers installs for good once hidden states have been asked for."""
    before = {module: set(module._forward_hooks) for module in model.modules()}
    flags = [m for m in model.modules() if not getattr(m, "_output_capturing_hooks_installed", False)]
    try:
        yield
    finally:
        # BigBird makes modules anew in a forward pass.
        for module in model.modules():
            for key in set(module._forward_hooks) - before.get(module, set()):
                module._forward_hooks.pop(key)
        for module in flags:
            module.__dict__.pop("_output_capturing_hooks_installed", None)
