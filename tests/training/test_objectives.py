from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cka_tools.errors import UserError
from cka_tools.training.objectives import IGNORED, Objective, clm_labels, mlm_inputs_and_labels
from cka_tools.training.packing import PackedTokens
from cka_tools.training.recipe import Masking

VOCABULARY, SEPARATOR, MASK = 32, 3, 4
SPECIAL = (0, 1, 2, 3, 4)


def objective(name: str, rate: float = 0.3, seed: int = 1, phase: int = 0) -> Objective:
    return Objective(name, Masking(rate) if name == "mlm" else None, MASK, VOCABULARY, seed, phase)  # type: ignore


def test_the_clm_label_is_the_next_token_and_the_separator_is_the_last_target() -> None:
    ids = np.array([[2, 5, 6, 3, 2, 7, 3, 8]])
    owner = np.array([[0, 0, 0, 0, 1, 1, 1, 2]])
    assert clm_labels(ids, owner).tolist() == [[5, 6, 3, IGNORED, 7, 3, IGNORED, IGNORED]]


def test_clm_inputs_are_the_packed_tokens(pack: Callable[..., PackedTokens]) -> None:
    data = pack([5, 9, 2, 14], length=8)
    batch = objective("clm").batch(data, range(1, 3))
    assert batch.causal
    assert np.array_equal(batch.input_ids, data.input_ids[1:3])
    assert np.array_equal(batch.document_ids, data.document_ids[1:3])


@given(st.integers(0, 2**31), st.integers(0, 3), st.integers(0, 10**9))
def test_mlm_never_masks_a_special_token_and_keeps_what_is_no_target(seed: int, phase: int, sequence: int) -> None:
    ids = np.random.default_rng(sequence).integers(0, VOCABULARY, size=64)
    inputs, labels = mlm_inputs_and_labels(
        ids,
        Masking(0.5),
        mask_id=MASK,
        special_ids=SPECIAL,
        vocabulary_size=VOCABULARY,
        seed=seed,
        phase=phase,
        sequence=sequence,
    )
    special = np.isin(ids, SPECIAL)
    assert (labels[special] == IGNORED).all()
    assert np.array_equal(inputs[labels == IGNORED], ids[labels == IGNORED])
    assert np.array_equal(labels[labels != IGNORED], ids[labels != IGNORED])
    inserted = inputs[(inputs != ids) & (inputs != MASK)]
    assert not np.isin(inserted, SPECIAL).any()


def test_masks_depend_on_seed_phase_and_sequence_and_not_on_the_batch(pack: Callable[..., PackedTokens]) -> None:
    data = pack([700], length=64)
    whole = objective("mlm").batch(data, range(10))
    for i in reversed(range(10)):
        alone = objective("mlm").batch(data, range(i, i + 1))
        assert np.array_equal(alone.input_ids[0], whole.input_ids[i])
        assert np.array_equal(alone.labels[0], whole.labels[i])
    targets = [whole.labels != IGNORED]
    targets += [objective("mlm", seed=2).batch(data, range(10)).labels != IGNORED]
    targets += [objective("mlm", phase=1).batch(data, range(10)).labels != IGNORED]
    targets += [np.roll(targets[0], 1, axis=0)]
    for i, one in enumerate(targets):
        for other in targets[:i]:
            assert not np.array_equal(one, other)


def test_the_masking_rate_and_the_replacement_rule_hold() -> None:
    ids = np.full(200_000, 7)
    draw = partial(
        mlm_inputs_and_labels,
        ids,
        mask_id=MASK,
        special_ids=SPECIAL,
        vocabulary_size=VOCABULARY,
        seed=0,
        phase=0,
        sequence=0,
    )
    inputs, labels = draw(Masking(0.3))
    target = labels != IGNORED
    assert target.mean() == pytest.approx(0.3, abs=0.005)
    assert (inputs[target] == MASK).mean() == pytest.approx(0.8, abs=0.005)
    # A tenth is random, and one random token in 27 is the token itself.
    assert (inputs[target] == 7).mean() == pytest.approx(0.1 + 0.1 / 27, abs=0.005)
    all_masked, _ = draw(Masking(0.3, mask=1.0, random=0.0))
    assert (all_masked[target] == MASK).all()


def test_both_objectives_read_the_same_packed_data(pack: Callable[..., PackedTokens]) -> None:
    data = pack([5, 9, 30, 14], length=8)
    before = data.fingerprint
    for name in ("clm", "mlm"):
        objective(name).batch(data, range(data.sequences))
    assert PackedTokens(data.input_ids, data.document_ids, SEPARATOR, SPECIAL).fingerprint == before


@pytest.mark.parametrize("shares", [(0.0, 0.8, 0.1), (1.0, 0.8, 0.1), (0.3, 0.8, 0.3), (0.3, -0.1, 0.1)])
def test_shares_that_are_none_are_refused(shares: tuple[float, float, float]) -> None:
    with pytest.raises(UserError, match="does not fit"):
        Masking(*shares)
