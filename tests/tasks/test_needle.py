"""What every example of the needle task must hold, whatever the seed; its probe; how many examples it takes."""

import itertools
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from cka_tools.bundled import bundled_data
from cka_tools.documents import Document, draw_documents
from cka_tools.errors import UserError
from cka_tools.probes.run_needle import EXAMPLES
from cka_tools.statistics.paired import Reading
from cka_tools.tasks import mlp_probe
from cka_tools.tasks.needle import POSITIONS, Asked, Haystacks, make_examples, templates
from cka_tools.tasks.power import power

SIZES = {"train": 12, "dev": 12, "test": 24}
TOKENIZER = AutoTokenizer.from_pretrained(bundled_data() / "models" / "theta0")


@pytest.fixture(scope="module")
def haystacks() -> Haystacks:
    """Abstracts, a third of which name what facts name."""
    drawn = draw_documents("sample", 150, 0).documents
    values = [value for one in templates().values() for slot in one.slots.values() for value in slot]
    rng = np.random.default_rng(0)
    full = [
        Document(one.id, f"{one.text}\nNote: {', '.join(rng.choice(values, 12))}." if at % 3 == 0 else one.text)
        for at, one in enumerate(drawn)
    ]
    return Haystacks(full, TOKENIZER, "abstracts")


def times(value: str, text: str) -> int:
    """How often a value stands in a text by itself, by a plain loop over its places."""
    found = 0
    for at in range(len(text)):
        if text[at : at + len(value)].lower() == value.lower():
            before, after = text[at - 1 : at] if at else "", text[at + len(value) : at + len(value) + 1]
            found += not re.match(r"\w", before) and not re.match(r"\w", after)
    return found


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    lengths=st.lists(st.integers(130, 400), min_size=1, max_size=2, unique=True),
    positions=st.lists(st.sampled_from(POSITIONS), min_size=1, max_size=3, unique=True),
    names=st.lists(st.sampled_from(list(templates())), min_size=1, max_size=4, unique=True),
)
def test_every_example_is_what_it_says(
    haystacks: Haystacks, seed: int, lengths: list[int], positions: list[str], names: list[str]
) -> None:
    asked = Asked(tuple(lengths), tuple(positions), tuple(names), SIZES)
    made = make_examples(haystacks, asked, seed)
    for one in made:
        assert one.document.count(one.fact) == 1
        assert (one.query == one.fact) == one.label
        for value in one.values:
            assert times(value, one.document) == 1
        for value in one.asked:
            assert times(value, one.document) == int(one.label)
            assert times(value, one.query) == 1
        assert one.label or not set(one.values) & set(one.asked)
        tokens = len(TOKENIZER(one.query, one.document)["input_ids"])
        assert one.length - 24 <= tokens <= one.length
        before, after = (len(part.split()) for part in one.document.split(one.fact))
        third = POSITIONS.index(one.position)
        assert one.place == pytest.approx(before / (before + after))
        slack = 1 / (before + after)
        assert third / 3 - slack <= one.place <= (third + 1) / 3 + slack
    for split in SIZES:
        cells = [(one.length, one.position, one.label) for one in made if one.split == split]
        assert {cells.count(cell) for cell in itertools.product(lengths, positions, (True, False))} == {
            asked.number(split) / asked.cells
        }
        assert SIZES[split] <= len(cells) < SIZES[split] + asked.cells
    assert made == make_examples(Haystacks(_documents(haystacks), TOKENIZER, "again"), asked, seed)


def _documents(haystacks: Haystacks) -> list[Document]:
    return [Document(str(at), text) for at, text in enumerate(haystacks.texts)]


def test_the_seed_decides_and_splits_share_no_document(haystacks: Haystacks) -> None:
    asked = Asked((300,), POSITIONS, tuple(templates()), SIZES)
    one, other = (make_examples(haystacks, asked, seed) for seed in (0, 1))
    assert not {a.document for a in one} & {b.document for b in other}
    sources = {split: set() for split in SIZES}
    for example in one:
        for at, text in enumerate(haystacks.texts):
            if text[:60] in example.document:
                sources[example.split].add(at)
    assert all(sources.values())
    for a, b in itertools.combinations(SIZES, 2):
        assert not sources[a] & sources[b]


def test_facts_and_their_order_do_not_depend_on_the_tokenizer(haystacks: Haystacks) -> None:
    class Letters:
        """One token a letter and pair mark: another tokenizer than all."""

        def __call__(self, text: str | list[str], pair: str = "", **more: object) -> dict[str, list]:
            if isinstance(text, list):
                return {"input_ids": [list(one) for one in text]}
            return {"input_ids": list(text + pair)}

    asked = Asked((1500,), POSITIONS, tuple(templates()), SIZES)
    own = make_examples(haystacks, asked, 3)
    others = make_examples(Haystacks(_documents(haystacks), Letters(), "letters"), asked, 3)
    for a, b in zip(own, others, strict=True):
        assert (a.fact, a.query, a.label, a.position) == (b.fact, b.query, b.label, b.position)
        assert a.document.replace(a.fact, "")[:40] == b.document.replace(b.fact, "")[:40] or a.position == "start"
        assert len(b.document) + len(b.query) <= 1500


def test_no_value_stands_in_another_of_its_template_or_in_its_words() -> None:
    assert sorted(len(one.slots) for one in templates().values()) == [2, 2, 2, 3, 3, 3, 3, 4]
    for one in templates().values():
        bare = re.sub(r"\{\w+\}", "_", one.text)
        assert set(re.findall(r"\{(\w+)\}", one.text)) == set(one.slots)
        everything = [value for slot in one.slots.values() for value in slot]
        assert len(set(everything)) == len(everything)
        for value in everything:
            assert times(value, bare) == 0
        sample = everything if len(everything) < 120 else everything[:: len(everything) // 100]
        for a, b in itertools.permutations(sample, 2):
            assert times(a, b) == 0


def test_a_corpus_that_is_too_small_or_full_of_the_values_is_refused(haystacks: Haystacks) -> None:
    few = Haystacks(_documents(haystacks)[:8], TOKENIZER, "few")
    with pytest.raises(UserError, match=r"corpus 'few': of its documents \d+ are for \w+, too few for 2000 tokens"):
        make_examples(few, Asked((2000,), POSITIONS, ("drug",), SIZES), 0)
    slot = templates()["allergy"].slots["reaction"]
    full = Haystacks([Document(str(at), f"Text {at} of {', '.join(slot)}.") for at in range(60)], TOKENIZER, "full")
    with pytest.raises(UserError, match="too few for 100 tokens without the fact's own values"):
        make_examples(full, Asked((100,), POSITIONS, ("allergy",), SIZES), 0)
    unbroken = Haystacks([Document(str(at), f"{at}" + "無空白" * 400) for at in range(60)], TOKENIZER, "unbroken")
    with pytest.raises(UserError, match="no word of a text fits into 200 tokens"):
        make_examples(unbroken, Asked((200,), POSITIONS, ("allergy",), SIZES), 0)
    with pytest.raises(UserError, match="length 40 leaves no haystack beside a query and a fact"):
        make_examples(haystacks, Asked((40,), POSITIONS, ("drug",), SIZES), 0)


def test_the_probe_equals_one_written_by_hand() -> None:
    """Without dropout: cross-entropy, its gradients and AdamW in NumPy, in float64."""
    rng = np.random.default_rng(0)
    n, width, rate, batch = 22, 5, 0.01, 4
    gold = rng.random(n) < 0.5
    x = rng.normal(size=(n, width)) + gold[:, None]
    dev, dev_gold = rng.normal(size=(40, width)) + np.repeat([[1.0], [0.0]], 20, 0), np.repeat([True, False], 20)
    found = mlp_probe.fit(x, gold, dev, dev_gold, 7, dropout=0.0, epochs=4, rate=rate)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        first = mlp_probe.make_network(width, 0.0)
        orders = [torch.randperm(n).numpy() for _ in range(4)]
    weights = [one.detach().double().numpy().copy() for one in first.parameters()]
    mean, square = ([np.zeros_like(one) for one in weights] for _ in range(2))
    erf = np.vectorize(__import__("math").erf)

    def forward(rows: np.ndarray) -> tuple[np.ndarray, ...]:
        inner = rows @ weights[0].T + weights[1]
        gate = 0.5 * (1 + erf(inner / np.sqrt(2)))
        hidden = inner * gate
        return inner, gate, hidden, hidden @ weights[2].T + weights[3]

    steps, best, kept = 0, -1.0, None
    for order in orders:
        for start in range(0, n, batch):
            rows = order[start : start + batch]
            inner, gate, hidden, logits = forward(x[rows])
            share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            out = (share - np.eye(2)[gold[rows].astype(int)]) / len(rows)
            slope = gate + inner * np.exp(-(inner**2) / 2) / np.sqrt(2 * np.pi)
            back = (out @ weights[2]) * slope
            gradients = [back.T @ x[rows], back.sum(0), out.T @ hidden, out.sum(0)]
            steps += 1
            for at, gradient in enumerate(gradients):
                mean[at] = 0.9 * mean[at] + 0.1 * gradient
                square[at] = 0.999 * square[at] + 0.001 * gradient**2
                step = mean[at] / (1 - 0.9**steps) / (np.sqrt(square[at] / (1 - 0.999**steps)) + 1e-8)
                weights[at] = weights[at] * (1 - rate * 0.01) - rate * step
        right = float(((forward(dev)[3].argmax(1) == 1) == dev_gold).mean())
        if right > best:
            best, kept = right, [one.copy() for one in weights]
    assert found.dev == best
    for own, wanted in zip(found.network.parameters(), kept, strict=True):
        np.testing.assert_allclose(own.detach().numpy(), wanted, atol=2e-5)


def test_the_probe_on_separable_features_and_on_noise() -> None:
    rng = np.random.default_rng(1)
    gold = [np.arange(n) % 2 == 0 for n in (400, 100, 400)]
    clear = [rng.normal(size=(len(one), 8)) + 8.0 * one[:, None] for one in gold]
    found = mlp_probe.fit(clear[0], gold[0], clear[1], gold[1], 0, rate=1e-3)
    assert (found.predict(clear[2]) == gold[2]).all()
    held = 0
    for seed in range(10):
        noise = [rng.normal(size=(len(one), 8)) for one in gold]
        said = mlp_probe.fit(noise[0], gold[0], noise[1], gold[1], seed, rate=1e-3, batch=20).predict(noise[2])
        interval = Reading.mean((said == gold[2]).astype(float)).interval()
        assert interval.ci_low is not None
        assert interval.ci_high is not None
        held += interval.ci_low <= 0.5 <= interval.ci_high
    assert held >= 7  # 7 or more of 10 with 99.9 % at a coverage of 95 %


def test_the_probe_is_a_function_of_its_seed_and_leaves_torch_as_it_was() -> None:
    rng = np.random.default_rng(2)
    x, gold = rng.normal(size=(60, 4)), rng.random(60) < 0.5
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, again, other = (mlp_probe.fit(x, gold, x, gold, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.network.parameters(), again.network.parameters(), strict=True))
    assert not torch.equal(one.network[1].weight, other.network[1].weight)


@pytest.mark.parametrize(("n", "disagreement"), [(EXAMPLES, 0.5), (EXAMPLES, 0.3), (300, 0.4)])
def test_power_by_simulation(n: int, disagreement: float) -> None:
    """Two models that disagree on a share of the examples, one of them right 5 points more often."""
    rng = np.random.default_rng(3)
    clear, draws = 0, 800
    for _ in range(draws):
        apart = rng.choice(
            [1.0, -1.0, 0.0], n, p=[disagreement / 2 + 0.025, disagreement / 2 - 0.025, 1 - disagreement]
        )
        low = Reading.mean(apart).interval().ci_low
        assert low is not None
        clear += low > 0
    wanted = power(n, 0.05, disagreement)
    assert abs(clear / draws - wanted) < 3.3 * np.sqrt(wanted * (1 - wanted) / draws) + 0.005


def test_the_default_shows_five_points_in_most_runs() -> None:
    assert power(EXAMPLES) > 0.88
    assert power(EXAMPLES, disagreement=0.3) > 0.97
