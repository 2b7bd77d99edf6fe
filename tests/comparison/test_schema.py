"""Run directories that are not what they should be, of every kind: one line, and nothing else."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import processors
from transformers import AutoTokenizer

from cka_tools import compare, contrast, evaluate, health, interpolate, matrix, needle, probe, trajectory, transplant
from cka_tools.comparison.evaluation_table import evaluation_summary
from cka_tools.comparison.model_index import model_index_yaml
from cka_tools.comparison.readout_results import KINDS
from cka_tools.comparison.record import (
    ABLATION,
    COMPARISON,
    CONTRAST,
    EVALUATION,
    HEALTH,
    INTERPOLATION,
    MATRIX,
    NEEDLE,
    PROBE,
    TRAJECTORY,
    TRANSPLANT,
)
from cka_tools.comparison.run_directory import ARRAYS, RESULT
from cka_tools.comparison.summary import summary_table, to_csv
from cka_tools.errors import UserError
from cka_tools.terminal.output import Terminal, print_result

OLD = Path(__file__).parent / "version_1"


@pytest.fixture(scope="module")
def runs(tiny_model, tmp_path_factory):
    """A saved run of each kind, the ablation one of version 0.1."""
    folder = tmp_path_factory.mktemp("runs")
    a, b, c, d = (str(tiny_model("modernbert", seed=seed, layers=2, head=True)) for seed in range(4))
    texts = [" ".join(f"w{(i * j) % 120}" for j in range(1, 30)) for i in range(24)]
    made = {
        COMPARISON: compare(a, b, texts, control=c, rescale=True, measures=("cka", "mknn")),
        MATRIX: matrix([a, b, c], texts),
        TRAJECTORY: trajectory(a, [b, c], texts, control=d),
        CONTRAST: contrast({"x": [a, b], "y": [c, d]}, texts),
        TRANSPLANT: transplant(a, b, texts, layers=[[0], [1]], parts=["all", "mlp"], control=c, reverse=True),
        INTERPOLATION: interpolate(a, b, texts, points=3),
        HEALTH: health([a, b], texts),
        EVALUATION: evaluate(
            [a, b], [labelled_texts(folder / "t.jsonl", texts)], seeds=2, epochs=1, batch_size=12, device="cpu"
        ),
        PROBE: probe([a, b], labelled_texts(folder / "t.jsonl", texts), label_shuffle=True),
        NEEDLE: needle(with_pairs([a, b], folder), lengths=[60], templates=["allergy"], examples=60, training=40,
                       documents=60, layers=[0], label_shuffle=True),
    }  # fmt: skip
    found = {kind: result.save(folder / kind) for kind, result in made.items()}
    shutil.copytree(OLD / "ablation", folder / ABLATION)
    # Of today's form: what is damaged below shall not meet the reader of old ones.
    found[ABLATION] = KINDS[ABLATION].load(folder / ABLATION).save(folder / "today")
    return found


def with_pairs(models, folder):
    """The same models with a tokenizer that encodes pairs of segments."""
    found = []
    for at, model in enumerate(models):
        place = shutil.copytree(model, folder / f"pairs-{at}")
        tokenizer = AutoTokenizer.from_pretrained(model)
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 2)]
        )
        tokenizer.save_pretrained(place)
        found.append(str(place))
    return found


def labelled_texts(path, texts):
    """A task of two classes, half of it for train."""
    rows = [{"text": text, "label": "ab"[i % 2], "split": ("train", "test")[i // 12]} for i, text in enumerate(texts)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def places(value, path=()):
    """Every place in a record, one a kind of list item."""
    yield path
    if isinstance(value, dict):
        for name, one in value.items():
            yield from places(one, (*path, name))
    elif isinstance(value, list) and value:
        yield from places(value[-1], (*path, len(value) - 1))


def shown(run_dir, kind):
    """All that is made of a run but its figure."""
    result = KINDS[kind].load(run_dir)
    print_result(result, Terminal(file=io.StringIO(), width=80))
    result.to_frame()
    if kind == EVALUATION:
        to_csv(evaluation_summary(result))
        model_index_yaml(result)
    if kind == COMPARISON:
        to_csv(summary_table([result]))
    return result


WRONG = [None, "text", 7, -1, 1.5, True, [], {}, ["x"], [[1]], {"x": 1}, 10**400, 1e308]


@pytest.mark.parametrize("kind", KINDS)
def test_no_damage_of_a_record_is_more_than_one_line(runs, kind, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(runs[kind], folder)
    original = (folder / RESULT).read_text()
    assert shown(folder, kind)
    unforeseen, lines = [], []
    every = list(places(json.loads(original)))[1:]
    for number, path in enumerate(every):
        for value in ("lacks", WRONG[number % len(WRONG)]):
            record = json.loads(original)
            inner = record
            for name in path[:-1]:
                inner = inner[name]
            if value == "lacks":
                del inner[path[-1]]
            else:
                inner[path[-1]] = value
            (folder / RESULT).write_text(json.dumps(record))
            try:
                shown(folder, kind)
            except UserError as error:
                lines.append(str(error))
            except Exception as error:
                unforeseen.append((path, value, error))
    assert not unforeseen, "\n".join(f"{kind} {p} {v!r} {e!r}" for p, v, e in unforeseen)
    assert not [line for line in lines if "\n" in line]
    assert len(lines) > len(every) / 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "damaged"),
        (b"\xff\xfe", "damaged"),
        (b"[" * 100_000, "damaged"),
        (b"[]", "is not a"),
        (b"{}", "is not a"),
        (b"null", "is not a"),
        (b'{"kind": "%s"}', "damaged"),
        (b'{"kind": "%s", "format": 3}', "format '3', not 1 to 2"),
        (b'{"kind": "%s", "format": -1}', "format '-1', not 1 to 2"),
        (b'{"kind": "%s", "format": "2"}', "format '2', not"),
        (b'{"kind": "%s", "format": 2, "summary": NaN}', "NaN is not JSON"),
        (b'{"kind": "%s", "format": 2, "summary": Infinity}', "Infinity is not JSON"),
        (b'{"kind": "%s", "format": 2, "n": ' + b"9" * 5000 + b"}", "damaged"),
        (b'{"kind": "elsewhere", "format": 2}', "which is not known"),
    ],
    ids=range(14),
)
def test_a_file_that_is_no_record_is_one_line(runs, kind, content, words, tmp_path):
    shutil.copytree(runs[kind], tmp_path / "run")
    (tmp_path / "run" / RESULT).write_bytes(content.replace(b"%s", kind.encode()))
    with pytest.raises(UserError, match=words) as error:
        KINDS[kind].load(tmp_path / "run")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [COMPARISON, MATRIX, TRAJECTORY])
def test_arrays_of_another_run_are_refused(runs, kind, tmp_path):
    shutil.copytree(runs[kind], tmp_path / "run")
    arrays = load_file(runs[kind] / ARRAYS)
    name = {COMPARISON: "matrix.debiased", MATRIX: "mean.debiased", TRAJECTORY: "divergence.debiased"}[kind]
    others = [
        {one: array for one, array in arrays.items() if one != name},
        arrays | {name: arrays[name][:-1]},
        arrays | {name: arrays[name].astype(np.float32)},
        arrays | {name: arrays[name].ravel()},
        {},
    ]
    for other in others:
        save_file({one: np.ascontiguousarray(array) for one, array in other.items()}, tmp_path / "run" / ARRAYS)
        with pytest.raises(UserError, match=r"array '(m|d|x)") as error:
            KINDS[kind].load(tmp_path / "run")
        assert repr(name) in str(error.value) or not other
    (tmp_path / "run" / ARRAYS).unlink()
    with pytest.raises(UserError, match="damaged"):
        KINDS[kind].load(tmp_path / "run")
