"""The tree of an ablation: how long each run lasts, and the segments of training that runs share."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from cka_tools.ablation.axes import RECIPE_NAMES, Branch, Cell, control_seed
from cka_tools.ablation.starts import START_SEED, Start, StartKey
from cka_tools.errors import UserError
from cka_tools.manifest import NoiseKind
from cka_tools.models.folder import hash_json
from cka_tools.training.recipe import (
    ANNEALING_SHARE,
    START,
    START_LR,
    START_PHASES,
    ObjectiveName,
    OptimizerSettings,
    Phase,
    Recipe,
    constant_phase,
    decay_phase,
    pretraining_phases,
)


@dataclass(frozen=True)
class Budget:
    """n, the batch and the optimizer, equal for all runs of an ablation.

    Attributes:
        n: steps of Phase 1 at its full length.
        warmup: steps of the warm-up, equal in all runs, as they share it.
        length: tokens a packed sequence.
    """

    n: int
    warmup: int
    length: int
    optimizer: OptimizerSettings
    scale: str

    @property
    def step(self) -> int:
        """Tokens of an optimizer step."""
        return self.length * self.optimizer.sequences_per_step

    def phase1(self, branch: Branch) -> int:
        return round(branch.phase1 * self.n)

    def decay(self, branch: Branch) -> int:
        return round(branch.decay * self.phase1(branch))

    def tokens(self, branch: Branch) -> int:
        """Tokens of a whole run, its start model's not counted."""
        return (self.phase1(branch) + self.decay(branch)) * self.step

    def longest(self, cells: Iterable[Cell]) -> int:
        """Tokens that the longest run reads, of each seed's data."""
        return max(self.tokens(branch) for cell in cells for branch in (cell.detour, cell.baseline))

    def check(self, cells: Iterable[Cell]) -> None:
        """Raise a UserError where a phase would be shorter than one step."""
        share, cell = min((c.detour.phase1 * min(c.detour.decay, 1.0), str(c)) for c in cells)
        if share * self.n < 1 - 1e-9:
            least = math.ceil(1 / share - 1e-9) * self.step
            raise UserError(
                f"n of {self.n * self.step:,} tokens makes a phase of cell {cell!r} shorter than one step of "
                f"{self.step:,} tokens: give --n of at least {least:,}, or smaller steps"
            )

    def fit(self, cells: list[Cell], tokens: int) -> Budget:
        """Return the budget with the largest n whose longest run reads no more than `tokens`."""
        share = max(cell.detour.phase1 * (1 + cell.detour.decay) for cell in cells)
        n = int(tokens / self.step / share)
        fitting = dataclasses.replace(self, n=n)
        while fitting.n and fitting.longest(cells) > tokens:
            fitting = dataclasses.replace(fitting, n=fitting.n - 1)
        return fitting

    def phase1_piece(self, branch: Branch, start: int, stop: int) -> Phase:
        """Return Phase 1 from one step to another; the pieces of one Phase 1 together equal it."""
        warmup = self.warmup * self.step if start == 0 else 0
        tokens = (stop - start) * self.step
        return constant_phase("phase 1", branch.objectives[0], tokens, warmup, branch.frozen[0])

    def decay_phase(self, branch: Branch) -> Phase:
        return decay_phase(branch.objectives[1], self.decay(branch) * self.step, branch.frozen[1])

    def recipe(self, branch: Branch) -> Recipe:
        """Return a whole run's recipe, as `cka train` takes it."""
        name = RECIPE_NAMES[branch.objectives]
        phase1 = self.phase1_piece(branch, 0, self.phase1(branch))
        if name.endswith("detour"):
            phase1 = dataclasses.replace(phase1, name="detour")
        return self.recipe_of(name, (phase1, self.decay_phase(branch)))

    def pretraining(self, objective: ObjectiveName, steps: int) -> tuple[Phase, ...]:
        """Return the phases of a start model of random weights, of so many steps, at least 2."""
        annealed = max(1, round(steps * ANNEALING_SHARE))
        lengths = (steps - annealed) * self.step, annealed * self.step, self.warmup * self.step
        return pretraining_phases(objective, *lengths)

    def start_recipe(self, phases: tuple[Phase, ...]) -> Recipe:
        """Return the recipe of a start model that is trained here, at a peak rate of its own."""
        return dataclasses.replace(self.recipe_of(START, phases), peak_lr=START_LR)

    def recipe_of(self, name: str, phases: tuple[Phase, ...]) -> Recipe:
        settings = dataclasses.asdict(self.optimizer)
        return Recipe(name, self.scale, phases, sequence_length=self.length, **settings)


Role = Literal["detour", "baseline", "control"]


@dataclass(frozen=True)
class Segment:
    """A piece of training, from one checkpoint to the next.

    Attributes:
        key: hash of all that fixes its result.
        parent: the segment it goes on from; None for the first after a start model.
        phase, phase_index, seed, data_seed: as `train_phase` takes them.
        first_step: of its data, counted in optimizer steps.
        recipe: of the run that ends here, or that a trunk's piece is the beginning of.
    """

    key: str
    parent: str | None
    start: StartKey
    phase: Phase
    phase_index: int
    seed: int
    data_seed: int
    first_step: int
    steps: int
    recipe: Recipe

    def __str__(self) -> str:
        return f"{self.start[1]} {self.phase.name} ({self.phase.objective}) seed {self.seed}"

    @property
    def tokens(self) -> int:
        return self.phase.tokens

    @property
    def is_start(self) -> bool:
        return self.phase.name in START_PHASES


@dataclass(frozen=True)
class Seeds:
    """What a run draws from: `masks` fixes masks and dropout, `data` the order of the documents."""

    masks: int
    data: int


@dataclass(frozen=True)
class Use:
    """Whose run it is: a cell's, as seen with one seed.

    Attributes:
        run: the seeds of the run itself; a control's differ from its baseline's.
        noise: in what a control differs from its baseline; None for the other roles.
    """

    cell: Cell
    seed: int
    role: Role
    branch: Branch
    run: Seeds
    noise: NoiseKind | None = None


@dataclass
class Tree:
    """All segments, parents before children, depth first; and the leaf in which each run ends."""

    segments: dict[str, Segment] = field(default_factory=dict)
    leaves: dict[tuple[Branch, Seeds], str] = field(default_factory=dict)
    uses: list[Use] = field(default_factory=list)

    def children(self, key: str | None, start: StartKey | None = None) -> list[Segment]:
        """Segments that go on from a segment, or (None) directly from a start model."""
        return [s for s in self.segments.values() if s.parent == key and start in (None, s.start)]

    def ends_start(self, segment: Segment) -> bool:
        """Tell whether a start model is finished with this segment."""
        return segment.is_start and not any(child.is_start for child in self.children(segment.key))

    def path(self, key: str) -> list[Segment]:
        """Segments from the start model to this one."""
        segment = self.segments[key]
        return [*([] if segment.parent is None else self.path(segment.parent)), segment]

    def leaf(self, use: Use) -> Segment:
        return self.segments[self.leaves[use.branch, use.run]]

    def shared_tokens(self) -> dict[tuple[str, str], int]:
        """Tokens to train, by size and objective, each segment once."""
        return sum_tokens(self.segments.values())

    def unshared_tokens(self) -> dict[tuple[str, str], int]:
        """The same with a run of its own for every detour, baseline and control; start models count once."""
        every = [s for use in self.uses for s in self.path(self.leaves[use.branch, use.run])]
        starts = [s for s in self.segments.values() if s.is_start]
        return sum_tokens([*starts, *(s for s in every if not s.is_start)])


def sum_tokens(segments: Iterable[Segment]) -> dict[tuple[str, str], int]:
    """Return the tokens of segments by size and objective."""
    total: dict[tuple[str, str], int] = defaultdict(int)
    for segment in segments:
        total[segment.start[1], segment.phase.objective] += segment.tokens
    return dict(total)


def list_uses(cells: Sequence[Cell], seeds: Sequence[int], noise: NoiseKind = "masks") -> list[Use]:
    """Return what each cell needs: for every seed its detour, its baseline, and the control.

    A baseline without any MLM draws no masks: its control takes another order whatever `noise` says, as it
    would be the same run otherwise.
    """
    uses = []
    for cell in cells:
        kind = noise if "mlm" in cell.baseline.objectives else "order"
        for seed in seeds:
            own, other = Seeds(seed, seed), control_seed(seed, seeds)
            control = Seeds(other, seed if kind == "masks" else other)
            uses += [
                Use(cell, seed, "detour", cell.detour, own),
                Use(cell, seed, "baseline", cell.baseline, own),
                Use(cell, seed, "control", cell.baseline, control, kind),
            ]
    return uses


def grow_tree(
    cells: Sequence[Cell],
    seeds: Sequence[int],
    starts: Mapping[StartKey, Start],
    budget: Budget,
    identity: dict[str, Any],
    noise: NoiseKind = "masks",
) -> Tree:
    """Return the tree of all runs that the cells need.

    Args:
        noise: in what a control differs from its baseline: "masks" or "order".
        identity: JSON data that every segment depends on besides its own: data, optimizer, precision.

    Raises:
        UserError: a phase shorter than one step.
    """
    budget.check(cells)
    uses = list_uses(cells, seeds, noise)
    tree = Tree(uses=uses)
    runs = list(dict.fromkeys((use.branch, use.run) for use in uses))
    trunks: dict[tuple[Any, ...], list[tuple[Branch, Seeds]]] = defaultdict(list)
    for branch, seeds_of in runs:
        trunk = branch.start, branch.size, branch.objectives[0], branch.frozen[0], seeds_of
        trunks[trunk].append((branch, seeds_of))

    def plant(
        parent: str | None, start: Start, phase: Phase, index: int, run: Seeds, first: int, recipe: Recipe
    ) -> str:
        root = parent or json.dumps(start.identity, sort_keys=True)
        content = [root, identity, phase.to_dict(), index, run.masks, first]
        # Left out where one number is both: as in trees of before there were two.
        content += [] if run.data == run.masks else [run.data]
        key = hash_json(content)
        steps = phase.tokens // budget.step
        tree.segments[key] = Segment(key, parent, start.key, phase, index, run.masks, run.data, first, steps, recipe)
        return key

    planted: dict[StartKey, str | None] = {}
    for (name, size, *_), members in trunks.items():
        start = starts[name, size]
        if start.key not in planted:
            planted[start.key], at = None, 0
            for index, phase in enumerate(start.pretraining):
                recipe = budget.start_recipe(start.pretraining)
                run = Seeds(START_SEED, START_SEED)
                planted[start.key] = plant(planted[start.key], start, phase, index, run, at, recipe)
                at += phase.tokens // budget.step
        parent = planted[start.key]
        cuts = sorted({budget.phase1(branch) for branch, _ in members})
        for begin, end in pairwise([0, *cuts]):
            ending = [member for member in members if budget.phase1(member[0]) == end]
            branch, run = ending[0]
            piece = budget.phase1_piece(branch, begin, end)
            parent = plant(parent, start, piece, 0, run, begin, budget.recipe(branch))
            for branch, run in ending:
                phase = budget.decay_phase(branch)
                tree.leaves[branch, run] = plant(parent, start, phase, 1, run, end, budget.recipe(branch))
    tree.segments = {s.key: s for key in starts for s in _depth_first(tree, None, key)}
    return tree


def _depth_first(tree: Tree, parent: str | None, start: StartKey) -> Iterable[Segment]:
    # Decays before the trunk's next piece: what a cell needs is there early.
    for segment in sorted(tree.children(parent, start), key=lambda s: s.phase_index == 0):
        yield segment
        yield from _depth_first(tree, segment.key, start)
