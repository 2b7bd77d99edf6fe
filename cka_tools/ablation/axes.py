"""What each axis asks: its cells, each a detour and the baseline of the same tokens and decay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from cka_tools.errors import UserError
from cka_tools.training.options import DECAYS, FRACTIONS
from cka_tools.training.recipe import DECAY_SHARE, DETOURS, ObjectiveName, third

StartName = Literal["encoder", "decoder"]
Objectives = tuple[ObjectiveName, ObjectiveName]
FrozenLayers = tuple[tuple[int, ...], tuple[int, ...]]

DETOUR, BASELINE, REVERSE_DETOUR, CLM_BASELINE = DETOURS.values()
RECIPE_NAMES: Final[dict[Objectives, str]] = {objectives: name for name, objectives in DETOURS.items()}


@dataclass(frozen=True)
class Branch:
    """A run without its seed.

    Attributes:
        start, size: which start model it leaves from, and that one's shape, as "8x128".
        objectives: of Phase 1 and of the decay.
        phase1: tokens of Phase 1, as a share of n.
        decay: tokens of the decay, as a share of Phase 1.
        frozen: layers that do not learn in Phase 1, and in the decay.
    """

    start: StartName
    size: str
    objectives: Objectives
    phase1: float = 1.0
    decay: float = DECAY_SHARE
    frozen: FrozenLayers = ((), ())


@dataclass(frozen=True)
class Cell:
    """One point of an axis; `position` is its number on the axis, None where the axis has none."""

    axis: str
    name: str
    position: float | None
    detour: Branch
    baseline: Branch

    @property
    def size(self) -> str:
        return self.detour.size

    @property
    def causal(self) -> bool:
        """Whether the models are seen under the causal mask."""
        return self.detour.start == "decoder"

    def __str__(self) -> str:
        return f"{self.axis}:{self.name}@{self.size}"


AXES: Final = ("length", "decay", "freeze", "size", "direction")


def axis_cells(axis: str, size: str, layers: int, fractions: Sequence[float], decays: Sequence[float]) -> list[Cell]:
    """Return an axis's cells at one size.

    length: how much CLM, Phase 1 of x·n tokens, then a decay of 10 % of that; decay: how much of it after
    Phase 1 of n tokens; freeze: which layers must learn, and when, the paper's three interventions and none;
    size: whether more capacity keeps more of a mark, the same detour in every size; direction: the detour,
    and the reverse detour of a decoder of that shape and data.
    """

    def cell(
        name: str,
        position: float | None = None,
        objectives: tuple[Objectives, Objectives] = (DETOUR, BASELINE),
        start: StartName = "encoder",
        frozen: FrozenLayers = ((), ()),
        phase1: float = 1.0,
        decay: float = DECAY_SHARE,
    ) -> Cell:
        detour, baseline = (Branch(start, size, own, phase1, decay) for own in objectives)
        return Cell(axis, name, position, replace(detour, frozen=frozen), baseline)

    if axis == "length":
        return [cell(f"{x:g}", x, phase1=x) for x in fractions]
    if axis == "decay":
        return [cell(f"{100 * d:g} %", d, decay=d) for d in decays]
    if axis == "freeze":
        low, middle = third("low", layers), third("middle", layers)
        return [
            cell("none"),
            cell(f"{span(low)} in CLM", frozen=(low, ())),
            cell(f"{span(middle)} in CLM", frozen=(middle, ())),
            cell(f"{span(low)} in decay", frozen=((), low)),
        ]
    if axis == "size":
        return [cell(size)]
    return [cell("encoder"), cell("decoder", None, (REVERSE_DETOUR, CLM_BASELINE), "decoder")]


ALL: Final = "all"


def check_axis(axis: str) -> tuple[str, ...]:
    """Return the axes that a name stands for.

    Raises:
        UserError: no such axis.
    """
    if axis == ALL:
        return AXES
    if axis not in AXES:
        raise UserError(f"no axis is called {axis!r}: choose from {', '.join(AXES)} or {ALL}")
    return (axis,)


def make_cells(
    axis: str,
    depths: Mapping[str, int],
    *,
    fractions: Sequence[float] = FRACTIONS,
    decays: Sequence[float] = DECAYS,
    skip: Sequence[str] = (),
) -> list[Cell]:
    """Return the cells of an axis, or of all, for models of these sizes.

    Args:
        depths: layers by size.
        skip: cells to leave out: AXIS, AXIS:CELL, @SIZE, AXIS@SIZE or AXIS:CELL@SIZE.

    Raises:
        UserError: no such axis, shares that are none, a skip that matches nothing, or no cell left.
    """
    axes = check_axis(axis)
    for name, shares in (("--fractions", fractions), ("--decays", decays)):
        if not shares or any(not 0 < share < float("inf") for share in shares):
            given = ",".join(f"{share:g}" for share in shares)
            raise UserError(f"{name} {given!r} does not fit: give numbers above 0, such as 0.1,0.5,1")
        if len(set(shares)) < len(shares):
            raise UserError(f"{name} names a share twice: give each once")
    if axis == "size" and len(depths) < 2:
        raise UserError(
            f"axis 'size' has one size, {', '.join(depths)}: add another --start, a model or a shape like 4x64"
        )
    cells = [
        cell
        for size, layers in depths.items()
        for one in axes
        for cell in axis_cells(one, size, layers, sorted(fractions), sorted(decays))
    ]
    for left_out in skip:
        kept = [cell for cell in cells if not _matches(cell, left_out)]
        if len(kept) == len(cells):
            raise UserError(
                f"--skip {left_out!r} matches no cell: write AXIS, AXIS:CELL, @SIZE or AXIS:CELL@SIZE, "
                f"such as {cells[0] if cells else 'freeze@4x64'}"
            )
        cells = kept
    if not cells:
        raise UserError("--skip leaves no cell: leave out less")
    return cells


def control_seed(seed: int, seeds: Sequence[int]) -> int:
    """Return the seed of a seed's control: the next of those given, or one of its own."""
    return seeds[(seeds.index(seed) + 1) % len(seeds)] if len(seeds) > 1 else seed + 1


def span(layers: Sequence[int]) -> str:
    """Layers of a third as a cell's name has them: "0-7"."""
    return f"{layers[0]}-{layers[-1]}" if len(layers) > 1 else f"{layers[0]}"


def _matches(cell: Cell, pattern: str) -> bool:
    what, _, size = pattern.partition("@")
    axis, _, name = what.partition(":")
    return axis in ("", cell.axis) and name in ("", cell.name) and size in ("", cell.size) and bool(pattern)
