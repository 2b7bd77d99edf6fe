"""An adapter of PEFT on a base model: a source of its own, whose fingerprint covers both."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from cka_tools.errors import UserError, failing_as
from cka_tools.models.check import padding_note
from cka_tools.models.folder import (
    ADAPTER,
    ModelSpec,
    has_tokenizer,
    hash_file,
    hash_json,
    hash_tokenizer,
    pickled_weights,
    read_object,
)
from cka_tools.models.load import finish, load_tokenizer, quiet_transformers
from cka_tools.models.model import LoadedModel, ModelOutline
from cka_tools.models.snapshot import Snapshot, fetch_snapshot

if TYPE_CHECKING:
    from cka_tools.models.source import LoadOptions, ModelSource

_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True)
class AdapterSource:
    """A LoRA, or another adapter of PEFT that changes modules in place, on a base model.

    It is not merged: base and adapter compute as they do where people run them. The tokenizer is the adapter's,
    where one was saved with it. Loading needs PEFT, the optional extra `adapters`.

    Attributes:
        given: as the user named it. base: what it is put on. spec: the adapter's directory or repository.
    """

    given: str
    base: ModelSource
    spec: ModelSpec
    _opened: dict[bool, _Adapter] = field(default_factory=dict, compare=False, repr=False)

    @property
    def name(self) -> str:
        """As it was given."""
        return self.given

    @property
    def folder(self) -> Path | None:
        """The adapter's directory, None for the hub."""
        return self.spec.folder

    def open(self, *, allow_bin: bool = False) -> _Adapter:
        """The adapter's files.

        Raises:
            UserError: they are not there, damaged, or of a kind that cannot be put on a model here.
        """
        if allow_bin not in self._opened:
            found = fetch_snapshot(self.spec, allow_bin=allow_bin)
            self._opened[allow_bin] = _Adapter(self.given, found, allow_bin)
        return self._opened[allow_bin]

    def fingerprint(self) -> dict[str, Any] | None:
        """That of the base, and hashes of the adapter's weights and config; None where the base has none."""
        base = self.base.fingerprint()
        adapter = self._opened[max(self._opened)] if self._opened else self.open()
        return None if base is None else base | adapter.fingerprint()

    def outline(self, options: LoadOptions) -> ModelOutline:
        """That of the base, with the adapter's tokenizer."""
        adapter, outline = self.open(allow_bin=options.allow_bin), self.base.outline(options)
        return replace(
            outline,
            name=self.name,
            tokenizer=adapter.tokenizer or outline.tokenizer,
            provenance=self._origin(outline, adapter),
            notes=outline.notes + adapter.snapshot.notes,
        )

    def load(self, options: LoadOptions) -> LoadedModel:
        """The base with the adapter in its layers, checked anew."""
        adapter, base = self.open(allow_bin=options.allow_bin), self.base.load(options)
        origin = self._origin(base, adapter)
        model = adapter.put_on(base)
        if self._origin(base, adapter) != origin:
            raise UserError(f"model {self.name!r}: its adapter was written while it was read: try again")
        notes = [note for note in base.notes if note != padding_note(base.name)] + adapter.snapshot.notes
        tokenizer = adapter.tokenizer or base.tokenizer
        return finish(LoadedModel(self.name, model, tokenizer, [], origin, in_memory=base.in_memory, notes=notes))

    def _origin(self, base: LoadedModel, adapter: _Adapter) -> dict[str, Any]:
        own = {"spec": self.name, "kind": "adapter", "base": base.provenance.get("spec")}
        return base.provenance | own | adapter.fingerprint()


class _Adapter:
    """An adapter's files, checked.

    Raises:
        UserError: PEFT is not installed; files are missing, damaged or pickled; virtual tokens.
    """

    def __init__(self, given: str, snapshot: Snapshot, allow_bin: bool) -> None:
        self.given, self.snapshot, folder = given, snapshot, snapshot.folder
        try:
            import peft
        except ImportError:
            raise UserError(
                f"model {given!r} has an adapter, which needs PEFT: pip install 'cka-tools[adapters]', or merge it "
                "into its base (merge_and_unload, then save_pretrained) and give that directory"
            ) from None
        self._peft: Any = peft
        if not (folder / ADAPTER).is_file():
            raise UserError(
                f"model {given!r}: {str(folder)!r} is not an adapter, it has no {ADAPTER}: give BASE+ADAPTER"
            )
        self.written = read_object(folder / ADAPTER, given)
        there = [name for name in _WEIGHTS if (folder / name).is_file()]
        if not there:
            raise UserError(f"model {given!r}: its adapter has no {_WEIGHTS[0]}: save it again with save_pretrained")
        if there[0] == _WEIGHTS[1] and not allow_bin:
            raise pickled_weights(given, "an adapter whose weights are pickled")
        self.weights = folder / there[0]
        with failing_as(f"model {given!r}: {ADAPTER} does not fit PEFT {peft.__version__}"):
            self.config = peft.PeftConfig.from_pretrained(str(folder))
        if self.config.is_prompt_learning:
            raise UserError(
                f"model {given!r} has a prompt adapter ({self.written.get('peft_type')}), whose virtual tokens stand "
                "before the text: give one that changes layers, such as LoRA"
            )
        self.tokenizer: Any = None
        if has_tokenizer(folder):
            self.tokenizer = load_tokenizer(given, folder)

    def fingerprint(self) -> dict[str, Any]:
        """Hashes, JSON-ready; that of the config is also of the version of PEFT, whose code runs it."""
        found = {
            "adapter_sha256": hash_file(self.weights),
            "adapter_config_sha256": hash_json([self.written, self._peft.__version__]),
        }
        if self.snapshot.commit is not None:
            found["adapter_revision"] = self.snapshot.commit
        if self.tokenizer is not None:
            found["tokenizer_sha256"] = hash_tokenizer(self.tokenizer)
        return found

    def put_on(self, base: LoadedModel) -> Any:
        """The base model with the adapter's layers inside, every weight of which was in the file.

        Raises:
            UserError: the adapter is of another model, or lacks weights.
        """
        known = {path.rpartition(".")[2] for path, _ in base.model.named_modules()}
        saved = self.config.modules_to_save or ()
        # A head is not part of the base model.
        self.config.modules_to_save = [name for name in saved if name in known] or None
        self.config.inference_mode = True
        problem = f"model {self.given!r}: its adapter does not fit {base.name!r}"
        with failing_as(problem), quiet_transformers(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # from PEFT to transformers
            wrapped = self._peft.PeftModel(base.model, self.config)
            state = _read(self.weights)
            # Without embeddings: PEFT would ask the hub for the base's vocabulary.
            expected = set(self._peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False))
            prefix = base.model.base_model_prefix
            named = {_place(key, expected, prefix): value for key, value in state.items()}
            self._peft.set_peft_model_state_dict(wrapped, {k: v for k, v in named.items() if k in expected})
        blocks = ".".join(itertools.takewhile(lambda name: not name.isdigit(), base.blocks[0].path.split(".")))
        inside = tuple(f"{_ROOT}{stack}{blocks}." for stack in ("", "encoder."))
        strange = sorted(key for key in named.keys() - expected if key.startswith(inside) or "embed" in key)
        for problem, keys in (("lacks", sorted(expected - named.keys())), ("has no place for", strange)):
            if keys:
                raise UserError(
                    f"model {self.given!r}: its adapter does not fit {base.name!r}, it {problem} {keys[0]} and "
                    f"{len(keys) - 1} more: give the base that it was trained on"
                )
        return wrapped.get_base_model().eval()


def _read(file: Path) -> dict[str, torch.Tensor]:
    if file.suffix == ".safetensors":
        return load_file(file)
    return torch.load(file, map_location="cpu", weights_only=True)


_ROOT = "base_model.model."


def _place(key: str, expected: set[str], prefix: str) -> str:
    """A weight's name in the base model, of that in the whole model that the adapter was trained in.

    Args:
        prefix: what a model with a head calls its base model.
    """
    rest = key.removeprefix(_ROOT)
    based = rest.removeprefix(f"{prefix}.")
    # "encoder.": the base is the encoder of an encoder-decoder.
    found = [_ROOT + one for one in (rest, based, based.removeprefix("encoder.")) if _ROOT + one in expected]
    return found[0] if found else _ROOT + based
