import math

import pytest
import torch

from cka_tools.training.loop import adamw, torch_weight_decay
from cka_tools.training.recipe import PAPER, OptimizerSettings, learning_rate, preset


def test_the_warm_up_starts_one_step_above_zero_reaches_the_peak_and_stays() -> None:
    rates = [learning_rate("warmup-constant", s, steps=20, peak=2e-4, warmup_steps=4) for s in range(20)]
    assert rates[:4] == pytest.approx([0.5e-4, 1e-4, 1.5e-4, 2e-4])
    assert set(rates[3:]) == {2e-4}


@pytest.mark.parametrize("steps", [1, 7, 73, 318])
def test_the_decay_ends_at_exactly_a_tenth_of_the_peak(steps: int) -> None:
    rates = [learning_rate("1-sqrt", s, steps=steps, peak=1.0, floor=0.1) for s in range(steps)]
    assert rates[-1] == 0.1
    assert rates == sorted(rates, reverse=True)
    assert rates[0] < 1.0


def test_the_decay_has_the_1_sqrt_shape() -> None:
    # A quarter of the way on, √¼ = ½ of the fall is behind.
    assert learning_rate("1-sqrt", 24, steps=100, peak=1.0, floor=0.1) == pytest.approx(0.55)
    for step in (0, 49, 98):
        expected = 0.1 + 0.9 * (1 - math.sqrt((step + 1) / 100))
        assert learning_rate("1-sqrt", step, steps=100, peak=1.0, floor=0.1) == pytest.approx(expected)


def test_a_step_outside_the_phase_is_an_error() -> None:
    for step in (-1, 10):
        with pytest.raises(ValueError, match="outside"):
            learning_rate("1-sqrt", step, steps=10, peak=1.0)


def test_the_papers_recipe_has_the_papers_constants() -> None:
    detour, baseline = preset("clm-detour", "paper"), preset("mlm-baseline", "paper")
    assert (detour.peak_lr, detour.betas, detour.weight_decay) == (2e-4, (0.9, 0.98), 1e-5)
    assert detour.tokens_per_step == 384 * 8192 == 3_145_728
    assert [phase.tokens for phase in detour.phases] == [10**10, 10**9]
    assert [phase.objective for phase in detour.phases] == ["clm", "mlm"]
    assert baseline.phases[0].masking is not None
    assert baseline.phases[0].masking.rate == 0.3
    assert detour.phases[1] == baseline.phases[1]
    assert detour.phases[1].masking is not None
    assert detour.phases[1].masking.rate == 0.15
    phase1, decay = detour.phases
    warmup = round(PAPER.warmup_tokens / detour.tokens_per_step)
    assert detour.learning_rate(phase1, 0) == pytest.approx(2e-4 / warmup)
    for step in (warmup - 1, detour.steps(phase1) - 1):
        assert detour.learning_rate(phase1, step) == 2e-4
    assert detour.learning_rate(decay, detour.steps(decay) - 1) == 2e-4 * 0.1


@pytest.mark.parametrize("scale", ["paper", "demo"])
def test_detour_and_baseline_differ_in_the_first_objective_only(scale: str) -> None:
    detour, baseline = (preset(name, scale).to_dict() for name in ("clm-detour", "mlm-baseline"))  # type: ignore
    assert detour.pop("name") != baseline.pop("name")
    for recipe in (detour, baseline):
        for key in ("name", "objective", "masking"):
            recipe["phases"][0].pop(key)
    assert detour == baseline


def test_weight_decay_is_computed_from_the_peak() -> None:
    assert torch_weight_decay(1e-5, 2e-4) == pytest.approx(0.05)
    assert torch_weight_decay(1e-5, 1e-3) == pytest.approx(0.01)


@pytest.mark.parametrize(("shape", "decays"), [((1, 2), True), ((2,), False)], ids=["matrix", "bias"])
def test_the_update_is_the_papers_decoupled_form_and_spares_biases_and_norms(
    shape: tuple[int, ...], decays: bool
) -> None:
    peak, decay, betas, eps = 2e-4, 1e-5, (0.9, 0.98), 1e-6
    start, gradients = [3.0, -2.0], [[0.5, -1.0], [0.25, 2.0], [-1.5, 0.1]]
    rates = [peak, peak * 0.7, peak * 0.1]
    model = torch.nn.ParameterList([torch.tensor(start, dtype=torch.float64).reshape(shape)])
    optimizer = adamw(model, OptimizerSettings(peak, betas, eps, decay, sequences_per_step=1))
    expected, m, v = list(start), [0.0, 0.0], [0.0, 0.0]
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        for group in optimizer.param_groups:
            group["lr"] = rate
        model[0].grad = torch.tensor(gradient, dtype=torch.float64).reshape(shape)
        optimizer.step()
        for i, g in enumerate(gradient):
            m[i] = betas[0] * m[i] + (1 - betas[0]) * g
            v[i] = betas[1] * v[i] + (1 - betas[1]) * g * g
            adam = m[i] / (1 - betas[0] ** t) / (math.sqrt(v[i] / (1 - betas[1] ** t)) + eps)
            expected[i] -= (rate / peak * decay * expected[i] if decays else 0.0) + rate * adam
        assert model[0].ravel().tolist() == pytest.approx(expected, rel=1e-12)
