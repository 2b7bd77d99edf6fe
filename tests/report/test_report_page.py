"""A report as a file: what it holds, its size, what it refuses; results as notebooks show them."""

import base64
import csv
import gzip
import hashlib
import io
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from runs import EVIL, RESULTS, SAVED, hostile, made_evaluation, made_matrix, saved
from synthetic_comparison import make_comparison

from cka_tools.comparison import html
from cka_tools.comparison.findings import findings
from cka_tools.comparison.html import picture
from cka_tools.comparison.readout_results import KINDS, open_run
from cka_tools.comparison.record import csv_bytes
from cka_tools.comparison.results import RunResult
from cka_tools.comparison.shown_tables import shown_tables
from cka_tools.errors import EarlyWarning, UserError
from cka_tools.formatting import percent
from cka_tools.report import write, write_report
from cka_tools.report.plots import plots


class Parsed(HTMLParser):
    """The elements of a page, and the text in each kind of them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)
        self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if self._open:
            self.texts[self._open[-1]][-1] += data.replace("\u00a0", " ")  # keeps a number and its % in one line

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def data_of(page: Parsed, name: str) -> dict:
    at = [attributes.get("id") for attributes in page.all("script")].index(name)
    return json.loads(page.texts["script"][at])


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Figures are drawn in tests of figures, and in one here."""
    for module in (write, html):
        monkeypatch.setattr(module, "picture", lambda result, dpi: "data:image/png;base64,AA==")


def test_a_report_of_every_kind_says_what_its_record_says(tmp_path):
    out = write_report([RESULTS / name for name in SAVED], tmp_path / "r.html", title="All of them")
    page = Parsed(out.read_text())
    text = " ".join(text for texts in page.texts.values() for text in texts)
    assert page.texts["h1"] == ["All of them"]
    for name in SAVED:
        result = open_run(RESULTS / name)
        said = findings(result)
        for sentence in (*said.compared, *said.found, *said.cautions, *said.notes, *(t for _, t in said.warned)):
            assert sentence.strip() in text
        assert result.record["provenance"]["command"] in text
        assert result.record["provenance"]["corpus"]["draws"][0]["fingerprint"] in text
    mean = open_run(RESULTS / "detour").summary["mean_divergence"]["debiased"]
    numbers = [f"{100 * mean[key]:.2f}" for key in ("value", "ci_low", "ci_high")]
    assert "{} % (95 % interval {} to {})".format(*numbers) in text


def test_findings_of_readouts_name_their_units():
    units = {}
    for name in ("transplant", "line-theta0-clm-detour"):
        units[name] = [sentence for sentence in findings(open_run(RESULTS / name)).found if "asked-LM" in sentence]
        assert len(units[name]) == 2
        assert " nats (" in units[name][0]
    value = open_run(RESULTS / "line-theta0-clm-detour").record["barrier"]["mlm.accuracy"]["value"]
    assert f"is {percent(value)} points (" in units["line-theta0-clm-detour"][1]
    assert "that of " in units["transplant"][0]


@pytest.mark.parametrize("name", SAVED)
def test_plots_hold_the_numbers_of_the_record(name):
    result = open_run(RESULTS / name)
    drawn = plots(result.kind, result.record, result.arrays)
    assert drawn
    json.dumps([(one.data, one.layout) for one in drawn], allow_nan=False)
    if name == "detour":
        curve = drawn[0].data[0]
        for at, entry in enumerate(result.record["layers"]):
            one = entry["divergence"]
            assert curve["y"][at] == pytest.approx(100 * one["value"], abs=1e-5)
            ends = curve["y"][at] - curve["error_y"]["arrayminus"][at], curve["y"][at] + curve["error_y"]["array"][at]
            assert ends == pytest.approx((100 * one["ci_low"], 100 * one["ci_high"]), abs=1e-4)
        heat = next(trace for one in drawn for trace in one.data if trace["type"] == "heatmap")
        assert heat["z"][2][5] == pytest.approx(result.arrays["matrix.debiased"][2, 5], abs=1e-4)


def interval_of(trace: dict, at: int, along: str = "y") -> tuple[float, float, float]:
    """Value and interval of a point as it is drawn."""
    value, bars = trace[along][at], trace[f"error_{along}"]
    return value, value - bars["arrayminus"][at], value + bars["array"][at]


def in_percent(entry: dict) -> tuple[float, float, float]:
    return tuple(100 * entry[key] for key in ("value", "ci_low", "ci_high"))


def test_a_needle_is_drawn_and_told_by_length_and_position():
    result = open_run(RESULTS / "needle")
    drawn = plots("needle", result.record, result.arrays)
    assert [one.title.partition(":")[0] for one in drawn] == ["Two-layer probe", "Logistic regression"]
    table = shown_tables(result)[0]
    cells = {column.head: column for column in table.columns}
    rows = list(zip(*(cells[head].cells for head in ("model", "tokens", "position")), strict=True))
    for plot, probe in zip(drawn, ("mlp", "logistic"), strict=True):
        *traces, chance = plot.data
        assert (chance["name"], chance["y"]) == ("chance", [50.0, 50.0])
        for model, trace in zip(result.models, traces, strict=True):
            seen = {text.partition("<br>")[0]: at for at, text in enumerate(trace["hovertext"])}
            for group, entry in zip(result.groups, model["layers"][0]["probes"][probe]["accuracy"], strict=True):
                row = rows.index(
                    (model["name"], f"{group['length']:,}" if group["length"] else "all", group["position"] or "all")
                )
                title = "two-layer probe %" if probe == "mlp" else "logistic regression %"
                assert cells[title].values[row] == entry["value"]
                if group["length"] is not None:
                    place = f"{group['position'] or 'all positions'}, {group['length']:,} tokens"
                    assert interval_of(trace, seen[place]) == pytest.approx(in_percent(entry), abs=1e-4)
    assert rows[-1] == ("chance", "–", "–")
    # Every interval that lies above one half names its model, and no other does.
    first = result.models[0]["layers"][0]["probes"]["mlp"]["accuracy"][0]
    told = next(one for one in findings(result).found if one.startswith("Two-layer probe"))
    above = [m["name"] for m in result.models if m["layers"][0]["probes"]["mlp"]["accuracy"][0]["ci_low"] > 0.5]
    assert told.endswith(f"clearly above chance (50.0 %): {' and '.join(above) or 'none'}.")
    assert f"{100 * first['value']:.1f} %" in told


def test_layers_of_a_needle_have_a_plot_and_a_column():
    result = open_run(RESULTS / "needle")
    for model in result.models:
        model["layers"].insert(0, {**model["layers"][0], "layer": 3, "output": False})
    drawn = plots("needle", result.record, result.arrays)
    assert [one.data[0]["x"] for one in drawn[2:]] == [[3, 8], [3, 8]]
    layer = next(one for one in shown_tables(result)[0].columns if one.head == "layer")
    assert set(layer.cells) == {"3", "output", "–"}


def test_an_evaluation_is_drawn_task_by_task_with_intervals_over_seeds():
    result = made_evaluation()
    drawn = plots("evaluation", result.record, result.arrays)
    assert [one.title for one in drawn] == ["first macro F1", "second macro F1", "mean of tasks"]
    for t, plot in enumerate(drawn):
        task = t if t < 2 else None
        (means,) = [one for one in plot.data if one["name"] == "mean over seeds"]
        own = [one for one in result.record["scores"] if one["task"] == task]
        for m, one in enumerate(own):
            entry = one["readouts"]["mean" if task is None else "macro_f1"]
            assert interval_of(means, m, "x") == pytest.approx(in_percent(entry), abs=1e-4)
        clear = [one["model"] for one in result.record["best"] if one["task"] == task and one["clear"]]
        assert [at for at, text in enumerate(means["hovertext"]) if "clearly the best" in text] == clear == [1]
        dots = [one for one in plot.data if one["name"] == "a seed"]
        if task is None:
            assert not dots
        else:
            by_model = np.reshape(dots[0]["x"], (2, 3))
            assert by_model == pytest.approx(100 * result.arrays[f"{t}.macro_f1"], abs=1e-4)
            floors = [(one["name"], one["x"], one["y"]) for one in plot.data if one["name"] == "majority"]
            level = next(f for f in result.record["floors"] if (f["name"], f["task"]) == ("majority", t))
            level = 100 * level["readouts"]["macro_f1"]["value"]
            assert floors == [("majority", [level, level], [-0.6, 1.6])]


def test_an_interval_of_two_seeds_does_not_stretch_the_axis():
    result = made_evaluation(2)
    ends = []
    for one in plots("evaluation", result.record, result.arrays)[:2]:
        means = next(trace for trace in one.data if trace["name"] == "mean over seeds")
        ends += [end for m in range(2) for end in interval_of(means, m, "x")[1:]]
    assert min(ends) == 0
    assert max(ends) <= 100


def test_an_evaluation_is_reported(tmp_path):
    result = made_evaluation()
    saved(result, tmp_path / "run")
    page = Parsed(write_report([tmp_path / "run"], tmp_path / "r.html").read_text())
    text = " ".join(text for texts in page.texts.values() for text in texts)
    for sentence in (*findings(result).found, *findings(result).cautions):
        assert sentence in text
    assert f"Lr {result.record['provenance']['settings']['lr']:g}, weight decay" in text


def test_tables_are_downloaded_as_they_are_saved_and_formulas_are_defused(tmp_path):
    result = open_run(RESULTS / "decay")
    result.record["pairs"][0]["name"] = "=cmd()"
    saved(result, tmp_path / "run")
    page = Parsed(write_report([tmp_path / "run"], tmp_path / "r.html").read_text())
    (table,) = data_of(page, "tables").values()
    unpacked = gzip.decompress(base64.b64decode(table["gzip"]))
    assert table["name"] == "run-trajectory.csv"
    assert unpacked == csv_bytes(result.to_frame())
    assert "'=cmd()" in {row["checkpoint"] for row in csv.DictReader(io.StringIO(unpacked.decode()))}


def test_the_policy_allows_the_scripts_of_the_page_and_no_others(tmp_path):
    page = Parsed(write_report([RESULTS / "detour"], tmp_path / "r.html").read_text())
    (policy,) = [one["content"] for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    own = [
        text
        for attributes, text in zip(page.all("script"), page.texts["script"], strict=True)
        if attributes.get("type") != "application/json"
    ]
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in own]
    assert rules["script-src"].split() == [f"'sha256-{one}'" for one in hashes]
    assert rules["default-src"] == "'none'"
    assert not [one for one in page.all("script") if "src" in one]
    assert not page.all("link")


def test_the_library_is_the_published_file():
    known = {"plotly-cartesian-4.1.1.min.js": "79542150855a52c567260e3137095dbe2b744e6d702a5cabe67da246942fba7a"}
    for name, expected in known.items():
        assert hashlib.sha256((write.ASSETS / name).read_bytes()).hexdigest() == expected
    assert "MIT License" in (write.ASSETS / "plotly-LICENSE.txt").read_text()


@pytest.mark.parametrize("name", [*SAVED, "evaluation"])
def test_hostile_text_is_text(tmp_path, name):
    saved(hostile(name), tmp_path / "run")
    text = write_report([tmp_path / "run"], tmp_path / "r.html").read_text()
    harmless = saved(made_evaluation(), tmp_path / "clean") if name == "evaluation" else RESULTS / name
    page, clean = Parsed(text), Parsed(write_report([harmless], tmp_path / "c.html").read_text())
    for tag in ("script", "img", "a", "svg", "iframe"):
        assert len(page.all(tag)) == len(clean.all(tag))
    assert not [key for _, attributes in page.elements for key in attributes if key.startswith("on")]
    assert "\x1b" not in text
    for evil in EVIL:
        assert evil in " ".join(page.texts["li"])


@pytest.mark.parametrize("name", [*SAVED, "evaluation"])
def test_a_notebook_shows_findings_and_table_without_scripts(name):
    result = hostile(name)
    page = Parsed(result._repr_html_())
    assert not {"script", "a", "svg", "iframe", "link"} & {tag for tag, _ in page.elements}
    assert [one["src"] for one in page.all("img")] == ["data:image/png;base64,AA=="]
    assert not [key for _, attributes in page.elements for key in attributes if key.startswith("on")]
    said, table = findings(result), shown_tables(result)[0]
    assert [text.strip() for text in page.texts["h4"]] == [said.title]
    for sentence in said.found:
        assert sentence in page.texts["p"]
    assert page.texts["td"][: len(table.columns)] == [column.cells[0] for column in table.columns]


def test_a_figure_is_a_picture_and_one_that_cannot_be_drawn_is_none(monkeypatch):
    result = make_comparison(3, n=24)
    drawn = picture(result, 50)
    assert base64.b64decode(drawn.removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")
    monkeypatch.setattr(type(result), "figure", lambda self: 1 / 0)
    assert picture(result, 50) is None


def test_28_layers_and_10_models_are_small(tmp_path):
    saved(make_comparison(28, n=40, control="c"), tmp_path / "wide")
    saved(made_matrix(), tmp_path / "matrix")
    out = write_report([tmp_path / "wide", tmp_path / "matrix"], tmp_path / "r.html")
    assert out.stat().st_size < 2_500_000
    page = Parsed(out.read_text())
    assert len(page.elements) < 3000
    specs = data_of(page, "plots")
    assert sum(len(spec["data"]) for spec in specs.values()) < 30
    assert data_of(page, "tables").keys() == {"run-1-table-1", "run-2-table-1", "run-2-table-2"}


def test_what_does_not_fit_is_left_out_largest_first_and_said(tmp_path, monkeypatch):
    saved(made_matrix(6, 12), tmp_path / "matrix")
    size = write_report([tmp_path / "matrix"], tmp_path / "r.html").stat().st_size
    monkeypatch.setattr(write, "LARGEST", size - 100)
    page = Parsed(write_report([tmp_path / "matrix"], tmp_path / "small.html").read_text())
    assert data_of(page, "tables").keys() == {"run-1-table-2"}
    assert "all columns: matrix-matrix.csv in the run" in page.texts["span"]
    monkeypatch.setattr(write, "LARGEST", 1000)
    with pytest.warns(EarlyWarning, match="name fewer runs"):
        write_report([tmp_path / "matrix"], tmp_path / "small.html")


def test_a_long_table_is_cut_on_the_page_and_whole_in_its_csv(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "MOST_ROWS", 4)
    page = Parsed(write_report([RESULTS / "decay"], tmp_path / "r.html").read_text())
    assert any("7 further rows" in text for text in page.texts["p"])
    (table,) = data_of(page, "tables").values()
    rows = list(csv.DictReader(io.StringIO(gzip.decompress(base64.b64decode(table["gzip"])).decode())))
    assert len({row["checkpoint"] for row in rows if row["role"] == "checkpoint"}) == 11


def test_comparisons_over_the_same_documents_are_held_against_the_first(tmp_path):
    first, second = make_comparison(4, n=40), make_comparison(4, n=40, drift=2.0)
    other = make_comparison(4, n=30)
    for name, one in (("a", first), ("b", second), ("c", other)):
        saved(one, tmp_path / name)
    page = Parsed(write_report([tmp_path / name for name in "abc"], tmp_path / "r.html").read_text())
    assert [one["id"] for one in page.all("section")] == ["overview", "run-1", "run-2", "run-3", "difference-1"]
    stated = [f"{100 * one.summary['mean_divergence']['debiased']['value']:.1f} (" for one in (first, second, other)]
    assert all(any(cell.startswith(number) for cell in page.texts["td"]) for number in stated)
    # Rows have the numbers of the list of runs.
    assert [cell.split()[0] for cell in page.texts["td"] if " vs " in cell] == ["1.", "2.", "3."]
    apart = (
        second.summary["mean_divergence"]["debiased"]["value"] - first.summary["mean_divergence"]["debiased"]["value"]
    )
    assert any(f"Mean divergence differs by {100 * apart:.1f} points" in text for text in page.texts["p"])


def test_a_kind_without_plots_of_its_own_shows_its_table(tmp_path, monkeypatch):
    class Survey(RunResult):
        kind, table = "survey", "survey.csv"

        def to_frame(self):
            import pandas as pd

            return pd.DataFrame({"model": ["<b>x</b>", "y"], "depth": [0.5, None], "n_documents": [3, 3]})

        @classmethod
        def load(cls, run_dir):
            return cls(json.loads((Path(run_dir) / "result.json").read_text()), {})

    summary = {"n_documents": 3, "warnings": [{"code": "few", "text": "too few"}], "notes": []}
    record = {
        "kind": "survey",
        "summary": summary,
        "provenance": {"models": [], "corpus": {"spec": "c"}, "command": "x"},
    }
    monkeypatch.setitem(KINDS, "survey", Survey)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "result.json").write_text(json.dumps(record))
    page = Parsed(write_report([tmp_path / "run"], tmp_path / "r.html").read_text())
    assert page.texts["td"][:4] == ["<b>x</b>", "0.5", "y", "–"]
    assert any("too few" in text for text in page.texts["li"])
    assert not page.all("figure")[1:]


def test_the_same_runs_give_the_same_bytes(tmp_path):
    for name in ("one.html", "two.html"):
        write_report([RESULTS / "detour"], tmp_path / name)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_what_cannot_be_reported_is_one_line(tmp_path):
    (tmp_path / "training").mkdir()
    for runs, out, told in (
        ([RESULTS / "detour"], "r.pdf", "end it in .html"),
        ([tmp_path / "training"], "r.html", "holds no result.json"),
        ([tmp_path / "none"], "r.html", "is not a run"),
        ([], "r.html", "no run was named"),
        ([RESULTS / "detour"], "no/such/r.html", "could not be written"),
    ):
        with pytest.raises(UserError, match=told) as error:
            write_report(runs, tmp_path / out)
        assert "\n" not in str(error.value)
    damaged = saved(open_run(RESULTS / "detour"), tmp_path / "damaged")
    record = json.loads((damaged / "result.json").read_text())
    record["layers"][0]["divergence"] = "<script>"
    (damaged / "result.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="is damaged"):
        write_report([damaged], tmp_path / "r.html")
    assert not list(tmp_path.glob("*.html"))


def test_folders_without_a_run_are_left_out_and_said(tmp_path):
    (tmp_path / "training").mkdir()
    with pytest.warns(EarlyWarning, match="training holds no run"):
        out = write_report([tmp_path / "training", RESULTS / "detour", RESULTS / "detour"], tmp_path / "r.html")
    page = Parsed(out.read_text())
    assert any("training holds no run and was left out" in text for text in page.texts["li"])
    assert len(page.all("section")) == 1
