"""What an entry is found by: a hash of everything that can change a bit of its features."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cka_tools.extraction.activations import PooledForward
from cka_tools.extraction.extract import Prepared, feature_dtype
from cka_tools.extraction.settings import ExtractionSettings
from cka_tools.extraction.tokens import TextDocument, TokenTable
from cka_tools.models.hash import hash_json, hash_state_dict
from cka_tools.models.model import LoadedModel
from cka_tools.store.foreign_code import hash_foreign_code
from cka_tools.store.numerics import numerics

#: Raised whenever the same key would give other features or another layout of the files.
FORMAT = 1

# What a config says of where it was loaded from and by whom; versions enter the key on their own.
_NOT_CONTENT = {"_name_or_path", "name_or_path", "transformers_version"}


@dataclass(frozen=True)
class EntryKey:
    """`digest` is sha256, hex, of the canonical JSON of `content`."""

    digest: str
    content: dict[str, Any]


def make_key(content: dict[str, Any]) -> EntryKey:
    """The key of some content."""
    return EntryKey(hashlib.sha256(canonical(content)).hexdigest(), content)


def canonical(value: Any) -> bytes:
    """Canonical JSON: sorted names, no spaces, ASCII.

    Raises:
        TypeError: a value that JSON does not have.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def entry_key(
    forward: PooledForward,
    table: TokenTable,
    prepared: Prepared,
    documents: Sequence[TextDocument],
    settings: ExtractionSettings,
) -> EntryKey:
    """Key of one model's features of the prepared documents. Names, paths and times are not in it.

    Raises:
        NotKeyed: the model does something that its content does not tell.
    """
    model = forward.model
    return make_key(
        {
            "format": FORMAT,
            "model": _model_content(model),
            "documents": _hash_texts(documents[int(row)].text for row in prepared.kept),
            "tokens": _hash_arrays(table.ids, table.ordinary, table.offsets),
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
            "widths": forward.widths,
            "features": feature_dtype(model).name,
            "numerics": numerics(model.device),
        }
    )


def _model_content(model: LoadedModel) -> dict[str, Any]:
    stored = model.model.state_dict()
    # Rotary frequencies and the like: not among the weights, and a caller may have changed them.
    others = {name: buffer for name, buffer in model.model.named_buffers() if name not in stored}
    return {
        "class": f"{type(model.model).__module__.split('.')[0]}.{type(model.model).__qualname__}",
        "weights": model.provenance.get("weights_sha256") or hash_state_dict(stored),
        "buffers": hash_state_dict(others),
        "config": hash_json(_config_content(model.model.config.to_dict())),
        "tokenizer": model.provenance["tokenizer_sha256"],
        "code": hash_foreign_code(model),
        "dtypes": sorted({str(p.dtype) for p in model.model.parameters()}),
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
