"""The settings of an extraction, and what they may be."""

from dataclasses import dataclass

from cka_tools.errors import UserError

POOLINGS = ("mean", "cls", "last", "token")
SITES = ("residual", "attention", "mlp")
PLANS = ("sorted", "corpus-order")

#: The longest sequence where the user names none (the paper's).
DEFAULT_MAX_LENGTH = 512


#: Padded tokens of a batch. On a CPU a batch's hidden states should stay in its cache: with MiniLM's shape
#: (hidden 384) 1,024 and 2,048 cost the same, 4,096 5 % and 8,192 15 % more processor time. A GPU wants more
#: work at once; that figure is not tuned.
CPU_BATCH_TOKENS = 2048
GPU_BATCH_TOKENS = 16384

KEEP_FEATURES = 8 * 1024**3

#: The state of all 22 × 22 layer pairs of width 768 takes 2.5 GB: seconds to write, once in some minutes.
SNAPSHOT_EVERY = 20_000


@dataclass(frozen=True)
class ExtractionSettings:
    """How features are made of documents.

    Attributes:
        max_length: tokens a document is cut to; None is the default of 512, or what the models take if less.
        pooling: `mean` over unpadded tokens (special ones too), `cls`, `last`, or `token`: seeded draws of
            one ordinary token a document.
        sites: `residual` (the block's output), `attention` or `mlp` (the branch as added to the residual).
        layers: indices, ascending; None is all.
        batch_tokens: padded tokens a batch may hold under the `sorted` plan; None is 2,048 where a model runs
            on a CPU, else 16,384.
        batch_size: documents in a batch of the `corpus-order` plan.
        tokens_per_document: draws of token pooling.
        seed: of the token draws.
        memory_limit: bytes of features kept in memory; beyond it they go to a temporary file.
        spill_folder: where that file lies; None is the system's temporary folder.
        keep_features: bytes of features of both models that a comparison keeps, in memory or on disk; beyond
            it statistics are streamed.
        snapshot_every: documents, over all processes, from one snapshot of streamed statistics to the next.
    """

    max_length: int | None = None
    pooling: str = "mean"
    sites: str = "residual"
    layers: tuple[int, ...] | None = None
    batch_tokens: int | None = None
    batch_size: int = 16
    plan: str = "sorted"
    tokens_per_document: int = 8
    seed: int = 42
    memory_limit: int = 2 * 1024**3
    spill_folder: str | None = None
    keep_features: int = KEEP_FEATURES
    snapshot_every: int = SNAPSHOT_EVERY

    def __post_init__(self) -> None:
        """Refuse values that mean nothing.

        Raises:
            UserError: naming the setting.
        """
        for name, known in (("pooling", POOLINGS), ("sites", SITES), ("plan", PLANS)):
            if getattr(self, name) not in known:
                raise UserError(f"{name} {getattr(self, name)!r} is not one of {', '.join(known)}")
        for name in ("max_length", "batch_tokens", "batch_size", "tokens_per_document", "snapshot_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name.replace('_', '-')} {value} must be at least 1")
        if self.layers is not None and not self.layers:
            raise UserError("layers: the list is empty; name at least one, or leave it out for all")

    @property
    def draws(self) -> int | None:
        """Vectors a document gives: None (one) unless pooling is `token`."""
        return self.tokens_per_document if self.pooling == "token" else None
