"""What a study file says, and where it is wrong."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cka_tools.errors import UserError
from cka_tools.settings import Settings
from cka_tools.studies.analyses import ANALYSES
from cka_tools.studies.study_file import read_study, settings_of
from cka_tools.studies.toml_text import TomlText

MODELS = """\
[models]
start = "demo:theta0"
detour = "demo:clm-detour"
baseline = [
    "demo:mlm-baseline",  # the first
]
control = "demo:mlm-baseline-2"
"""


def read(tmp_path: Path, text: str | bytes):
    file = tmp_path / "study.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_study(file)


def test_what_is_written_and_what_is_not(tmp_path: Path) -> None:
    study = read(
        tmp_path,
        MODELS
        + """
[settings]
documents = 40
max-length = 64
layers = [0, 1]
cache = false

[analyses.compare]
[analyses.early]
analysis = "compare"
detour = "start"
layers = "0-2"
measure = "mknn"
control = []
[analyses.transplant]
parts = "attention+mlp,head"
layers = ["0-3", [4, 5]]
""",
    )
    compare, early, transplant = study.entries
    assert study.corpora == {"sample": "sample"}
    assert compare.settings == Settings(documents=40, max_length=64, layers=(0, 1), cache=False)
    assert {k: getattr(v, "given", v) for k, v in compare.calls[0].arguments.items()} == {
        "model_a": "demo:clm-detour", "model_b": "demo:mlm-baseline", "control": "demo:mlm-baseline-2",
    }  # fmt: skip
    assert early.settings == Settings(documents=40, max_length=64, layers=(0, 1, 2), cache=False, measures=("mknn",))
    assert (early.calls[0].arguments["model_a"].given, early.calls[0].arguments["control"]) == ("demo:theta0", None)
    # A transplant has no setting `layers`: its own option is another thing.
    assert transplant.settings.layers is None
    assert transplant.options["layers"] == [(0, 1, 2, 3), (4, 5)]
    assert transplant.options["parts"] == (("attention", "mlp"), ("head",))


def test_without_analyses_all_that_fit_are_there(tmp_path: Path) -> None:
    study = read(tmp_path, MODELS)
    kinds = [one.kind for one in study.entries]
    assert kinds == ["compare", "matrix", "transplant", "interpolate", "health"]
    assert set(study.left_out) == {"contrast", "trajectory"}
    assert "2 models or more a group" in study.left_out["contrast"]


def test_detours_meet_their_baselines_by_position() -> None:
    study = read_study(
        {
            "models": {
                "detour": ["demo:clm-detour", "demo:clm-detour-matched"],
                "baseline": ["demo:mlm-baseline", "demo:mlm-baseline-matched"],
            },
            "analyses": ["compare", "interpolate", "contrast"],
        }
    )
    compare, interpolate, contrast = study.entries
    met = [
        [getattr(call.arguments[key], "given", None) for key in ("model_a", "model_b", "control")]
        for call in compare.calls
    ]
    second = "demo:mlm-baseline-matched"
    # The second baseline is no control of itself.
    assert met == [["demo:clm-detour", "demo:mlm-baseline", second], ["demo:clm-detour-matched", second, None]]
    assert [call.arguments["model_a"].given for call in interpolate.calls] == ["demo:mlm-baseline", second]
    assert {name: len(some) for name, some in contrast.calls[0].arguments["groups"].items()} == {
        "detour": 2, "baseline": 2,
    }  # fmt: skip


BAD = [
    ("", 1, "no models are named"),
    ("x = [1,\n", 1, "this is not TOML"),
    ("a = 1\n\nb = \n", 3, "this is not TOML"),
    ("[models]\ndetour = 'demo:theta0'\n[models]\n", 3, "this is not TOML"),
    ("modles = 3\n" + MODELS, 1, "did you mean 'models'?"),
    ("models = 3\n", 1, "no models are named"),
    (MODELS + "[settings]\nmeasures = [1, 2]\n", MODELS.count("\n") + 2, "measure '1' is not known"),
    (MODELS + "[settings]\ndevice = 'nope'\n", MODELS.count("\n") + 2, "device 'nope' is unknown"),
    ("[models]\n", 1, "no models are named"),
    ("[models]\ndetuor = 'demo:theta0'", 2, "did you mean 'detour'?"),
    ("[models]\ndetour = []", 2, "names nothing"),
    ("[models]\ndetour = ['demo:theta0', 3]", 2, "'3' is not a name"),
    ("[models]\ndetour = {a = 'b'}", 2, "is not a name"),
    ("[models]\ndetour = [\n 'demo:theta0',\n 'demo:nope',\n]", 4, "unknown demo model 'demo:nope'"),
    ("[models]\ndetour = './no/such'", 2, "model directory './no/such' does not exist"),
    ("[models]\ndetour = '/no/such'", 2, "model directory '/no/such' does not exist"),
    ("[models]\ndetour = 'a\\u0000b'".replace("'", '"'), 2, "neither a directory nor a hub id"),
    (MODELS + "\n[x]\n", 9, "'x' is not known"),
    (MODELS.replace("-2", ""), 7, "is in baseline and in control"),
    ("[models]\ndetour = ['demo:theta0', 'demo:theta0']", 2, "twice in detour"),
    ("title = 3\n" + MODELS, 1, "title '3' is not a text"),
    ("corpora = []\n" + MODELS, 1, "names nothing"),
    ("corpora = ['sample', 'no.txt']\n" + MODELS, 1, "no such file or folder"),
    ("corpora = '-'\n" + MODELS, 1, "can be read but once"),
    (MODELS + "[corpora]\n'a b' = 'sample'", 9, "up to 60 letters"),
    (MODELS + "[corpora]\na = 'sample'\nA = 'sample'", 9, "differ in case alone"),
    (MODELS + "[corpora]\na = ['sample', 'sample']", 9, "is a list"),
    (MODELS + "[settings]\ndocumnets = 3", 9, "did you mean 'documents'?"),
    (MODELS + "[settings]\n\ndocuments = '3'", 10, "write a whole number"),
    (MODELS + "[settings]\ndocuments = true", 9, "write a whole number"),
    (MODELS + "[settings]\ndocuments = 0", 9, "must be at least 1"),
    (MODELS + f"[settings]\ndocuments = {10**30}", 9, "must be at most"),
    (MODELS + "[settings]\npooling = 'max'", 9, "is not one of mean, cls, last, token"),
    (MODELS + "[settings]\nlayers = [0, true]", 9, "write a list"),
    (MODELS + "[settings]\nlayers = '7-1'", 9, "runs backwards"),
    (MODELS + "[settings]\ncache = 'no'", 9, "write true or false"),
    (MODELS + "[settings]\nkeep-features = 2020-01-01", 9, "write a text"),
    (MODELS + "[settings]\nmax-length = 3\nmax_length = 4", 10, "says again"),
    (MODELS + "[settings]\nbatch-size = 3", 9, "'batch-size' is not known"),
    ("settings = 3\n" + MODELS, 1, "write it as a table"),
    (MODELS + "[analyses]", 8, "no analysis is named"),
    (MODELS + "[analyses.comapre]", 8, "did you mean 'compare'?"),
    (MODELS + "[analyses.mine]\nanalysis = 'transplants'", 9, "did you mean 'transplant'?"),
    (MODELS + "[analyses.mine]\nanalysis = 3", 9, "is not known"),
    (MODELS + "[analyses]\ncompare = 3", 9, "write it as a table"),
    (MODELS + "[analyses.compare]\n[analyses.compare]", 9, "this is not TOML"),
    ("analyses = ['compare', 'compare']\n" + MODELS, 1, "is there twice"),
    (MODELS + "[analyses.'../up']\nanalysis='compare'", 8, "up to 60 letters"),
    (MODELS + "[analyses.compare]\nreverse = true", 9, "the key of compare 'reverse' is not known"),
    (MODELS + "[analyses.health]\npooling = 'cls'", 9, "the key of health 'pooling' is not known"),
    (MODELS + "[analyses.compare]\ndetour = 'detuor'", 9, "did you mean 'detour'?"),
    (MODELS + "[analyses.compare]\ndetour = 'demo:mlm-baseline-matched'", 9, "not a model of the study"),
    (MODELS + "[analyses.compare]\ndetour = []", 9, "names nothing"),
    (MODELS + "[analyses.compare]\ncorpora = 'pubmed'", 9, "the corpus 'pubmed' is not known"),
    (MODELS + "[analyses.probe]\n", 8, "probe: needs task = …"),
    (MODELS + "[analyses.probe]\ntask = 3", 9, "is not a text"),
    (MODELS + "[analyses.probe]\ntask = 'sections'\ncorpora = 'sample'", 10, "takes no corpus"),
    (MODELS + "[analyses.evaluate]\n", 8, "evaluate: needs tasks = …"),
    (MODELS + "[analyses.evaluate]\ntasks = [3]", 9, "is not a list of texts"),
    (MODELS + "[analyses.evaluate]\ntasks = 'sections'\ncorpora = 'sample'", 10, "takes no corpus"),
    (MODELS + "[analyses.evaluate]\ntasks = 'sections'\nlayers = '0-7'", 10, "key of evaluate 'layers' is not known"),
    (MODELS + "[analyses.evaluate]\ntasks = 'sections'\nseeds = ['1']", 10, "is not a whole number"),
    (MODELS + "[analyses.evaluate]\ntasks = 'sections'\nlr = '1'", 10, "is not a list of numbers"),
    (MODELS + "[analyses.interpolate]\npoints = '5'", 9, "is not a whole number"),
    (MODELS + "[analyses.trajectory]\nx = [nan]", 9, "is not a list of numbers"),
    (MODELS + "[analyses.trajectory]\nhealth = 1", 9, "write true or false"),
    (MODELS + "[analyses.trajectory]\n", 8, "trajectory: no detour is a training run's folder"),
    (MODELS + "[analyses.transplant]\nlayers = [[-1]]", 9, "is not a list of layers"),
    (MODELS + "[analyses.transplant]\nparts = ['atention']", 9, "attention"),
    (MODELS + "[analyses.contrast]\n", 8, "contrast: needs 2 models or more a group"),
    ("[models]\nstart = 'demo:theta0'\n[analyses.compare]", 3, "compare: needs 1 or more of the role 'detour'"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "message"), BAD, ids=[f"{at}" for at in range(len(BAD))])
def test_what_does_not_fit_is_told_with_its_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    with pytest.raises(UserError) as told:
        read(tmp_path, text)
    assert str(told.value).startswith(f"{tmp_path / 'study.toml'}, line {line}: "), told.value
    assert message in str(told.value)
    assert "\n" not in str(told.value)
    assert told.value.exit_code == 2


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="line 2: this is not UTF-8"):
        read(tmp_path, b"a = 1\nb = '\xff'")
    with pytest.raises(UserError, match="is a directory"):
        read_study(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        read_study(tmp_path / "nothing.toml")
    with pytest.raises(UserError, match="cannot be read"):
        read_study("a\0b")
    with pytest.raises(UserError, match="larger than"):
        read(tmp_path, "#" * 2**21)
    with pytest.raises(UserError, match="not a plain file"):
        read_study("/dev/null")
    # Windows' line ends and a byte order mark are text like any other.
    assert read(tmp_path, b"\xef\xbb\xbf" + MODELS.replace("\n", "\r\n").encode()).models.keys() == {
        "start", "detour", "baseline", "control",
    }  # fmt: skip
    with pytest.raises(UserError, match=r"study, models\.detour: unknown demo model"):
        read_study({"models": {"detour": "demo:nope"}})


VALUES = st.sampled_from(
    ["1", "true", "'x = 1'", '"""\n[a]\nb = 2\n"""', "[\n 1, # c\n\n 2,\n]", "{ a = 1, b = [1, 2] }", "[[1], ['#']]"]
)


@given(st.lists(st.tuples(st.integers(0, 3), VALUES, st.sampled_from(["", "# x = 1\n", "\n", "  \n\n"])), max_size=12))
def test_lines_of_keys_are_those_where_they_were_written(pieces: list[tuple[int, str, str]]) -> None:
    lines: list[str] = []
    expected: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for at, (depth, value, between) in enumerate(pieces):
        lines += between.split("\n")[:-1]
        if depth:
            table = tuple(f"t{at}" if level == depth - 1 else f"s{at}{level}" for level in range(depth))
            lines.append(f"[{'.'.join(table)}]  # a table")
            expected[table] = len(lines)
        expected[(*table, f"k{at}")] = len(lines) + 1
        lines += f"k{at} = {value}".split("\n")
    text = TomlText("a.toml", "\n".join(lines))
    for keys, line in expected.items():
        assert text.line(keys) == line
        # What is not there is told where it would belong.
        assert text.line((*keys, "lacking")) == line


def test_entries_of_the_registry_fit_their_functions() -> None:
    """What an entry says of its function: its options are parameters, its settings those of a command."""
    import inspect
    from importlib import import_module

    for name, analysis in ANALYSES.items():
        module, _, function = analysis.function.partition(":")
        found = getattr(import_module(module), function)
        parameters = inspect.signature(found, follow_wrapped=False).parameters
        assert set(analysis.options) <= set(parameters), name
        assert set(analysis.needed) <= set(analysis.options), name
        assert ("corpus" in parameters) == analysis.corpus, name
        own = set(settings_of(name).values())
        # `layers` of a transplant is not the setting.
        assert own <= set(parameters), name
        assert not own & set(analysis.options), name


def test_settings_are_spelt_as_the_terminal_and_python_have_them() -> None:
    spelt = settings_of("compare")
    assert spelt["max-length"] == spelt["max_length"] == "max_length"
    assert spelt["measure"] == spelt["measures"] == "measures"
    assert spelt["cache"] == "cache"
    assert "no-cache" not in spelt
    assert "pooling" not in settings_of("health")
    assert json.dumps(sorted(spelt))
