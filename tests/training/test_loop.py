import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import ModernBertForMaskedLM

from cka_tools.errors import UserError
from cka_tools.processes import make_accelerator
from cka_tools.training.attention import ANYWHERE
from cka_tools.training.loop import LOSS_ROWS, PhaseState, adamw, check_fits, evaluate, run_steps, sequences_of
from cka_tools.training.objectives import Objective, TargetLoss
from cka_tools.training.packing import PackedTokens, pack_tokens
from cka_tools.training.recipe import Masking, ObjectiveName, Phase, Recipe

MASK, SEPARATOR, SPECIAL, VOCABULARY = 4, 3, (0, 1, 2, 3, 4), 32
Build = Callable[..., ModernBertForMaskedLM]


def phase(objective: ObjectiveName, tokens: int, name: str = "one", rate: float = 0.3) -> Phase:
    masking = Masking(rate) if objective == "mlm" else None
    return Phase(name, objective, tokens, "warmup-constant", masking, warmup_tokens=tokens // 10)


def recipe(*phases: Phase, length: int = 16, per_step: int = 4, peak_lr: float = 3e-3) -> Recipe:
    return Recipe("test", "test", phases, peak_lr, (0.9, 0.98), 1e-8, 1e-5, length, per_step)


def train(
    model: ModernBertForMaskedLM,
    data: PackedTokens,
    plan: Recipe,
    *,
    seed: int,
    mask_id: int | None,
    sequences_per_forward: int | None = None,
) -> list[PhaseState]:
    """Train in place, in memory, through all phases; return what each leaves."""
    accelerator, adam, first, states = make_accelerator(cpu=True), adamw(model, plan.optimizer), 0, []
    for index, one in enumerate(plan.phases):
        sequences = sequences_of(one, data, plan.optimizer, first)
        check_fits(model, data, sequences, mask_id, one)
        states.append(PhaseState())
        run_steps(
            model,
            data,
            one,
            Objective(one.objective, one.masking, mask_id, VOCABULARY, seed, index),
            adam,
            plan.optimizer,
            states[-1],
            accelerator,
            first_sequence=first,
            sequences_per_forward=sequences_per_forward,
        )
        first = sequences.stop
    return states


def repeated(data: PackedTokens, times: int) -> PackedTokens:
    return PackedTokens(np.tile(data.input_ids, (times, 1)), np.tile(data.document_ids, (times, 1)), SEPARATOR, SPECIAL)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="2 processes were launched here to train on 1 GPUs: start one a GPU"):
        make_accelerator(cpu=False)


@pytest.mark.parametrize("implementation", ANYWHERE)
@pytest.mark.parametrize("objective", ["clm", "mlm"])
def test_ten_sequences_are_learnt_by_heart(
    tiny_model: Build, pack: Callable[..., PackedTokens], objective: ObjectiveName, implementation: str
) -> None:
    model, ten = tiny_model(implementation), pack([9, 22, 40, 3, 30, 50], length=16)
    assert ten.sequences == 10
    task = Objective(objective, Masking(0.15) if objective == "mlm" else None, MASK, VOCABULARY, seed=9, phase=0)
    before = evaluate(model, ten, task)
    steps = 200 if objective == "clm" else 300
    (state,) = train(
        model, repeated(ten, steps), recipe(phase(objective, steps * 160), per_step=10), seed=1, mask_id=MASK
    )
    after = evaluate(model, ten, task)
    assert state.step == steps
    assert before > 3.0
    # By chance alone it is ln 27 = 3.3.
    assert after < (0.5 if objective == "clm" else 1.0)


def test_clm_without_a_causal_mask_would_be_caught(tiny_model: Build, pack: Callable[..., PackedTokens]) -> None:
    """A copying model reaches zero loss; a causal one stays at the entropy of unseen random tokens."""
    model, data = tiny_model(), pack([63] * 400, length=16)
    train(model, data, recipe(phase("clm", 300 * 64)), seed=1, mask_id=MASK)
    unseen = pack([63] * 20, length=16, seed=5)
    loss = evaluate(model, unseen, Objective("clm", None, MASK, VOCABULARY, seed=0, phase=0))
    assert loss > 0.9 * np.log(27)


@pytest.mark.parametrize("objective", ["clm", "mlm"])
def test_a_step_cut_into_forward_passes_gives_the_same_losses(
    tiny_model: Build, pack: Callable[..., PackedTokens], objective: ObjectiveName
) -> None:
    data, plan = pack([7, 33, 20, 5, 120, 64], length=16), recipe(phase(objective, 3 * 64))
    curves = [
        [
            row.loss
            for state in train(tiny_model(), data, plan, seed=1, mask_id=MASK, sequences_per_forward=n)
            for row in state.losses
        ]
        for n in (None, 3, 1)
    ]
    assert curves[1] == pytest.approx(curves[0], abs=1e-5)
    assert curves[2] == pytest.approx(curves[0], abs=1e-5)


def test_the_same_run_gives_the_same_weights_and_another_seed_others(
    tiny_model: Build, pack: Callable[..., PackedTokens]
) -> None:
    data, plan = pack([400], length=16), recipe(phase("mlm", 5 * 64))
    weights = []
    for seed in (1, 1, 2):
        model = tiny_model()
        train(model, data, plan, seed=seed, mask_id=MASK)
        weights.append(model.model.layers[0].attn.Wqkv.weight.detach())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_second_phase_reads_on_and_keeps_the_optimizers_state(
    tiny_model: Build, pack: Callable[..., PackedTokens]
) -> None:
    data = pack([600], length=16)
    one = recipe(dataclasses.replace(phase("clm", 8 * 64), warmup_tokens=0))
    halves = (dataclasses.replace(phase("clm", 4 * 64, name), warmup_tokens=0) for name in ("a", "b"))
    two = recipe(*halves)
    models = [tiny_model(), tiny_model()]
    for model, plan in zip(models, (one, two), strict=True):
        train(model, data, plan, seed=1, mask_id=MASK)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_loss_is_the_mean_over_targets(tiny_model: Build, pack: Callable[..., PackedTokens]) -> None:
    model, data = tiny_model(), pack([7, 33, 20, 5], length=16)
    batch = Objective("clm", None, MASK, VOCABULARY, 0, 0).batch(data, range(data.sequences))
    with torch.inference_mode():
        ours = TargetLoss(model)(batch) / batch.targets
        masks = {"full_attention": None, "sliding_attention": None}
        owner = torch.from_numpy(batch.document_ids)
        seen = (owner[:, None, :, None] == owner[:, None, None, :]).tril()
        near = torch.ones(16, 16).triu(-4).bool()
        masks = {"full_attention": seen, "sliding_attention": seen & near}
        logits = model(torch.from_numpy(batch.input_ids), attention_mask=masks).logits
        theirs = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), torch.from_numpy(batch.labels).flatten(), ignore_index=-100
        )
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(
    tiny_model: Build, pack: Callable[..., PackedTokens]
) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.decoder.bias.fill_(float("nan"))
    with pytest.raises(UserError, match="loss of step 0"):
        train(model, pack([400], length=16), recipe(phase("clm", 4 * 64)), seed=1, mask_id=MASK)


def test_impossible_runs_are_refused_before_training(tiny_model: Build, pack: Callable[..., PackedTokens]) -> None:
    data, plan = pack([200], length=16), recipe(phase("clm", 3 * 64))
    with pytest.raises(UserError, match="needs 6,400 tokens"):
        train(tiny_model(), data, recipe(phase("clm", 6400)), seed=1, mask_id=MASK)
    with pytest.raises(UserError, match="positions"):
        train(tiny_model(), pack([700], length=128), recipe(phase("clm", 512), length=128), seed=1, mask_id=MASK)
    foreign = pack_tokens([[40] * 200], length=16, separator=SEPARATOR)
    with pytest.raises(UserError, match="token id 40"):
        train(tiny_model(), foreign, plan, seed=1, mask_id=MASK)
    with pytest.raises(UserError, match=r"\[MASK\]"):
        train(tiny_model(), data, recipe(phase("mlm", 3 * 64)), seed=1, mask_id=None)
    with pytest.raises(UserError, match="shorter than one step"):
        recipe(phase("clm", 63))
    with pytest.raises(UserError, match="no 'model'"):
        TargetLoss(torch.nn.Sequential())  # type: ignore[arg-type]


def test_the_loss_curve_of_a_phase_has_at_most_two_hundred_rows(
    tiny_model: Build, pack: Callable[..., PackedTokens]
) -> None:
    data = pack([4 * 16 * 450], length=16)
    plan = recipe(phase("clm", 401 * 16, "a"), phase("mlm", 40 * 16, "b"), per_step=1)
    first, last = train(tiny_model(), data, plan, seed=1, mask_id=MASK)
    assert 100 < len(first.losses) <= LOSS_ROWS
    assert len(last.losses) == 40
    assert last.losses[-1].step == 441
    assert {row.phase for row in first.losses} == {"a"}


def test_clm_of_two_seeds_on_one_order_is_one_run_and_mlm_is_two(
    tiny_model: Build, pack: Callable[..., PackedTokens]
) -> None:
    data, weights = pack([600], length=16), {}
    for objective in ("clm", "mlm"):
        for seed in (1, 2):
            model = tiny_model()
            train(model, data, recipe(phase(objective, 5 * 64)), seed=seed, mask_id=MASK)  # type: ignore[arg-type]
            weights[objective, seed] = model.model.layers[0].attn.Wqkv.weight.detach()
    assert torch.equal(weights["clm", 1], weights["clm", 2])
    assert not torch.equal(weights["mlm", 1], weights["mlm", 2])
