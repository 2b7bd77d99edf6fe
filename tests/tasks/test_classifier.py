"""Scores and probes against a plain loop, scikit-learn by hand, and features whose answer is known."""

import warnings

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler

from cka_tools.tasks import classifier
from cka_tools.tasks.scores import scores
from cka_tools.tasks.task import Example, Task, check_task


def make_task(gold_train: np.ndarray, gold_test: np.ndarray, several: bool) -> Task:
    """A task with these classes, (n, classes) bool."""
    splits = {
        split: [
            Example(f"{at}", f"{split} {at} " + " ".join(f"w{c}" for c in np.flatnonzero(row)),
                    tuple(f"c{c}" for c in np.flatnonzero(row)))
            for at, row in enumerate(gold)
        ]
        for split, gold in (("train", gold_train), ("test", gold_test))
    }  # fmt: skip
    return check_task("made", "made", splits | {"dev": []}, "labels" if several else "label")


def with_features(
    task: Task, rng: np.random.Generator, strength: float, width: int = 12
) -> tuple[np.ndarray, classifier.Labelled]:
    """Noise plus `strength` times a direction of its own for each class."""
    ids = [one["id"] for one in classifier.texts_of(task)]
    of = classifier.labelled(task, ids)
    features = rng.normal(size=(len(ids), width))
    directions = rng.normal(size=(len(task.classes), width))
    features[of.train_rows] += strength * of.train_gold @ directions
    features[of.test_rows] += strength * of.test_gold @ directions
    return features, of


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    return np.arange(classes) == labels[:, None]


def test_scores_and_each_document_left_out_equal_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    for several in (False, True):
        if several:
            gold, found = rng.random((2, 40, 4)) < 0.3
        else:
            gold, found = (one_hot(rng.integers(0, 4, 40), 4) for _ in range(2))
        gold[:, 3] = False  # a class that test lacks is not averaged
        own = scores(gold, found)

        def by_hand(keep: np.ndarray, gold: np.ndarray = gold, found: np.ndarray = found) -> list[float]:
            g, f = gold[keep].astype(int), found[keep].astype(int)
            macro = f1_score(g, f, labels=[0, 1, 2], average="macro", zero_division=0)
            return [macro, f1_score(g, f, average="micro", zero_division=0), accuracy_score(g, f)]

        everything = np.arange(40)
        names = ("macro_f1", "micro_f1", "accuracy")
        assert [own[name].value for name in names] == pytest.approx(by_hand(everything))
        for left_out in range(40):
            wanted = by_hand(np.delete(everything, left_out))
            assert [own[name].without[left_out] for name in names] == pytest.approx(wanted)


def test_separable_features_give_one() -> None:
    rng = np.random.default_rng(1)
    task = make_task(*(one_hot(np.arange(n) % 3, 3) for n in (60, 60)), several=False)
    features, of = with_features(task, rng, 30.0)
    found = classifier.probe(features, of, 0)
    for reading in found.readings.values():
        interval = reading.interval()
        assert (interval.value, interval.ci_low, interval.ci_high) == (1.0, 1.0, 1.0)
    assert found.converged


def test_noise_is_at_chance_within_its_interval() -> None:
    rng = np.random.default_rng(2)
    task = make_task(*(one_hot(np.arange(n) % 2, 2) for n in (120, 200)), several=False)
    held = []
    for _ in range(20):
        features, of = with_features(task, rng, 0.0, width=6)
        interval = classifier.probe(features, of, 0).readings["accuracy"].interval()
        assert interval.ci_low is not None
        assert interval.ci_high is not None
        held.append(interval.ci_low <= 0.5 <= interval.ci_high)
    assert sum(held) >= 16  # 16 or more of 20 with 99.7 % at a coverage of 95 %


def test_shuffled_labels_leave_nothing_of_a_clear_signal() -> None:
    rng = np.random.default_rng(3)
    task = make_task(*(one_hot(np.arange(n) % 2, 2) for n in (200, 200)), several=False)
    features, of = with_features(task, rng, 2.0, width=6)
    assert classifier.probe(features, of, 0).readings["accuracy"].value > 0.9
    shuffled = classifier.probe(features, of, 0, shuffle=True)
    assert shuffled.readings["accuracy"].value < 0.8
    assert shuffled.found.tolist() == classifier.probe(features, of, 0, shuffle=True).found.tolist()


@pytest.mark.parametrize("several", [False, True])
def test_a_probe_equals_scikit_learn_by_hand(several: bool) -> None:
    """Folds, standardisation and choice of C in plain loops."""
    rng = np.random.default_rng(4)
    gold = [rng.random((n, 3)) < 0.4 if several else one_hot(rng.integers(0, 3, n), 3) for n in (90, 50)]
    features, of = with_features(make_task(*gold, several=several), rng, 0.6)
    x, z = features[of.train_rows], features[of.test_rows]
    y = of.train_gold.astype(int) if several else of.train_gold.argmax(1)

    def fitted(c: float, rows: np.ndarray, to: np.ndarray) -> np.ndarray:
        plain = LogisticRegression(C=c, max_iter=2000)
        scaler = StandardScaler().fit(x[rows])
        regression = OneVsRestClassifier(plain) if several else plain
        return regression.fit(scaler.transform(x[rows]), y[rows]).predict(scaler.transform(to))

    folds = (KFold if several else StratifiedKFold)(5, shuffle=True, random_state=7)
    means = {}
    for c in (1e-4, 1e-3, 1e-2, 1e-1, 1.0):
        each = [
            f1_score(y[test], fitted(c, train, x[test]), average="macro", zero_division=0)
            for train, test in folds.split(x, y)
        ]
        means[c] = np.mean(each)
    best = max(means, key=lambda c: (round(means[c], 12), -c))
    found = classifier.probe(features, of, 7)
    assert found.strength == best
    assert found.cv == pytest.approx(means[best])
    wanted = fitted(best, np.arange(len(x)), z)
    assert found.found.tolist() == (wanted.astype(bool) if several else one_hot(wanted, 3)).tolist()
    truth = of.test_gold.astype(int) if several else of.test_gold.argmax(1)
    assert found.readings["macro_f1"].value == pytest.approx(f1_score(truth, wanted, average="macro"))
    assert found.readings["accuracy"].value == pytest.approx(accuracy_score(truth, wanted))


def test_floors_by_hand() -> None:
    rng = np.random.default_rng(5)
    labels = [rng.choice(3, n, p=[0.5, 0.3, 0.2]) for n in (60, 40)]
    of = with_features(make_task(*(one_hot(one, 3) for one in labels), several=False), rng, 0.0)[1]
    assert classifier.majority(of).readings["accuracy"].value == pytest.approx((labels[1] == 0).mean())
    words = classifier.bag_of_words(of, 0)
    assert words.readings["accuracy"].value == 1.0  # each text names its class
    vectors = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+|[^\w\s]")
    by_hand = LogisticRegression(C=words.strength, max_iter=2000).fit(vectors.fit_transform(of.train_texts), labels[0])
    assert by_hand.predict(vectors.transform(of.test_texts)).tolist() == words.found.argmax(1).tolist()


def test_majority_of_several_is_what_most_texts_have() -> None:
    gold = np.array([[True, False], [True, False], [True, True], [False, False]] * 5)
    of = with_features(make_task(gold, gold, several=True), np.random.default_rng(0), 0.0)[1]
    assert classifier.majority(of).found.tolist() == [[True, False]] * 20


def test_texts_that_occur_twice_or_hold_no_token() -> None:
    gold = one_hot(np.arange(12) % 2, 2)
    task = make_task(gold, gold, several=False)
    again = Task("t", "t", "label", task.classes, task.train, (), (*task.test[:10], task.train[0]))
    texts = classifier.texts_of(again)
    assert len(texts) == 22
    of = classifier.labelled(again, [one["id"] for one in texts if one["text"] != task.train[1].text])
    assert (len(of.train_gold), len(of.test_gold)) == (11, 11)
    assert of.test_rows[-1] == of.train_rows[0]
    assert of.train_gold[1].tolist() == gold[2].tolist()


def test_a_rare_class_fits_without_a_word() -> None:
    rng = np.random.default_rng(6)
    labels = np.array([0, 1] * 20 + [2, 2])
    features, of = with_features(make_task(one_hot(labels, 3), one_hot(labels, 3), several=False), rng, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert 0 < classifier.probe(features, of, 0).readings["macro_f1"].value <= 1


def test_any_seed_of_the_settings_makes_folds() -> None:
    rng = np.random.default_rng(8)
    gold = one_hot(np.arange(20) % 2, 2)
    features, of = with_features(make_task(gold, gold, several=False), rng, 1.0)
    one, other = (classifier.probe(features, of, seed) for seed in (3, 2**32 + 3))
    assert one.found.tolist() == other.found.tolist()
