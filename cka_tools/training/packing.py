"""Documents → one stream of tokens in a fixed order → sequences of equal length.

Packing comes before the objective and knows nothing of it: two runs that share texts, tokenizer, length and
seed train on the same sequences in the same order, and the fingerprint proves it.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from transformers import PreTrainedTokenizerBase

from cka_tools.errors import UserError

TEXTS_AT_ONCE = 256


@dataclass(frozen=True)
class PackedTokens:
    """Sequences without padding.

    Attributes:
        input_ids: (sequences, length) int32.
        document_ids: (sequences, length) int32; counts the documents of a sequence from 0. A separator
            belongs to the document that it ends. A document cut by the end of a sequence goes on as
            document 0 of the next.
        separator: the token id that ends every document.
        special_ids: ids that MLM never masks and never inserts; the separator is one of them.
    """

    input_ids: np.ndarray
    document_ids: np.ndarray
    separator: int
    special_ids: tuple[int, ...]

    @property
    def sequences(self) -> int:
        return int(self.input_ids.shape[0])

    @property
    def length(self) -> int:
        return int(self.input_ids.shape[1])

    @property
    def tokens(self) -> int:
        return int(self.input_ids.size)

    def part(self, sequences: range) -> "PackedTokens":
        """Return some of the sequences, as a view; all of them are these tokens themselves."""
        if sequences == range(self.sequences):
            return self
        rows = slice(sequences.start, sequences.stop)
        return PackedTokens(self.input_ids[rows], self.document_ids[rows], self.separator, self.special_ids)

    @cached_property
    def position_ids(self) -> np.ndarray:
        """(sequences, length) int32; every document, and every piece of one, starts at 0."""
        column = np.arange(self.length, dtype=np.int32)
        starts = np.diff(self.document_ids, axis=1, prepend=-1) > 0
        return column - np.maximum.accumulate(np.where(starts, column, 0), axis=1)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the shape, the ids and the document borders, in order."""
        digest = hashlib.sha256(f"{self.sequences}x{self.length}:".encode())
        for array in (self.input_ids, self.document_ids):
            digest.update(np.ascontiguousarray(array, dtype="<i4").tobytes())
        return digest.hexdigest()


def pack_tokens(
    documents: Iterable[Sequence[int]],
    *,
    length: int,
    separator: int,
    begin: int | None = None,
    special_ids: Iterable[int] = (),
    sequences: int | None = None,
) -> PackedTokens:
    """Join tokenized documents, each ended by `separator` (and begun by `begin`), and cut the stream.

    Reads no more documents than it needs. The tail that does not fill a sequence is dropped.

    Raises:
        UserError: the documents hold fewer tokens than asked for, or than one sequence.
    """
    if length < 2:
        raise UserError(f"a sequence length of {length} is too short: give at least 2 tokens")
    needed = None if sequences is None else sequences * length
    ids: list[np.ndarray] = []
    owners: list[np.ndarray] = []
    held = 0
    for number, document in enumerate(documents):
        piece = [*([] if begin is None else [begin]), *document, separator]
        ids.append(np.asarray(piece, dtype=np.int32))
        owners.append(np.full(len(piece), number, dtype=np.int32))
        held += len(piece)
        if needed is not None and held >= needed:
            break
    if held < (needed or length):
        raise UserError(
            f"the corpus holds {held:,} tokens, but {needed or length:,} are asked for: "
            f"give a larger corpus or ask for fewer tokens"
        )
    cut = needed or held // length * length
    input_ids = np.concatenate(ids)[:cut].reshape(-1, length)
    document_ids = np.concatenate(owners)[:cut].reshape(-1, length)
    document_ids = document_ids - document_ids[:, :1]
    return PackedTokens(input_ids, document_ids, separator, tuple(sorted({*special_ids, separator})))


def pack_texts(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    length: int,
    seed: int,
    tokens: int | None = None,
    epochs: int = 1,
) -> PackedTokens:
    """Order the texts by a permutation that depends on `seed` alone, tokenize them and pack them.

    Each document is begun by the tokenizer's BOS or [CLS], if it has one, as when the model is compared, and
    ended by its EOS or [SEP]. Special tokens written out in a text count as plain text.

    Args:
        length: tokens a sequence.
        seed: of the order of the texts.
        tokens: how many tokens to pack, rounded up to whole sequences; all that fit when None.
        epochs: how often each text may be read, every time in another order; the first order is that of one
            epoch.

    Raises:
        UserError: no separator in the tokenizer, or too few tokens in the texts.
    """
    separator = _first(tokenizer.eos_token_id, tokenizer.sep_token_id)
    if separator is None:
        raise UserError("the tokenizer has neither EOS nor [SEP] to put between documents: add one")
    draw = np.random.default_rng(seed)
    order = np.concatenate([draw.permutation(len(texts)) for _ in range(epochs)])

    def tokenized() -> Iterable[Sequence[int]]:
        for start in range(0, len(order), TEXTS_AT_ONCE):
            batch = [texts[i] for i in order[start : start + TEXTS_AT_ONCE]]
            encoded = tokenizer(
                batch, add_special_tokens=False, split_special_tokens=True, verbose=False, truncation=False
            )
            yield from encoded["input_ids"]

    return pack_tokens(
        tokenized(),
        length=length,
        separator=separator,
        begin=_first(tokenizer.bos_token_id, tokenizer.cls_token_id),
        special_ids=tokenizer.all_special_ids,
        sequences=None if tokens is None else -(-tokens // length),
    )


def _first(*ids: int | None) -> int | None:
    return next((i for i in ids if i is not None), None)
