"""Probes of tags: against seqeval and scikit-learn by hand, at both ends of what features can say."""

import warnings
from typing import Any

import numpy as np
import pytest
from scipy.sparse import hstack
from seqeval.metrics import accuracy_score, f1_score
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from cka_tools.tasks import tagger
from cka_tools.tasks.scores import entity_scores
from cka_tools.tasks.task import Example, Task, check_task

NAMES = ("macro_f1", "micro_f1", "accuracy")
TAGS = np.array(["O", "B-A", "I-A", "B-B", "I-B"])


def drawn(rng: np.random.Generator, sentences: int, share: float = 0.4) -> list[list[str]]:
    """Tags of sentences of 1 to 8 words, any order of them."""
    p = [1 - share, *[share / 4] * 4]
    return [rng.choice(TAGS, rng.integers(1, 9), p=p).tolist() for _ in range(sentences)]


def by_seqeval(gold: Any, found: Any) -> list[float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [
            f1_score(gold, found, average="macro"),
            f1_score(gold, found, average="micro"),
            accuracy_score(gold, found),
        ]


def test_scores_and_each_sentence_left_out_equal_seqeval() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        gold = drawn(rng, 30)
        found = [[tag if rng.random() < 0.7 else str(rng.choice(TAGS)) for tag in one] for one in gold]
        own = entity_scores(gold, found)
        assert [own[name].value for name in NAMES] == pytest.approx(by_seqeval(gold, found))
        for left in range(len(gold)):
            rest = [[*one[:left], *one[left + 1 :]] for one in (gold, found)]
            assert [own[name].without[left] for name in NAMES] == pytest.approx(by_seqeval(*rest))


def test_scores_of_predicted_files(tmp_path: Any) -> None:
    """Gold and predicted tags as CoNLL files, read back and given to the library."""
    rng = np.random.default_rng(1)
    gold, found = drawn(rng, 40), []
    found = [[tag if rng.random() < 0.8 else "O" for tag in one] for one in gold]
    for name, part in {"gold": gold, "found": found}.items():
        (tmp_path / name).write_text("\n\n".join("\n".join(f"w\t{tag}" for tag in one) for one in part))
    read = [
        [[line.split("\t")[1] for line in block.splitlines()] for block in (tmp_path / name).read_text().split("\n\n")]
        for name in ("gold", "found")
    ]
    own = entity_scores(gold, found)
    assert [own[name].value for name in NAMES] == pytest.approx(by_seqeval(*read))


def test_a_type_that_is_only_found_counts_and_nothing_found_is_zero() -> None:
    own = entity_scores([["B-A", "O"], ["O"]], [["B-A", "B-B"], ["O"]])
    assert own["macro_f1"].value == 0.5
    assert [one.value for one in entity_scores([["B-A"], ["O"]], [["O"], ["O"]]).values()] == [0, 0, 0.5]


def made(rng: np.random.Generator, train: int, test: int, share: float = 0.4) -> Task:
    """Sentences of words that say nothing; tags are BIO."""
    splits: dict[str, list[Example]] = {"dev": []}
    for split, size in {"train": train, "test": test}.items():
        rows = []
        for at in range(size):
            tags = np.where(rng.random(6) < share, rng.choice(["B-A", "B-B"], 6), "O")
            words = tuple(f"w{rng.integers(40)}" for _ in tags)
            rows.append(Example(f"{split}-{at}", " ".join(words), tuple(tags.tolist()), words))
        splits[split] = rows
    return check_task("made", "made", splits, "tags")


def rows_of(task: Task) -> list[np.ndarray]:
    ends = np.cumsum([len(words) for words in tagger.words_of(task)])
    return np.split(np.arange(ends[-1]), ends[:-1])


def with_features(task: Task, rng: np.random.Generator, strength: float, width: int = 12) -> np.ndarray:
    """Noise, and `strength` times a direction of its own for each tag."""
    tags = np.array([tag for one in (*task.train, *task.test) for tag in one.labels])
    directions = rng.normal(size=(len(TAGS), width))
    signal = directions[[TAGS.tolist().index(tag) for tag in tags]]
    return (rng.normal(size=(len(tags), width)) + strength * signal).astype(np.float32)


def test_separable_features_give_one() -> None:
    rng = np.random.default_rng(2)
    task = made(rng, 60, 40)
    found = tagger.probe(with_features(task, rng, 30.0), rows_of(task), task, 0)
    for reading in found.readings.values():
        interval = reading.interval()
        assert (interval.value, interval.ci_low, interval.ci_high) == (1.0, 1.0, 1.0)
    assert found.converged
    assert found.right.tolist() == [1.0] * 40


def test_noise_says_no_more_than_shuffled_tags() -> None:
    """What is guessed without a signal is right as often as tags that are dealt anew."""
    rng = np.random.default_rng(3)
    held = []
    for seed in range(20):
        task = made(rng, 30, 60, share=0.7)
        features = with_features(task, rng, 0.0, width=4)
        own = tagger.probe(features, rows_of(task), task, seed).readings["micro_f1"]
        other = tagger.probe(features, rows_of(task), task, seed + 100, shuffle=True).readings["micro_f1"]
        interval = (own - other).interval()
        assert interval.ci_low is not None
        assert interval.ci_high is not None
        held.append(interval.ci_low <= 0 <= interval.ci_high)
    assert sum(held) >= 13  # the two fits differ by their own chance, which the interval over test has no part of


def test_shuffled_tags_leave_nothing_of_a_clear_signal() -> None:
    rng = np.random.default_rng(4)
    task = made(rng, 100, 60, share=0.3)
    features = with_features(task, rng, 3.0)
    assert tagger.probe(features, rows_of(task), task, 0).readings["micro_f1"].value > 0.9
    assert tagger.probe(features, rows_of(task), task, 0, shuffle=True).readings["micro_f1"].value < 0.3


def test_a_probe_equals_scikit_learn_and_seqeval_by_hand() -> None:
    """Folds of sentences, standardisation and choice of C in plain loops; two words have no row."""
    rng = np.random.default_rng(5)
    task = made(rng, 40, 30)
    features, rows = with_features(task, rng, 0.7), rows_of(task)
    rows[3], rows[50] = rows[3].copy(), rows[50].copy()
    rows[3][1] = rows[50][2] = -1
    order = np.random.default_rng(7).permutation(40) % 5

    def tags(fitted: list[int], to: list[np.ndarray], c: float) -> list[list[str]]:
        known = [
            (row, tag) for at in fitted for row, tag in zip(rows[at], task.train[at].labels, strict=True) if row >= 0
        ]
        x = features[[row for row, _ in known]]
        scaler = StandardScaler().fit(x)
        model = LogisticRegression(C=c, max_iter=500).fit(scaler.transform(x), [tag for _, tag in known])
        return [
            [str(model.predict(scaler.transform(features[[row]]))[0]) if row >= 0 else "O" for row in one] for one in to
        ]

    scores = {}
    for c in (1e-3, 1e-2, 1e-1, 1.0):
        guessed: dict[int, list[str]] = {}
        for fold in range(5):
            inside = [at for at in range(40) if order[at] != fold]
            held = [at for at in range(40) if order[at] == fold]
            guessed |= dict(zip(held, tags(inside, [rows[at] for at in held], c), strict=True))
        scores[c] = by_seqeval([list(one.labels) for one in task.train], [guessed[at] for at in range(40)])[0]
    best = max(scores, key=lambda c: (scores[c], -c))
    found = tagger.probe(features, rows, task, 7)
    assert found.strength == best
    assert found.cv == pytest.approx(scores[best])
    wanted = tags(list(range(40)), rows[40:], best)
    assert found.found.tolist() == [tag for one in wanted for tag in one]
    assert wanted[10][2] == "O"
    gold = [list(one.labels) for one in task.test]
    assert [found.readings[name].value for name in NAMES] == pytest.approx(by_seqeval(gold, wanted))


def test_floors_by_hand() -> None:
    rng = np.random.default_rng(6)
    task = made(rng, 40, 30)
    gold = [list(one.labels) for one in task.test]
    floor = tagger.majority(task)
    assert [floor.readings[name].value for name in NAMES] == pytest.approx(
        by_seqeval(gold, [["O"] * len(one) for one in gold])
    )
    words = tagger.bag_of_words(task, 0)
    sentences = [["<", *(word.lower() for word in one), ">"] for one in tagger.words_of(task)]
    places = [[one[at + shift] for one in sentences for at in range(1, len(one) - 1)] for shift in (-1, 0, 1)]
    n = sum(len(one.words) for one in task.train)
    parts = []
    for words_there in places:
        vectors = CountVectorizer(analyzer=lambda word: [word]).fit(words_there[:n])
        parts.append(vectors.transform(words_there))
    x = hstack(parts).tocsr()
    y = [tag for one in task.train for tag in one.labels]
    guessed = LogisticRegression(C=words.strength, max_iter=500).fit(x[:n], y).predict(x[n:])
    assert (guessed == words.found).mean() > 0.98  # unknown words have a feature of their own there


def test_a_part_of_train_is_drawn_from_the_seed_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    task = made(np.random.default_rng(8), 40, 30)
    assert tagger.fitting_part(task, 0) is task
    part = tagger.fitting_part(task, 0, 100)
    assert sum(len(one.words) for one in part.train) == 96
    assert part.notes[-1] == "Probes are fitted on 16 of 40 sentences of train, drawn from the seed: 100 words at most."
    assert tagger.fitting_part(task, 1, 100).train != part.train
    assert (part.test, part.fingerprint) == (task.test, task.fingerprint)


def test_nothing_to_fit_is_all_o() -> None:
    task = made(np.random.default_rng(9), 20, 20)
    found = tagger.probe(np.empty((0, 4), np.float32), [np.full(6, -1)] * 40, task, 0)
    assert set(found.found) == {"O"}
