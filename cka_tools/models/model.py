"""A loaded model: its device and number format by the names a user gives, its limits, its forward pass."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from cka_tools.errors import UserError, one_line
from cka_tools.models.blocks import OTHERS, Block, setting, text_config
from cka_tools.models.packing import packed, place_in_document
from cka_tools.processes import local_rank

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def resolve_device(name: str | torch.device) -> torch.device:
    """`auto` is cuda, else mps, else cpu; any other name is taken at its word.

    Of several processes on a machine each takes a GPU of its own for `auto` and `cuda`, as far as they go.

    Raises:
        UserError: no such device, here or at all.
    """
    if local_rank() and str(name) in ("auto", "cuda") and torch.cuda.is_available():
        return torch.device("cuda", local_rank() % torch.cuda.device_count())
    if str(name) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, ValueError):
        raise UserError(f"device {str(name)!r} is unknown: use auto, cpu, cuda, cuda:N or mps") from None
    missing = (
        (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count())
        or (device.type == "mps" and not torch.backends.mps.is_available())
        or device.type not in {"cpu", "cuda", "mps"}
    )
    if missing:
        raise UserError(f"device {str(name)!r} is not on this machine: use auto or cpu")
    return device


def resolve_dtype(name: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The torch dtype of a name.

    Raises:
        UserError: not one of the four, or float64 on a device without it.
    """
    short = str(name).removeprefix("torch.")
    if short not in DTYPES:
        raise UserError(f"dtype {short!r} is not one of {', '.join(DTYPES)}")
    if device.type == "mps" and short == "float64":
        raise UserError("dtype 'float64' does not exist on mps: use float32, or device cpu")
    return DTYPES[short]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on any device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY)


#: What torch's errors say; cuBLAS and cuDNN have a workspace of their own to ask for.
_OUT_OF_MEMORY = ("out of memory", "defaultcpuallocator", "cublas_status_alloc_failed", "cudnn_status_alloc_failed")


#: What configs call the longest sequence; some have several of them.
_LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")

#: How a module runs while features are taken, by attribute: without dropout; its feed-forward in one piece
#: (pieces save memory, give the same values and refuse some lengths); as it was before `module.compile()`,
#: whose graph may leave hooks out.
_EVALUATING = {"training": False, "chunk_size_feed_forward": 0, "_compiled_call_impl": None}


@dataclass
class LoadedModel:
    """A base model (no head) with its tokenizer and blocks.

    `name` is the spec as it was given (a class name for a model given in memory).
    `provenance` is JSON-ready: spec, revision (hub), weights_sha256, architecture, a summary of the config.
    `notes` are plain sentences for the user. `needs_equal_lengths`: padding or a longer document beside it
    changes a document's hidden states, so it runs in batches without padding. `language_model` is the model
    with its LM head where it was asked for, `model` then its base. `packs`: whether packed documents have the
    hidden states that each has alone, None until `check.can_pack` has tried; `first_position` is the position of
    a document's first token there.
    """

    name: str
    model: Any
    tokenizer: Any
    blocks: list[Block]
    provenance: dict[str, Any]
    final_norm: str | None = None
    embeddings_seen: bool = True
    in_memory: bool = False
    needs_equal_lengths: bool = False
    language_model: Any = None
    packs: bool | None = None
    first_position: int | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def root(self) -> Any:
        """All that was loaded: the model with its LM head, else the base model."""
        return self.model if self.language_model is None else self.language_model

    @property
    def device(self) -> torch.device:
        """Where the model takes its input: where its first parameters lie that are in memory."""
        places = (parameter.device for parameter in self.model.parameters())
        return next((place for place in places if place.type != "meta"), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the model's parameters."""
        return next(p.dtype for p in self.model.parameters() if p.is_floating_point())

    @property
    def dtype_name(self) -> str:
        """The number format as a user gives it: float32, not torch.float32."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def hidden_size(self) -> int:
        """Features of a layer by the config; 0 where it does not say."""
        return int(setting(text_config(self.model.config), "hidden_size") or 0)

    @property
    def max_length(self) -> int | None:
        """The longest sequence the model takes, in tokens; None where neither config nor tokenizer says."""
        config = text_config(self.model.config)
        declared = (setting(config, name) for name in _LENGTHS)
        limits = [limit for limit in declared if isinstance(limit, int) and limit > 0]
        for path, module in self.model.named_modules():
            weight = getattr(module, "weight", None)
            if path.endswith("position_embeddings") and isinstance(weight, torch.Tensor) and weight.dim() == 2:
                # RoBERTa's positions start behind its padding index: 514 rows hold 512 positions.
                skipped = getattr(module, "padding_idx", None)
                limits.append(len(weight) - (0 if skipped is None else skipped + 1))
        if not limits and 0 < self.tokenizer.model_max_length < 1_000_000:
            # Tokenizers say 1e30 where nobody set a limit.
            limits.append(int(self.tokenizer.model_max_length))
        return min(limits) if limits else None

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding matrix: one more than the largest token id the model can take.

        Raises:
            UserError: the model has no such matrix.
        """
        try:
            return int(self.model.get_input_embeddings().weight.shape[0])
        except (AttributeError, NotImplementedError):
            size = setting(text_config(self.model.config), "vocab_size")
        if not isinstance(size, int):
            kind = type(self.model).__name__
            raise UserError(f"model {self.name!r}: {kind} has no table of token embeddings: {OTHERS}")
        return size

    @property
    def pad_id(self) -> int:
        """The tokenizer's or the model's pad id; 0 where there is none (GPT-2), as padding is masked."""
        for candidate in (self.tokenizer.pad_token_id, getattr(self.model.config, "pad_token_id", None)):
            if isinstance(candidate, int) and 0 <= candidate < self.vocabulary:
                return candidate
        return 0

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation without gradients; on leaving, each module has its own switches back."""
        changed = [
            (module, name, vars(module)[name])
            for module in self.root.modules()
            for name, value in _EVALUATING.items()
            if vars(module).get(name, value) != value
        ]
        # BigBird leaves its sparse attention for good once a batch is short.
        attention = getattr(self.model, "attention_type", None)
        try:
            for module, name, _ in changed:
                setattr(module, name, _EVALUATING[name])
            # A buffer that a forward pass of inference mode rewrites could not be trained with afterwards.
            with torch.no_grad() if self.in_memory else torch.inference_mode():
                yield
        finally:
            for module, name, value in changed:
                setattr(module, name, value)
            if attention != getattr(self.model, "attention_type", None):
                self.model.set_attention_type(attention)

    @property
    def has_segments(self) -> bool:
        """Whether the model has an embedding for tokens of a second segment."""
        known = inspect.signature(self.model.forward).parameters
        return "token_type_ids" in known and int(setting(text_config(self.model.config), "type_vocab_size") or 0) > 1

    def run(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        **options: Any,
    ) -> Any:
        """One forward pass of ids and mask (b, t), which keeps nothing that nobody reads.

        Args:
            token_type_ids: (b, t), the segments of tokens, for a model that has them.

        Raises:
            UserError: the model's code fails, unless memory ran out; with its message and the batch's shape.
        """
        known = inspect.signature(self.model.forward).parameters
        given: dict[str, Any] = {"attention_mask": attention_mask, "use_cache": False}
        if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in known.values()):
            given = {name: value for name, value in given.items() if name in known}
        elif "use_cache" not in known:
            del given["use_cache"]
        if token_type_ids is not None and self.has_segments:
            given["token_type_ids"] = token_type_ids
        for name in ("output_hidden_states", "output_attentions"):
            if getattr(self.model.config, name, False):
                given[name] = False
        try:
            return self.model(input_ids=input_ids, **given | options)
        except Exception as error:
            if isinstance(error, UserError) or is_out_of_memory(error):
                raise
            batch, length = input_ids.shape
            raise UserError(
                f"model {self.name!r}: {type(self.model).__name__} fails on a batch of {batch} documents of {length} "
                f"tokens ({type(error).__name__}: {one_line(error)}): cut them shorter with --max-length, or {OTHERS}"
            ) from error

    def run_packed(
        self,
        input_ids: torch.Tensor,
        lengths: Sequence[int],
        token_type_ids: torch.Tensor | None = None,
        **options: Any,
    ) -> Any:
        """One forward pass of documents of these lengths, one behind the other, (1, t).

        Raises:
            UserError: as `run`.
        """
        positions = (place_in_document(lengths) + (self.first_position or 0)).to(input_ids.device)
        with packed(self.model, lengths):
            ones = torch.ones_like(input_ids)
            return self.run(input_ids, ones, token_type_ids, position_ids=positions.unsqueeze(0), **options)


@dataclass
class ModelOutline(LoadedModel):
    """A model whose weights are not in memory (they are on torch's meta device): it is planned with, not run.

    `place` is the device that it will run on.
    """

    place: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def device(self) -> torch.device:
        """Where the model will run."""
        return self.place
