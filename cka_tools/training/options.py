"""What a user may set of a training; `cka train` has its options from here. Nothing here needs torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cka_tools.settings import check_options, option

CHECKPOINTS_BY_DEFAULT = 20


@dataclass(frozen=True)
class RecipeOptions:
    """What may be changed of a named recipe.

    Raises:
        UserError: a value that does not fit, by name.
    """

    scale: Literal["paper", "demo"] | None = option(None, "Constants of a named recipe.", shown="demo")
    tokens: int | None = option(
        None, "Tokens of Phase 1 of a named recipe, the decay keeps its share of them; of pretraining, all."
    )
    objective: Literal["mlm", "clm"] | None = option(None, "Of pretraining.", shown="mlm")

    def __post_init__(self) -> None:
        check_options(self, "--")


@dataclass(frozen=True)
class TrainingOptions(RecipeOptions):
    """How a recipe is trained; None is the recipe's own, or what `--help` says."""

    freeze: tuple[str, ...] = option(
        (), "LAYERS@PHASE, such as low@clm, 8-14@clm, 0-7@decay or head@decay; repeatable."
    )
    peak_lr: float | None = option(None, "Another peak learning rate.", flag="--lr")
    sequence_length: int | None = option(None, "Tokens a packed sequence.")
    sequences_per_step: int | None = option(None, "Sequences an optimizer step.")
    seed: int = option(42, "Fixes masks, dropout and random weights.", least=0)
    data_seed: int = option(42, "Fixes the order of the documents.", least=0)
    epochs: int = option(1, "How often each document may be read.", least=1)
    precision: Literal["bf16", "float32"] = option("bf16", "Of the forward pass.")
    checkpoint_tokens: int | None = option(
        None, "A checkpoint every so many tokens.", shown=f"1/{CHECKPOINTS_BY_DEFAULT} of the run", least=1
    )
    keep_checkpoints: bool = option(
        False,
        "Keep the checkpoints of a finished phase, or only its end.",
        flag="--keep-checkpoints/--no-keep-checkpoints",
    )
    sequences_per_forward: int | None = option(
        None, "Sequences that a process takes at once; less needs less memory.", least=1
    )
    attention: Literal["auto", "blocked", "sdpa", "eager"] = option(
        "auto", "Attention implementation: blocked on a CPU."
    )
    device: Literal["auto", "cpu"] = option("auto", "auto or cpu.")

    @property
    def constants(self) -> dict[str, float]:
        """The recipe's constants that are given."""
        names = ("peak_lr", "sequence_length", "sequences_per_step")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}
