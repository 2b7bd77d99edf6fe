"""What a user may set of fine-tuning; nothing here needs torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cka_tools import paper
from cka_tools.errors import UserError
from cka_tools.formatting import quoted
from cka_tools.settings import check_options, option, parse_numbers

SHARED = ("device", "max_length", "trust_remote_code", "allow_bin")
"""Options that are settings of a study, or of an ablation, too."""

LARGEST = 2**32 - 1
"""Of a seed: what NumPy takes."""

MOST_SEEDS = 1000


def parse_seeds(text: str, name: str) -> tuple[int, ...]:
    """Seeds of text such as "5" (1 to 5) or "1,2,7"; "7," is the seed 7 alone.

    Raises:
        UserError: neither a number of seeds nor a list.
    """
    listed = [part for part in text.split(",") if part.strip()]
    numbers = parse_numbers(",".join(listed) if "," in text and listed else text, f"--{name}", whole=True)
    if "," in text:
        return tuple(map(int, numbers))
    if not 1 <= numbers[0] <= MOST_SEEDS:
        raise UserError(
            f"--{name} {quoted(text)} does not fit: give a number of seeds from 1 to {MOST_SEEDS}, or a list"
        )
    return tuple(range(1, int(numbers[0]) + 1))


@dataclass(frozen=True)
class EvaluationOptions:
    """How models are fine-tuned: the paper's settings by default; None is what `--help` says.

    Raises:
        UserError: a value that does not fit, by name.
    """

    seeds: Sequence[int] = option(
        tuple(range(1, paper.FINE_TUNING_SEEDS + 1)),
        "How many, or a list as 1,2,7: of a head's first weights, the order of the data, dropout.",
        shown=str(paper.FINE_TUNING_SEEDS),
        parse=parse_seeds,
    )
    lr: float = option(paper.FINE_TUNING_LR, "Peak learning rate; it falls to 0 along a line.")
    weight_decay: float = option(paper.FINE_TUNING_WEIGHT_DECAY, "Of AdamW.")
    epochs: int | None = option(
        None, "Of which the best by F1 on dev is kept.",
        shown=f"{paper.FINE_TUNING_EPOCHS}, of tags {paper.FINE_TUNING_TAG_EPOCHS}", least=1, most=10_000,
    )  # fmt: skip
    batch_size: int = option(paper.FINE_TUNING_BATCH, "Texts a step.", least=1, most=65_536)
    max_length: int | None = option(None, "Tokens a text is cut to.", shown="512, or what the models take", least=1)
    precision: Literal["float32", "bf16"] = option("float32", "Of the forward pass.")
    group_by_length: bool = option(
        False, "Texts of like length in a batch, in a random order of batches: less padding, thus less time."
    )
    keep_weights: bool = option(False, "Keep each run's fine-tuned model, as safetensors.", recorded=False)
    device: Literal["auto", "cpu"] = option("auto", "auto or cpu.", recorded=False)
    trust_remote_code: bool = option(False, "Run code that comes with a model. Read it first.")
    allow_bin: bool = option(
        False, "Read pytorch_model.bin, as tensors alone, where a model has no safetensors.", recorded=False
    )

    def __post_init__(self) -> None:
        check_options(self, "--")
        for name, floor in (("lr", "above"), ("weight_decay", "from")):
            value = getattr(self, name)
            fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not fits or value < 0 or (floor == "above" and value == 0):
                raise UserError(f"--{name.replace('_', '-')} {quoted(value)} does not fit: give a number {floor} 0")
        if isinstance(self.seeds, int) and not isinstance(self.seeds, bool):
            object.__setattr__(self, "seeds", parse_seeds(str(self.seeds), "seeds"))
        given = list(self.seeds) if isinstance(self.seeds, Sequence) and not isinstance(self.seeds, str) else None
        whole = given and all(
            isinstance(one, int) and not isinstance(one, bool) and 0 <= one <= LARGEST for one in given
        )
        if not given or not whole or len(set(given)) < len(given) or len(given) > MOST_SEEDS:
            told = quoted(self.seeds if given is None else ",".join(map(str, given)))
            raise UserError(f"--seeds {told} does not fit: give different whole numbers from 0 to {LARGEST}, as 1,2")
        object.__setattr__(self, "seeds", tuple(given))

    def epochs_of(self, kind: str) -> int:
        """Of a task's kind."""
        return self.epochs or (paper.FINE_TUNING_TAG_EPOCHS if kind == "tags" else paper.FINE_TUNING_EPOCHS)

    def record(self) -> dict[str, Any]:
        """What can change a number, but the seeds."""
        names = ("lr", "weight_decay", "epochs", "batch_size", "max_length", "precision", "group_by_length")
        return {name: getattr(self, name) for name in names}
