"""The training texts of an ablation: read once, packed once for each seed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from cka_tools.ablation.starts import load_tokenizer, tokenizer_hash
from cka_tools.documents import stream_documents
from cka_tools.errors import UserError
from cka_tools.training.packing import PackedTokens, pack_texts


class PackedCorpus:
    """A corpus under one tokenizer; a seed fixes the order of its documents, as in `cka train`.

    Raises:
        UserError: the corpus cannot be read.
    """

    def __init__(self, spec: str, tokenizer_of: Path, length: int) -> None:
        self.spec = spec
        self.length = length
        self.texts = [document.text for document in stream_documents(spec)]
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(tokenizer_of)
        digest = hashlib.sha256()
        for text in self.texts:
            content = text.encode("utf-8", "surrogatepass")
            digest.update(len(content).to_bytes(8, "little") + content)
        self.texts_sha256 = digest.hexdigest()
        self._tokenizer_sha256 = tokenizer_hash(tokenizer_of)
        self._packed: dict[int, PackedTokens] = {}
        self._whole: set[int] = set()

    @property
    def identity(self) -> dict[str, Any]:
        """What fixes its packed tokens, besides the seed."""
        return {
            "texts_sha256": self.texts_sha256,
            "tokenizer_sha256": self._tokenizer_sha256,
            "length": self.length,
        }

    def packed(self, seed: int, tokens: int | None = None) -> PackedTokens:
        """Return the packed tokens of a seed: at least `tokens`, or all when None.

        Raises:
            UserError: the corpus holds fewer.
        """
        held = self._packed.get(seed)
        enough = held is not None and (seed in self._whole or (tokens is not None and held.tokens >= tokens))
        if held is None or not enough or (tokens is not None and held.tokens < tokens):
            try:
                held = pack_texts(self.texts, self.tokenizer, length=self.length, seed=seed, tokens=tokens)
            except UserError as error:
                raise UserError(f"corpus {self.spec!r}: {error}") from None
            self._packed[seed] = held
            if tokens is None:
                self._whole.add(seed)
        return held
