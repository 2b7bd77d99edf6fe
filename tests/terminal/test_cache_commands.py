"""`cka cache` on a store that an extraction filled."""

import json
from functools import partial

import pytest

from cka_tools.models import load_model
from cka_tools.settings import Settings
from cka_tools.store.cached_extraction import extract_cached
from cka_tools.store.directory import lock_file, locked
from cka_tools.store.entry import mark_of
from cka_tools.terminal.cache_commands import age_in_words, size_in_words


@pytest.fixture
def filled(cache, tiny_model, tiny_documents):
    """Two entries, of mean and of cls pooling."""
    model = load_model(str(tiny_model("bert")))
    for pooling in ("mean", "cls"):
        extract_cached(model, tiny_documents, Settings(max_length=64, pooling=pooling))
    return cache


@pytest.fixture
def cka(cka, monkeypatch):
    """`cka(*arguments)` is `cka cache …`."""
    monkeypatch.setenv("COLUMNS", "120")
    return partial(cka, "cache")


def keys(cache):
    return sorted(folder.name for folder in (cache / "features").iterdir())


def test_path_prints_where_the_cache_lies(cka, cache):
    assert cka("path")[:2] == (0, f"{cache}\n")
    assert json.loads(cka("path", "--json")[1]) == {"path": str(cache)}
    assert cka("path", "--quiet")[1] == ""


def test_list_shows_each_entry(cka, filled):
    code, out, _ = cka("list")
    assert code == 0
    for key in keys(filled):
        assert key[:10] in out
    assert "2 entries" in out
    data = json.loads(cka("list", "--json")[1])
    assert sorted(entry["key"] for entry in data["entries"]) == keys(filled)
    for entry in data["entries"]:
        assert (entry["state"], entry["documents"], entry["layers"]) == ("complete", 40, 6)
        assert entry["size"] > 6 * 40 * 32 * 4


def test_list_of_no_cache_is_empty(cka, cache):
    code, out, _ = cka("list")
    assert (code, out) == (0, f"0 entries, 0 B, in {cache}\n")
    assert not cache.exists()


def test_list_names_damaged_and_interrupted_entries(cka, filled):
    damaged, whole = keys(filled)
    (filled / "features" / damaged / "manifest.json").write_text("{}")
    (filled / "features" / whole).rename(filled / "partial" / whole)
    states = {e["key"]: e["state"] for e in json.loads(cka("list", "--json")[1])["entries"]}
    assert states == {damaged: "damaged", whole: "interrupted"}
    assert cka("rm", "--all", "--yes", "--quiet") == (0, "", "")
    assert not any((filled / "features").iterdir())
    assert not any((filled / "partial").iterdir())


def test_verify_names_what_is_damaged_and_removes_nothing(cka, filled):
    assert cka("verify")[:2] == (0, f"2 entries verified, 0 damaged, in {filled}\n")
    damaged, whole = keys(filled)
    features = filled / "features" / damaged / "features.safetensors"
    content = bytearray(features.read_bytes())
    content[-1] ^= 1
    features.write_bytes(content)
    (filled / "features" / damaged / "verified").write_text(mark_of(features))
    code, out, _ = cka("verify", "--json")
    entries = {entry["key"]: entry for entry in json.loads(out)["entries"]}
    assert code == 1
    assert (entries[whole]["state"], entries[whole]["reason"]) == ("ok", None)
    assert entries[damaged]["state"] == "damaged"
    assert "checksum" in entries[damaged]["reason"]
    code, out, _ = cka("verify")
    assert code == 1
    assert f"{damaged[:10]} is damaged: features.safetensors does not have its checksum\n" in out
    assert whole[:10] not in out
    assert cka("verify", "--quiet")[:2] == (1, "")
    assert keys(filled) == [damaged, whole]


def test_verify_of_no_cache_is_no_damage(cka, cache):
    assert cka("verify")[:2] == (0, f"0 entries verified, 0 damaged, in {cache}\n")
    assert not cache.exists()


def test_rm_removes_what_its_first_letters_name(cka, filled):
    gone, kept = keys(filled)
    code, out, _ = cka("rm", gone[:10], "--yes", "--json")
    assert (code, json.loads(out)) == (0, {"removed": [gone]})
    assert keys(filled) == [kept]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "takes keys or --all"),
        (("abc", "--all"), "takes keys or --all"),
        (("no-such-key", "--yes"), "'no-such-key' fits no entry"),
        (("--all",), "nothing was removed"),
    ],
)
def test_rm_that_does_not_fit_is_one_line_and_removes_nothing(cka, filled, monkeypatch, arguments, words):
    monkeypatch.setattr("typer.confirm", lambda *args, **options: False)
    code, out, err = cka("rm", *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert len(keys(filled)) == 2


def test_rm_asks_and_does_what_it_is_told(cka, filled, monkeypatch):
    monkeypatch.setattr("typer.confirm", lambda *args, **options: True)
    assert cka("rm", "--all")[0] == 0
    assert keys(filled) == []


def test_rm_removes_nothing_that_the_cache_did_not_make(cka, filled, tmp_path):
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "manifest.json").write_text("precious")
    key = "0" * 64
    mine = [filled / "features" / "mine", filled / "runs" / "detour", filled / "partial" / key]
    for folder in mine:
        folder.mkdir(parents=True)
        (folder / "chapter.txt").write_text("precious")
    links = [filled / "features" / key, filled / "features" / ".removed-x", filled / "runs" / ("1" * 64)]
    for link in links:
        link.symlink_to(thesis)
    ours = {name for name in keys(filled) if (filled / "features" / name / "features.safetensors").exists()}
    assert len(ours) == 2
    code, out, err = cka("rm", "--all", "--yes")
    assert (code, err) == (0, "")
    assert not ours & set(keys(filled))
    assert all((folder / "chapter.txt").read_text() == "precious" for folder in mine)
    assert all(link.is_symlink() for link in links)
    assert (thesis / "manifest.json").read_text() == "precious"
    assert all(f"left: {path}, " in out for path in (*mine, *links))


def test_rm_leaves_an_entry_that_is_being_made(cka, filled):
    key = keys(filled)[0]
    with locked(lock_file(filled, key)):
        code, _, err = cka("rm", key, "--yes")
    assert code == 2
    assert "being made" in err
    assert key in keys(filled)


def test_every_command_shows_an_example(cka):
    for command in ("list", "verify", "rm", "path"):
        assert f"Example: cka cache {command}" in cka(command, "--help")[1]


def test_sizes_and_ages_in_words():
    assert [size_in_words(s) for s in (0, 1023, 1536, 3 * 1024**2, 5 * 1024**4)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "3.0 MiB",
        "5120.0 GiB",
    ]
    assert age_in_words("2020-01-01T00:00:00+00:00").endswith(" days")
