"""What a user may set of a training and of an ablation; nothing here needs torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from typing import Any, Final, Literal

from cka_tools.errors import UserError
from cka_tools.settings import LARGEST_SEED, check_options, option, parse_numbers
from cka_tools.training.recipe import SCALES, OptimizerSettings, preset

CHECKPOINTS_BY_DEFAULT = 20


def _given(options: object, *names: str) -> dict[str, Any]:
    """Return those of the options that are not None."""
    return {name: value for name in names if (value := getattr(options, name)) is not None}


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
    seed: int = option(42, "Fixes masks, dropout and random weights.", least=0, most=LARGEST_SEED)
    data_seed: int = option(42, "Fixes the order of the documents.", least=0, most=LARGEST_SEED)
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
    held_out: str | None = option(
        None,
        "Texts that are not trained on: the loss on them of the start, of kept checkpoints and of each phase's end.",
        shown="none",
        flag="--eval",
    )
    sequences_per_forward: int | None = option(
        None, "Sequences that a process takes at once; less needs less memory.", least=1
    )
    attention: Literal["auto", "blocked", "sdpa", "eager", "flex"] = option(
        "auto",
        "Attention implementation: auto is blocked on a CPU, else sdpa. flex, on a GPU, makes no mask of the whole "
        "sequence and leaves other documents out.",
    )
    device: Literal["auto", "cpu"] = option("auto", "auto or cpu.")

    @property
    def constants(self) -> dict[str, float]:
        """The recipe's constants that are given."""
        return _given(self, "peak_lr", "sequence_length", "sequences_per_step")


FRACTIONS: Final = (0.1, 0.25, 0.5, 1.0, 2.0)
"""Lengths of Phase 1, as shares of n."""

DECAYS: Final = (0.025, 0.1, 0.2, 0.3, 0.5, 1.0)
"""Lengths of the decay, as shares of Phase 1 (the paper's, and one as long as Phase 1)."""


def _numbers(default: Sequence[float], help: str, whole: bool = False) -> Any:
    """An option that takes numbers with commas between them."""

    def parse(text: str, name: str) -> list[float]:
        return parse_numbers(text, f"--{name}", whole=whole)

    return option(default, help, shown=",".join(f"{number:g}" for number in default), parse=parse)


@dataclass(frozen=True)
class AblationSettings:
    """What a user asks for; None is the preset's own, or what `--help` says.

    Raises:
        UserError: a value that does not fit, by name.
    """

    axis: str = option(MISSING, "length, decay, freeze, size, direction, or all.", argument=True)
    preset: Literal["paper", "demo"] = option("demo", "Constants of the recipe: the paper's, or a laptop's.")
    corpus: str = option("sample", "Texts to train on: sample, a file, or what `cka compare --corpus` takes.")
    starts: tuple[str, ...] = option(
        (),
        "A model to start from, or a shape like 4x64 (trained from random weights); one of each size.",
        shown="demo:theta0, for size and all also 4x64",
        flag="--start",
    )
    decoder_starts: tuple[str, ...] = option(
        (), "Of the axis direction.", shown="trained by CLM in the shape of each start", flag="--decoder-start"
    )
    start_corpus: str | None = option(None, "Texts that start models of a shape are trained on.", shown="--corpus")
    start_tokens: int | None = option(
        None, "Tokens of their training, the last tenth annealed.", shown="as the given start's", least=1
    )
    start_epochs: int = option(1, "How often their training may read each document.", least=1)
    n: int | None = option(
        None,
        "Tokens of Phase 1 at its full length.",
        shown="2.5M, or what the corpus holds",
        flag="--n --tokens",
        least=1,
    )
    seeds: Sequence[int] = _numbers(
        (1, 2), "Of the runs, as 1,2: each fixes the order of the documents and the masks.", whole=True
    )
    noise: Literal["masks", "order"] = option(
        "masks", "A control has other masks on the same data, or (order) another order of it too."
    )
    fractions: Sequence[float] = _numbers(FRACTIONS, "Of the axis length.")
    decays: Sequence[float] = _numbers(DECAYS, "Of the axis decay.")
    skip: tuple[str, ...] = option((), "Cells to leave out: freeze@4x64, decay:100 %@4x64; repeatable.")
    peak_lr: float | None = option(None, "Another peak learning rate of the runs.", flag="--lr")
    sequence_length: int | None = option(None, "Tokens a packed sequence.")
    sequences_per_step: int | None = option(None, "Sequences an optimizer step.")
    precision: Literal["bf16", "float32"] = option("bf16", "Of training's forward pass.")
    weights: Literal["float32", "float16", "bfloat16"] = option(
        "float32", "Number format in which runs' last checkpoints are kept and compared."
    )
    device: Literal["auto", "cpu"] = option("auto", "auto or cpu.")

    def __post_init__(self) -> None:
        check_options(self, "--")
        if not self.seeds or any(seed < 0 for seed in self.seeds) or len(set(self.seeds)) < len(self.seeds):
            given = ",".join(map(str, self.seeds))
            raise UserError(f"--seeds {given!r} does not fit: give different whole numbers from 0, as 1,2")

    @property
    def bf16(self) -> bool:
        return self.precision == "bf16"

    @property
    def optimizer(self) -> OptimizerSettings:
        given = _given(self, "peak_lr", "sequences_per_step")
        return dataclasses.replace(preset("clm-detour", self.preset).optimizer, **given)

    @property
    def length(self) -> int:
        return self.sequence_length or SCALES[self.preset].sequence_length
