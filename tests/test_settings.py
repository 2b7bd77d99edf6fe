"""The settings: one place for what may be set, which Python and the terminal both show."""

import dataclasses
import inspect
import re

import pytest

from cka_tools import compare, health, interpolate, matrix, needle, probe, trajectory, transplant
from cka_tools.errors import UserError
from cka_tools.settings import FIELDS, Settings

#: Not on the terminal: what the paper's protocol fixes, and what a test or a small machine needs.
PYTHON_ONLY = {"plan", "batch_size", "memory_limit", "spill_folder"}

#: What fits one pair of models, not many.
ONE_PAIR = {"pairs", "protocol", "layers_a", "layers_b", "permutations"}

#: What a command lacks, and why.
LACKING = {
    "compare": set(),
    # Published draws are of one pair; all layers of many pairs would be matrices that nobody reads.
    "trajectory": ONE_PAIR,
    "matrix": ONE_PAIR,
    # One device for training and comparing is an option of its own; the models are made here.
    # Its two corpora need not be of one kind.
    "ablate": ONE_PAIR | {"pairing", "final_norm", "device", "trust_remote_code", "allow_unused_weights"}
    | {"allow_bin", "stack", "device_map", "column", "text_unit"},
    # Hybrids exist while they run: all of their layers are kept, none is found in a cache. `--layers` of a
    # transplant are those that are grafted.
    "transplant": ONE_PAIR | {"pairing", "final_norm", "layers", "snapshot_every", "cache", "batching"},
    "interpolate": ONE_PAIR | {"pairing", "final_norm", "layers", "snapshot_every", "cache", "batching"},
    # No features are made.
    "health": ONE_PAIR | {
        "pooling", "sites", "layers", "early", "measures", "rescale", "tokens_per_document",
        "keep_features", "snapshot_every", "cache", "pairing", "final_norm", "batching",
    },
    # The texts are a task's, all of them; features are not compared.
    "probe": ONE_PAIR | {
        "column", "text_unit", "document_limit", "documents", "early", "measures", "rescale", "tokens_per_document",
        "keep_features", "snapshot_every", "pairing", "final_norm",
    },
    # How long texts are, and whose row is read, is what it asks itself; what leaves the encoder is read.
    "needle": ONE_PAIR | {
        "max_length", "pooling", "sites", "early", "measures", "rescale", "tokens_per_document",
        "keep_features", "snapshot_every", "pairing", "final_norm",
    },
}  # fmt: skip

FLAGS = {"measures": "--measure", "cache": "--no-cache"}

#: A value of each that does not fit, and the words for it.
BAD = {
    "column": ("a,,b", "column 'a,,b' names no column"),
    "text_unit": ("word", "text-unit 'word' is not one of line, paragraph, file"),
    "document_limit": ("0", "document-limit 0 does not fit"),
    "documents": (0, "documents 0 must be at least 1"),
    "max_length": (-3, "max-length -3 must be at least 1"),
    "pooling": ("max", "pooling 'max' is not one of mean, cls, last, token"),
    "sites": ("query", "sites 'query' is not one of residual, attention, mlp"),
    "layers": ((), "layers: the list is empty"),
    "early": ((), "early: the list is empty"),
    "layers_a": ((), "layers_a: the list is empty"),
    "layers_b": ((), "layers_b: the list is empty"),
    "pairing": ("0:1,0:2", "pairing '0:1,0:2' names layer 0 of A twice"),
    "pairs": ("some", "pairs 'some' is not one of all, diagonal"),
    "measures": ((), "measures: the list is empty"),
    "permutations": (-1, "permutations -1 must be at least 0"),
    "dtype": ("int8", "dtype 'int8' is not one of float32"),
    "seed": (-1, "seed -1 must be at least 0"),
    "protocol": ("mine", "protocol 'mine' is not one of paper"),
    "batch_tokens": (1.5, "batch-tokens 1.5 is not a whole number"),
    "batching": ("some", "batching 'some' is not one of sorted, packed, auto"),
    "tokens_per_document": (True, "tokens-per-document True is not a whole number"),
    "keep_features": ("much", "keep-features 'much' is not a valid size"),
    "snapshot_every": (0, "snapshot-every 0 must be at least 1"),
    "plan": ("random", "plan 'random' is not one of sorted, corpus-order"),
    "stack": ("decoder", "stack 'decoder' is not one of encoder, text"),
    "device_map": ("all", "device-map 'all' is not one of auto"),
    "batch_size": (0, "batch-size 0 must be at least 1"),
}

#: What has no value that could be told here: yes or no, and what the machine or the disk decides.
UNCHECKED = {
    "device", "rescale", "final_norm", "trust_remote_code", "allow_unused_weights", "allow_bin", "cache",
    "memory_limit",
    "spill_folder",
}  # fmt: skip


def test_every_setting_has_help_or_is_for_python_alone():
    assert {name for name, fact in FIELDS.items() if not fact.field.metadata["help"]} == PYTHON_ONLY


def test_a_bad_value_of_every_setting_is_one_line_that_names_it():
    assert set(BAD) | UNCHECKED == set(FIELDS)
    for name, (value, words) in BAD.items():
        with pytest.raises(UserError) as error:
            Settings(**{name: value})
        assert str(error.value).startswith(words)
        assert "\n" not in str(error.value)


def test_a_keyword_that_is_none_is_named_with_its_neighbour():
    with pytest.raises(TypeError, match="no setting 'document': did you mean 'documents'"):
        compare("demo:clm-detour", "demo:mlm-baseline", document=5)


def test_keywords_come_on_top_of_settings():
    base = Settings(documents=7, seed=3)
    found = Settings.of({"seed": 4}, base)
    assert (found.documents, found.seed, base.seed) == (7, 4, 3)
    assert Settings.of({}, base) == base


@pytest.mark.parametrize(
    ("function", "command"),
    [
        (compare, "compare"),
        (trajectory, "trajectory"),
        (matrix, "matrix"),
        (transplant, "transplant"),
        (interpolate, "interpolate"),
        (health, "health"),
        (probe, "probe"),
        (needle, "needle"),
    ],
)
def test_a_signature_shows_the_settings(function, command):
    shown = inspect.signature(function).parameters
    own = {"transplant": {"layers"}, "needle": {"pooling"}}.get(command, set())
    assert set(FIELDS) - set(shown) == LACKING[command] - own
    for name in set(FIELDS) & set(shown) - own:
        assert shown[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert shown[name].default == FIELDS[name].field.default
    assert "options" not in shown


@pytest.mark.parametrize("command", LACKING)
def test_a_command_has_every_setting_unless_it_lacks_it_on_purpose(cka, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = cka(command, "--help")
    assert code == 0
    options = set(re.findall(r"(?m)^\s+(?:-\w, )?(--[a-z-]+)", out))
    named = {name: FLAGS.get(name, f"--{name.replace('_', '-')}") for name in FIELDS}
    if command == "ablate":
        named["seed"] = "--document-seed"
    lacking = {name for name, flag in named.items() if flag not in options}
    # The device of an ablation is an option of its own.
    own = {"ablate": {"device"}, "transplant": {"layers"}, "needle": {"pooling"}}.get(command, set())
    assert lacking == PYTHON_ONLY | LACKING[command] - own


def test_what_cannot_change_a_number_is_not_recorded():
    kept = Settings(documents=3, cache=False, keep_features=0).record()
    assert not {"documents", "cache", "keep_features", "snapshot_every", "memory_limit"} & set(kept)
    assert kept["measures"] == ["cka"]
    assert kept["tokens_per_document"] is None
    assert Settings(pooling="token").record()["tokens_per_document"] == 8


def test_settings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().seed = 1
