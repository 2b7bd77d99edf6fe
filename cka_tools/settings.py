"""What a user may set: each option once, with its type, default, choices and help.

The terminal's options are made from these fields, the Python keywords are their names, and provenance and the
activation store take the object.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from cka_tools import paper
from cka_tools.errors import UserError
from cka_tools.formatting import parse_bytes, quoted

Function = TypeVar("Function", bound=Callable[..., Any])

#: The longest sequence where the user names none (the paper's).
DEFAULT_MAX_LENGTH = 512

#: Padded tokens of a batch. On a CPU a batch's hidden states should stay in its cache: with MiniLM's shape
#: (hidden 384) 1,024 and 2,048 cost the same, 4,096 5 % and 8,192 15 % more processor time. A GPU wants more
#: work at once; that figure is not tuned.
CPU_BATCH_TOKENS = 2048
GPU_BATCH_TOKENS = 16384

#: The state of all 22 × 22 layer pairs of width 768 takes 2.5 GB: seconds to write, once in some minutes.
SNAPSHOT_EVERY = 20_000

MOST_LAYERS = 10_000
"""No model has more: a range beyond it is a slip, and would fill memory before a model could say so."""

EMBEDDINGS = -1
"""The index of what goes into the first layer: the input embeddings, after their norm."""

FINAL_NORM = MOST_LAYERS
"""Stands for what comes out of a model, whatever its depth: the last layer after the final norm."""


def parse_layers(text: str, option: str = "layers") -> tuple[int, ...]:
    """Layer indices from text such as "0-7" or "embeddings,3,8-11", ascending, without repeats.

    Raises:
        UserError: not a list of indices or ranges.
    """
    found: set[int] = set()
    for part in text.split(","):
        if part.strip() == "embeddings":
            found.add(EMBEDDINGS)
            continue
        match = re.fullmatch(r"\s*([0-9]{1,9})\s*(?:-\s*([0-9]{1,9})\s*)?", part)
        if not match:
            raise UserError(
                f"{option} {text[:80]!r}: {part[:40]!r} is not an index or a range; write it like 0-7 or 0,3,8-11"
            )
        low, high = int(match[1]), int(match[2] or match[1])
        if high < low:
            raise UserError(f"{option} {text!r}: {part.strip()!r} runs backwards; write the smaller index first")
        if high >= MOST_LAYERS:
            raise UserError(f"{option} {text!r}: {high} is beyond any model; write indices from 0")
        found.update(range(low, high + 1))
    return tuple(sorted(found))


def explicit_pairs(pairing: str) -> list[tuple[int, int]] | None:
    """The pairs (ℓ, m) of text such as "0:0,1:3", or None for the name of a rule.

    Raises:
        UserError: neither, or a layer of A that is given twice.
    """
    if pairing in PAIRINGS:
        return None
    found: dict[int, int] = {}
    for part in pairing.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,4}|embeddings)\s*:\s*([0-9]{1,4}|embeddings)\s*", part)
        if not match:
            rules = ", ".join(PAIRINGS)
            raise UserError(f"pairing {pairing[:80]!r}: write {rules}, or pairs of layers of A and of B, as 0:0,1:3")
        a, b = (EMBEDDINGS if text == "embeddings" else int(text) for text in match.groups())
        if a in found:
            raise UserError(f"pairing {pairing[:80]!r} names layer {match[1]} of A twice: give it one layer of B")
        found[a] = b
    return list(found.items())


PAIRINGS = ("relative", "index", "best")


def parse_numbers(text: str, option: str, *, whole: bool = False) -> list[float]:
    """Numbers separated by commas.

    Raises:
        UserError: something else, or numbers beyond all use; `option` names where it was given.
    """
    try:
        numbers = [int(part) if whole else float(part) for part in text.split(",")]
        if not all(abs(number) <= LARGEST_SEED for number in numbers):  # nor what is not a number
            raise ValueError
    except ValueError:
        kind = "whole numbers" if whole else "numbers"
        raise UserError(f"{option} {quoted(text)} is not a list of {kind}: write them with commas, as 1,2") from None
    return numbers


LARGEST_WHOLE = 10**15
"""Of whole numbers where nothing else limits them: floats count exactly as far."""

LARGEST_SEED = 2**63 - 1


def option(
    default: Any,
    help: str = "",
    *,
    shown: str | None = None,
    parse: Callable[[str, str], Any] | None = None,
    flag: str | None = None,
    lacking: Sequence[str] = (),
    least: int | None = None,
    most: int = LARGEST_WHOLE,
    recorded: bool = True,
    argument: bool = False,
) -> Any:
    """A field of a frozen dataclass that commands take as options, such as `Settings`.

    Args:
        default: `dataclasses.MISSING` where it must be given.
        help: the option's line in `--help`; without one it is a Python keyword only.
        shown: the default in words.
        parse: makes the value of the terminal's text, given that and the option's name.
        flag: other names on the terminal, with spaces between; "--no-x" for one that is switched off,
            "--x/--no-x" for one with a name for either.
        lacking: commands that do not have it, on purpose.
        least: the smallest number that fits. most: the largest.
        recorded: whether provenance keeps it; what cannot change a number is not kept.
        argument: it is given by its place, not by a name.
    """
    facts = {"help": help, "shown": shown, "parse": parse, "flag": flag, "lacking": tuple(lacking),
             "least": least, "most": most, "recorded": recorded, "argument": argument}  # fmt: skip
    return field(default=default, metadata=facts)


READ_ONLY = ("health",)
"""Commands that make no features: settings of features would say nothing."""

PROBES = ("probe",)
"""Commands whose texts are a task's, and whose features are not compared."""

NEEDLE = ("needle",)
"""Commands that say themselves how long a text is and whose row is read."""

NOT_COMPARED = (*READ_ONLY, *PROBES, *NEEDLE)

HYBRIDS = ("transplant", "interpolate")
"""Commands whose models exist while they run: all layers are kept, nothing streams, nothing is found in a cache."""

ONE_PAIR = ("trajectory", "matrix", "contrast", "ablate", *NOT_COMPARED, *HYBRIDS)
"""Commands that compare many pairs of models or none, which one pair's options do not fit."""


@dataclass(frozen=True)
class Reading:
    """How the files of a corpus become documents; what was taken is in the record's `source`.

    Raises:
        UserError: a value that does not fit, by name.
    """

    # An ablation has two corpora, which need not be of one kind.
    column: str | None = option(
        None,
        "Column of the text; several, as title,abstract, are joined.",
        shown="text, contents, content or abstract with its title",
        lacking=("ablate", *PROBES),
        recorded=False,
    )
    text_unit: Literal["line", "paragraph", "file"] | None = option(
        None,
        "What is a document in .txt files.",
        shown="the file in a folder of several, else the paragraph if there are blank lines, else the line",
        lacking=("ablate", *PROBES),
        recorded=False,
    )
    document_limit: str | int = option(
        "16MiB", "Larger documents of files are refused.", recorded=False, lacking=PROBES
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "document_limit", parse_bytes(self.document_limit, "document-limit"))
        if not 0 < self.document_bytes <= MOST_BYTES:
            raise UserError(
                f"document-limit {self.document_limit!r} does not fit: give a size from 1 to {MOST_BYTES} bytes"
            )
        if self.column is not None and not all(map(str.strip, self.column.split(","))):
            raise UserError(f"column {self.column!r} names no column: write it like abstract, or title,abstract")
        check_options(self)

    @property
    def document_bytes(self) -> int:
        """`document_limit` in bytes."""
        return int(self.document_limit)


MOST_BYTES = 2**31 - 1
"""Python's CSV reader counts no further."""


@dataclass(frozen=True)
class Settings(Reading):
    """How documents become features, and how features are compared.

    Raises:
        UserError: a value that does not fit, by name.
    """

    documents: int | None = option(
        None, "Documents to draw.", shown="500, or what the corpus holds", least=1, recorded=False, lacking=PROBES
    )
    max_length: int | None = option(
        None, "Tokens a document is cut to.", shown="512, or what the models take", least=1, lacking=NEEDLE
    )
    pooling: Literal["mean", "cls", "last", "token"] = option(
        "mean", "How a document's hidden states become one row.", lacking=(*READ_ONLY, *NEEDLE)
    )
    sites: Literal["residual", "attention", "mlp"] = option(
        "residual", "The residual stream, or what a branch adds to it.", lacking=(*READ_ONLY, *NEEDLE)
    )
    layers: tuple[int, ...] | None = option(
        None,
        "Layers to compare, as 0-7 or embeddings,3,8-11.",
        shown="all",
        parse=parse_layers,
        lacking=(*READ_ONLY, *HYBRIDS),
    )
    layers_a: tuple[int, ...] | None = option(
        None, "Layers of A alone.", shown="all", parse=parse_layers, lacking=ONE_PAIR
    )
    layers_b: tuple[int, ...] | None = option(
        None, "Layers of B alone.", shown="all", parse=parse_layers, lacking=ONE_PAIR
    )
    # A contrast and an ablation compare checkpoints of one shape.
    pairing: str = option(
        "relative",
        "How layers are paired: relative (by depth), index, best, or 0:0,1:3.",
        lacking=("contrast", "ablate", *NOT_COMPARED, *HYBRIDS),
    )
    final_norm: bool = option(
        False,
        "Also compare what leaves the final norm, as one more row.",
        lacking=("contrast", "ablate", *NOT_COMPARED, *HYBRIDS),
    )
    early: tuple[int, ...] | None = option(
        None, "Layers that count as early, as 0-7.", shown="the first third", parse=parse_layers, lacking=NOT_COMPARED
    )
    # Where there are many pairs, all layers with all would be a matrix for each that nobody reads.
    pairs: Literal["all", "diagonal"] = option(
        "all", "All layers of A with all of B, or the paired ones alone.", lacking=ONE_PAIR
    )
    measures: tuple[str, ...] = option(
        ("cka",),
        "Measures beside CKA: procrustes, mknn, rsa, svcca.",
        shown="cka",
        parse=lambda text, name: tuple(part.strip() for part in text.split(",")),
        flag="--measure",
        lacking=NOT_COMPARED,
    )
    permutations: int | None = option(
        None,
        "Orders of the documents that give each measure its floor and p.",
        shown="with --measure 100 (20 of procrustes, svcca), none beyond 1,000 documents",
        least=0,
        lacking=ONE_PAIR,
    )
    dtype: Literal["float32", "bfloat16", "float16", "float64"] | None = option(
        None, "Number format of the forward passes.", shown="float32"
    )
    # An ablation has one device for training and comparing: its own option.
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps.", lacking=("ablate",))
    seed: int = option(42, "Of the draw of documents, and of token draws.", least=0, most=LARGEST_SEED)
    rescale: bool = option(False, "Also give CKA with every feature scaled to unit variance.", lacking=NOT_COMPARED)
    # Three draws of one pair are what was published.
    protocol: Literal["paper"] | None = option(
        None, "paper: 3 draws of 500 documents, 512 tokens, batches of 16, float16.", lacking=ONE_PAIR
    )
    batch_tokens: int | None = option(None, "Padded tokens a batch holds.", shown="by device", least=1)
    # Passes of hybrids and of language-model heads share padded batches.
    batching: Literal["sorted", "packed", "auto"] = option(
        "sorted",
        "How documents fill a batch: sorted by length and padded; packed into one sequence; auto: where that is exact.",
        lacking=(*READ_ONLY, *HYBRIDS),
    )
    tokens_per_document: int = option(
        8, "Draws a document with --pooling token.", least=1, most=1024, lacking=NOT_COMPARED
    )
    keep_features: str | int = option(
        "8GiB", "Features of all models beyond this size are streamed, not kept.", recorded=False, lacking=NOT_COMPARED
    )
    snapshot_every: int = option(
        SNAPSHOT_EVERY,
        "Documents between snapshots of streamed statistics, in the cache.",
        least=1,
        recorded=False,
        lacking=(*NOT_COMPARED, *HYBRIDS),
    )
    # The models of an ablation are made by it: none brings code.
    trust_remote_code: bool = option(False, "Run code that comes with a model. Read it first.", lacking=("ablate",))
    allow_unused_weights: bool = option(
        False, "Leave out weights inside layers that a model's class does not use.", lacking=("ablate",)
    )
    # The models of an ablation are made by it: ModernBERT, in safetensors.
    allow_bin: bool = option(
        False, "Read pytorch_model.bin, as tensors alone, where a model has no safetensors.", lacking=("ablate",)
    )
    stack: Literal["encoder", "text"] | None = option(
        None,
        "Which part to take of a model that has several: of T5 or BART, of CLIP.",
        shown="none",
        lacking=("ablate",),
    )
    device_map: Literal["auto"] | None = option(
        None,
        "auto: spread a model that a GPU does not hold over all there are, and memory.",
        shown="none",
        lacking=("ablate",),
    )
    cache: bool = option(
        True,
        "Use no cache: no features kept or found there, and no snapshots.",
        flag="--no-cache",
        recorded=False,
        lacking=(*READ_ONLY, *HYBRIDS),
    )
    plan: Literal["sorted", "corpus-order"] = option("sorted", recorded=False)
    batch_size: int = option(16, least=1, recorded=False)
    memory_limit: int = option(2 * 1024**3, recorded=False)
    spill_folder: str | None = option(None, recorded=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("layers", "layers_a", "layers_b", "early", "measures"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, tuple(value))
                if not value:
                    raise UserError(f"{name}: the list is empty; name at least one, or leave it out")
        object.__setattr__(self, "keep_features", parse_bytes(self.keep_features, "keep-features"))
        explicit_pairs(self.pairing)

    @classmethod
    def of(cls, options: dict[str, Any], base: Settings | None = None) -> Settings:
        """Settings from keywords, on top of others where `base` is given.

        Raises:
            TypeError: a keyword that is no setting. UserError: as the class.
        """
        for name in options:
            if name not in FIELDS:
                near = get_close_matches(name, FIELDS, n=1)
                raise TypeError(f"there is no setting {name!r}" + (f": did you mean {near[0]!r}?" if near else ""))
        return cls(**options) if base is None else dataclasses.replace(base, **options)

    @property
    def draws(self) -> int | None:
        """Rows a document gives: None (one) unless pooling is `token`."""
        return self.tokens_per_document if self.pooling == "token" else None

    @property
    def keep_bytes(self) -> int:
        """`keep_features` in bytes."""
        return int(self.keep_features)

    def record(self, command: str | None = None) -> dict[str, Any]:
        """What provenance keeps, as JSON data; `tokens_per_document` where tokens are drawn.

        Args:
            command: leave out what this one does not have.
        """
        kept = {
            name: list(value) if isinstance(value, tuple) else value
            for name, fact in FIELDS.items()
            if fact.field.metadata["recorded"] and command not in fact.field.metadata["lacking"]
            for value in (self.draws if name == "tokens_per_document" else getattr(self, name),)
        }
        return kept

    def for_protocol(self) -> tuple[Settings, tuple[int, ...]]:
        """The settings that a published protocol fixes, and the seeds of its draws.

        Raises:
            UserError: a setting that contradicts the protocol.
        """
        if self.protocol is None:
            return self, (self.seed,)
        wanted = {
            "documents": paper.DOCUMENTS,
            "max_length": paper.MAX_LENGTH,
            "dtype": paper.MODEL_DTYPE,
            "pooling": "mean",
            "sites": "residual",
            "batching": "sorted",
            "seed": paper.DRAW_SEEDS[0],
        }
        others = {
            name: (given, value)
            for name, value in wanted.items()
            if (given := getattr(self, name)) not in (FIELDS[name].field.default, value)
        }
        if others:
            asked = ", ".join(f"{name.replace('_', '-')} {given!r}" for name, (given, _) in others.items())
            has = ", ".join(repr(value) for _, value in others.values())
            verb = "contradicts" if len(others) == 1 else "contradict"
            raise UserError(f"{asked} {verb} protocol 'paper', which has {has}: leave one of them out")
        exact = dataclasses.replace(self, **dict[str, Any](wanted), plan="corpus-order", batch_size=paper.BATCH_SIZE)
        return exact, paper.DRAW_SEEDS


@dataclass(frozen=True)
class Fact:
    """A field with its type, without None: what it may be (`choices`, of a Literal)."""

    field: dataclasses.Field[Any]
    type: Any
    choices: tuple[str, ...]


def fact_of(of: dataclasses.Field[Any], hint: Any) -> Fact:
    """What the type `hint` says of a field."""
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    plain = [kind for kind in kinds if kind is not type(None)]
    choices = get_args(plain[0]) if get_origin(plain[0]) is Literal else ()
    return Fact(of, plain[0], choices)


@cache
def facts_of(options: Any) -> dict[str, Fact]:
    """The fields of a dataclass of options by name, in the order in which `--help` lists them."""
    hints = get_type_hints(options)
    return {one.name: fact_of(one, hints[one.name]) for one in dataclasses.fields(options)}


def check_options(options: Any, prefix: str = "") -> None:
    """Check the values of a dataclass of options against its choices and least numbers.

    Args:
        prefix: of a name in the message, "--" where only the terminal has it.

    Raises:
        UserError: a value that does not fit, by name.
    """
    for name, fact in facts_of(options.__class__).items():
        value, spelt, least = getattr(options, name), prefix + name.replace("_", "-"), fact.field.metadata["least"]
        if fact.choices and value is not None and value not in fact.choices:
            raise UserError(f"{spelt} {value!r} is not one of {', '.join(fact.choices)}")
        if fact.type is int and value is not None:
            if isinstance(value, bool) or not isinstance(value, int):
                raise UserError(f"{spelt} {value!r} is not a whole number")
            if least is not None and value < least:
                raise UserError(f"{spelt} {value} must be at least {least}")
            if value > (most := fact.field.metadata["most"]):
                raise UserError(f"{spelt} {quoted(value)} must be at most {most}")


FIELDS: dict[str, Fact] = facts_of(Settings)


def takes_settings(command: str) -> Callable[[Function], Function]:
    """Let a Python function that takes `**options` show the settings in its signature, as its terminal
    command has them."""

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        taken = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=fact.field.default, annotation=fact.field.type
            )
            for name, fact in FIELDS.items()
            if command not in fact.field.metadata["lacking"] and name not in signature.parameters
        ]
        function.__signature__ = signature.replace(parameters=[*own, *taken])  # type: ignore[attr-defined]
        return function

    return decorate
