import dataclasses

import pytest

from cka_tools.ablation.axes import AXES, Branch, Cell, StartName, control_seed, make_cells
from cka_tools.ablation.starts import Start
from cka_tools.ablation.tree import Budget, Tree, grow_tree
from cka_tools.errors import UserError
from cka_tools.manifest import NoiseKind
from cka_tools.training.recipe import OptimizerSettings, Phase

OPTIMIZER = OptimizerSettings(1e-3, (0.9, 0.98), 1e-8, 1e-5, 4)
BUDGET = Budget(n=1000, warmup=25, length=16, optimizer=OPTIMIZER, scale="demo")
STEP = 64
DEPTHS = {"8x128": 8, "4x64": 4}


def start_model(name: StartName, size: str, pretraining: tuple[Phase, ...] = ()) -> Start:
    layers, width = map(int, size.split("x"))
    config = {"num_hidden_layers": layers, "hidden_size": width, "is_decoder": name == "decoder"}
    return Start(name, size, None, config, pretraining)


def grow(
    axis: str,
    seeds: tuple[int, ...] = (1, 2),
    depths: dict[str, int] | None = None,
    noise: NoiseKind = "masks",
    **options,
) -> Tree:
    cells = make_cells(axis, depths or {"8x128": 8}, **options)
    starts = {}
    for cell in cells:
        for branch in (cell.detour, cell.baseline):
            scratch = branch.start == "decoder" or branch.size == "4x64"
            phases = BUDGET.pretraining("clm" if branch.start == "decoder" else "mlm", 500) if scratch else ()
            starts[branch.start, branch.size] = start_model(branch.start, branch.size, phases)
    return grow_tree(cells, seeds, starts, BUDGET, {"data": "x"}, noise)


def trained(tree: Tree) -> int:
    return sum(tree.shared_tokens().values())


def test_lengths_share_one_trunk_for_each_objective_and_seed():
    tree = grow("length")
    # Trunks of 2n, and a decay of 10 % of x·n for each x: detour, baseline and control, by two seeds.
    assert trained(tree) == 6 * (2000 + 10 + 25 + 50 + 100 + 200) * STEP
    assert sum(tree.unshared_tokens().values()) == (2 + 2 * 2) * round(1.1 * (100 + 250 + 500 + 1000 + 2000)) * STEP
    assert len(tree.segments) == 6 * 10
    # A control in another order is the baseline of the next seed, which is there already.
    assert trained(grow("length", noise="order")) * 3 == trained(tree) * 2


def test_axes_share_what_they_have_in_common():
    alone = sum(trained(grow(axis)) for axis in AXES if axis != "size")
    together = trained(grow("all"))
    # Of decay, freeze and direction the trunk of n and the decay of 10 % is there already, by both seeds, of
    # detour, baseline and control.
    assert alone - together == 3 * 6 * 1100 * STEP
    assert trained(grow("all", depths=DEPTHS)) > together


def test_the_size_axis_costs_nothing_beside_the_others():
    both = grow("all", depths=DEPTHS)
    without = grow("all", depths=DEPTHS, skip=["size"])
    assert set(both.segments) == set(without.segments)


def test_every_run_reads_its_own_tokens_from_start_to_leaf():
    tree = grow("all", depths=DEPTHS)
    for use in tree.uses:
        path = [s for s in tree.path(tree.leaf(use).key) if not s.is_start]
        assert sum(s.tokens for s in path) == BUDGET.tokens(use.branch)
        assert [s.first_step for s in path] == [sum(s.steps for s in path[:i]) for i in range(len(path))]
        assert {(s.seed, s.data_seed) for s in path} == {(use.run.masks, use.run.data)}
        assert [s.phase_index for s in path] == [0] * (len(path) - 1) + [1]
        assert path[-1].phase.frozen == use.branch.frozen[1]
        # One warm-up, at the very beginning.
        assert [s.phase.warmup_tokens for s in path] == [25 * STEP] + [0] * (len(path) - 1)


def test_parents_come_before_their_children():
    order = list(grow("all", depths=DEPTHS).segments.values())
    seen: set[str | None] = {None}
    for segment in order:
        assert segment.parent in seen
        seen.add(segment.key)


def test_decays_of_other_lengths_are_not_shared():
    tree = grow("decay", seeds=(1,))
    decays = [s for s in tree.segments.values() if s.phase.name == "decay" and s.phase.objective == "mlm"]
    assert sorted({s.steps for s in decays}) == [25, 100, 200, 300, 500, 1000]
    # Detour, baseline, and the baseline of another seed.
    assert len(decays) == 3 * 6


def test_frozen_trunks_are_trunks_of_their_own():
    tree = grow("freeze", seeds=(1,))
    frozen = {s.phase.frozen for s in tree.segments.values() if s.phase.name == "phase 1"}
    assert frozen == {(), (0, 1, 2), (3, 4, 5)}
    in_decay = [s for s in tree.segments.values() if s.phase.name == "decay" and s.phase.frozen]
    assert [s.phase.frozen for s in in_decay] == [(0, 1, 2)]


def test_the_papers_thirds_are_frozen_in_a_model_of_22_layers():
    names = [cell.name for cell in make_cells("freeze", {"22x768": 22})]
    assert names == ["none", "0-7 in CLM", "8-14 in CLM", "0-7 in decay"]


def test_another_seed_start_or_datum_makes_another_key():
    budget, cells = BUDGET, make_cells("size", DEPTHS)
    starts = {("encoder", size): start_model("encoder", size) for size in DEPTHS}

    def keys(data: str = "x", seeds: tuple[int, ...] = (1, 2), budget: Budget = budget, **other) -> set[str]:
        return set(grow_tree(cells, seeds, starts | other, budget, {"data": data}).segments)

    assert keys() == keys()
    assert not keys() & keys(data="y")
    assert not keys() & keys(seeds=(3, 4))
    assert not keys() & keys(budget=dataclasses.replace(budget, warmup=5))


def test_the_decoder_is_seen_causally_and_trained_the_other_way_round():
    encoder, decoder = make_cells("direction", {"8x128": 8})
    assert (encoder.detour.objectives, encoder.baseline.objectives) == (("clm", "mlm"), ("mlm", "mlm"))
    assert (decoder.detour.objectives, decoder.baseline.objectives) == (("mlm", "clm"), ("clm", "clm"))
    assert (encoder.causal, decoder.causal) == (False, True)
    tree = grow("direction")
    pretraining, annealing = (s for s in tree.segments.values() if s.is_start)
    assert [s.phase.objective for s in (pretraining, annealing)] == ["clm", "clm"]
    assert (pretraining.tokens, annealing.tokens) == (450 * STEP, 50 * STEP)
    assert (annealing.parent, annealing.first_step) == (pretraining.key, 450)
    assert (annealing.phase.schedule, annealing.phase.floor) == ("1-sqrt", 0.05)
    assert [tree.ends_start(s) for s in (pretraining, annealing)] == [False, True]


@pytest.mark.parametrize(("seeds", "controls"), [((1,), [2]), ((1, 2), [2, 1]), ((5, 1, 9), [1, 9, 5])])
def test_seed_noise_is_the_baseline_of_the_next_seed(seeds, controls):
    assert [control_seed(seed, seeds) for seed in seeds] == controls


def test_one_seed_costs_one_more_baseline():
    one, two = (trained(grow("length", seeds=seeds, noise="order")) for seeds in ((1,), (1, 2)))
    assert one * 4 == two * 3


@pytest.mark.parametrize(("noise", "order"), [("masks", 1), ("order", 2)])
def test_a_control_has_other_masks_and_on_demand_another_order(noise, order):
    controls = [use for use in grow("direction", seeds=(1,), noise=noise).uses if use.role == "control"]
    encoder, decoder = controls
    assert (encoder.run.masks, encoder.run.data, encoder.noise) == (2, order, noise)
    # A CLM baseline draws no masks: with the same order it would be the same run.
    assert (decoder.run.masks, decoder.run.data, decoder.noise) == (2, 2, "order")


@pytest.mark.parametrize("axis", [*AXES, "all"])
def test_every_cell_has_detour_baseline_and_control_for_each_seed(axis):
    tree = grow(axis, depths=DEPTHS)
    for cell in dict.fromkeys(use.cell for use in tree.uses):
        own = [use for use in tree.uses if use.cell == cell]
        assert [(use.seed, use.role) for use in own] == [
            (seed, role) for seed in (1, 2) for role in ("detour", "baseline", "control")
        ]
        assert own[0].branch.phase1 == own[1].branch.phase1
        assert own[0].branch.decay == own[1].branch.decay
        assert own[2].branch == own[1].branch
        assert own[2].run.masks != own[1].run.masks


def test_cells_can_be_left_out():
    every = make_cells("all", DEPTHS)
    kept = make_cells("all", DEPTHS, skip=["freeze@4x64", "decay:100 %@4x64"])
    assert {str(c) for c in every} - {str(c) for c in kept} == {
        "decay:100 %@4x64",
        *(f"freeze:{name}@4x64" for name in ("none", "0-1 in CLM", "2-2 in CLM", "0-1 in decay")),
    } - {"freeze:2-2 in CLM@4x64"} | {"freeze:2 in CLM@4x64"}


@pytest.mark.parametrize(
    ("axis", "options", "told"),
    [
        ("depth", {}, "'depth'"),
        ("size", {}, "axis 'size' has one size"),
        ("length", {"fractions": (0.5, 0.5)}, "twice"),
        ("length", {"fractions": (0,)}, "--fractions '0'"),
        ("decay", {"decays": ()}, "--decays"),
        ("length", {"skip": ["freeze"]}, "matches no cell"),
        ("length", {"skip": ["length"]}, "leaves no cell"),
    ],
)
def test_what_is_no_ablation_is_refused(axis, options, told):
    with pytest.raises(UserError, match=told):
        make_cells(axis, {"8x128": 8}, **options)


def test_a_phase_below_one_step_is_refused_and_the_least_n_fits():
    cells = make_cells("length", {"8x128": 8})
    short = dataclasses.replace(BUDGET, n=99)
    with pytest.raises(UserError, match=r"length:0.1@8x128.*at least 6,400"):
        short.check(cells)
    dataclasses.replace(BUDGET, n=100).check(cells)


def test_the_largest_n_that_fits_is_found():
    cells: list[Cell] = make_cells("length", {"8x128": 8})
    fitting = BUDGET.fit(cells, 1_000_000)
    assert fitting.longest(cells) <= 1_000_000
    assert dataclasses.replace(fitting, n=fitting.n + 1).longest(cells) > 1_000_000


def test_a_recipe_is_the_whole_run():
    branch = Branch("encoder", "8x128", ("clm", "mlm"), phase1=0.5, frozen=((0,), ()))
    recipe = BUDGET.recipe(branch)
    assert recipe.tokens == BUDGET.tokens(branch) == 550 * STEP
    assert (recipe.name, recipe.phases[0].name, recipe.phases[0].frozen) == ("clm-detour", "detour", (0,))
