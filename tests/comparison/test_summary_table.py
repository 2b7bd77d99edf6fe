"""Several runs in one table: values, notes on what is not comparable, and escaping in every format."""

import csv
import io
import re

import pytest
from rich.console import Console
from synthetic_comparison import make_comparison

from cka_tools.comparison.summary import latex_escaped, markdown_escaped, summary_table, to_csv, to_latex, to_markdown
from cka_tools.errors import UserError
from cka_tools.formatting import percent
from cka_tools.terminal.many_report import print_summary

HOSTILE = "50% of a_b & c#d {e} ~f^g $h$ \\i [j] |k| *l*"


@pytest.fixture(scope="module")
def runs():
    return [make_comparison(8, control="c"), make_comparison(8, names=("org/x_1", "org/y"))]


def printed(table, width=80):
    stream = io.StringIO()
    print_summary(table, Console(file=stream, width=width))
    return stream.getvalue()


def test_values_are_the_runs(runs):
    rows = list(csv.DictReader(io.StringIO(to_csv(summary_table(runs, ["one", "two"])))))
    assert [row["run"] for row in rows] == ["one", "two"]
    for row, run in zip(rows, runs, strict=True):
        for of in ("mean", "early"):
            entry = run.summary[f"{of}_divergence"]
            for key, column in (("value", ""), ("ci_low", "_ci_low"), ("ci_high", "_ci_high")):
                assert float(row[f"{of}_divergence{column}"]) == pytest.approx(entry["debiased"][key])
            assert float(row[f"{of}_divergence_biased"]) == pytest.approx(entry["biased"]["value"])
    ratio, noise = (runs[0].summary["ratio"]["early"], runs[0].summary["control"]["mean_divergence"]["debiased"])
    assert float(rows[0]["ratio_early_ci_high"]) == pytest.approx(ratio["ci_high"])
    assert float(rows[0]["control_mean_divergence"]) == pytest.approx(noise["value"])
    assert rows[1]["ratio_mean"] == ""
    assert [row["documents"] for row in rows] == ["80", "80"]


def test_columns_of_a_control_are_there_only_where_a_run_has_one(runs):
    assert "ratio" in [column.head for column in summary_table(runs).columns]
    assert "ratio" not in [column.head for column in summary_table(runs[1:]).columns]


def test_what_all_runs_share_is_said_once(runs):
    table = summary_table(runs)
    assert "corpus sample" in table.caption
    assert "n = 80" in table.caption
    assert not table.notes
    assert {"n", "corpus"}.isdisjoint(column.head for column in table.columns)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda run: run.record["provenance"]["settings"].update(dtype="float16"), "dtype"),
        (lambda run: run.record["provenance"]["settings"].update(pooling="cls"), "pooling"),
        (lambda run: run.record["provenance"]["settings"].update(max_length=64), "max length"),
        (lambda run: run.summary.update(n_documents=79), "documents"),
        (
            lambda run: run.record["provenance"]["corpus"].update(spec="b", draws=[{"fingerprint": "x"}]),
            "corpus, documents",
        ),
    ],
)
def test_runs_that_cannot_be_compared_are_told_in_one_line(runs, change, words):
    other = make_comparison(8)
    change(other)
    (note,) = summary_table([runs[0], other]).notes
    assert note == f"Runs differ in {words}: their numbers are not comparable as they stand."


def test_the_same_texts_under_two_names_are_one_corpus():
    runs = [make_comparison(6, corpus=name) for name in ("here.txt", "there.txt")]
    for run in runs:
        run.record["provenance"]["corpus"]["draws"] = [{"fingerprint": "f"}]
    assert not summary_table(runs).notes


def test_missing_values_have_their_reason():
    few, refused = make_comparison(6, n=12), make_comparison(6, n=12, control="B", control_drift=0.0)
    notes = " ".join(summary_table([few, refused], ["few", "refused"]).notes)
    assert "few: no interval of the divergence; 12 documents are fewer" in notes
    assert "refused: no ratio; nothing to divide by" in notes


def test_columns_are_those_asked_for_in_their_order(runs):
    table = summary_table(runs, columns=["ratio", "mean", "corpus"])
    assert [column.head for column in table.columns] == ["run", "ratio", "mean %"]  # one corpus: in the caption
    assert "corpus sample" in table.caption
    with pytest.raises(UserError, match="column 'means' is not one of mean, mean-biased"):
        summary_table(runs, columns=["means"])
    with pytest.raises(UserError, match="column 'ratio' is empty: no run has a control"):
        summary_table(runs[1:], columns=["ratio"])


def test_latex_floats_with_caption_and_label_and_fits_the_text(runs):
    table = summary_table(runs, caption="50 % of a_b.")
    lines = to_latex(table, fit=True, label="tab:cka", floating=True).splitlines()
    assert lines[0] == "% Needs \\usepackage{booktabs} and \\usepackage{adjustbox}."
    assert lines[1:6] == [
        "\\begin{table}",
        "\\centering",
        "\\caption{50 \\% of a\\_b.}",
        "\\label{tab:cka}",
        "\\begin{adjustbox}{max width=\\linewidth}",
    ]
    assert lines[-3:] == ["\\end{tabular}", "\\end{adjustbox}", "\\end{table}"]
    assert "label" not in to_latex(table, floating=True)
    assert "\\begin{table}" in to_latex(table, label="tab:x")
    for bad in ("a}b", "", "a b", "\\x"):
        with pytest.raises(UserError, match="does not fit: use letters"):
            to_latex(table, label=bad)


def test_labels_must_be_as_many_as_runs(runs):
    with pytest.raises(UserError, match="1 labels for 2 runs"):
        summary_table(runs, ["only"])


def test_equal_names_are_told_apart():
    table = summary_table([make_comparison(6), make_comparison(6)])
    assert [cell.text[-3:] for cell in table.columns[0].cells] == ["(1)", "(2)"]


def test_latex_is_a_booktabs_table_with_everything_escaped(runs):
    text = to_latex(summary_table([*runs, make_comparison(8)], [HOSTILE, "[x] first", "*z"]))
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    rules = [line for line in lines if line.startswith("\\") and line.endswith("rule")]
    assert rules == ["\\toprule", "\\midrule", "\\bottomrule"]
    assert lines[0].startswith("\\begin{tabular}{lr")
    assert lines[-1] == "\\end{tabular}"
    body = [line for line in lines if line.endswith("\\\\")]
    assert len(body) == 4
    columns = len(re.fullmatch(r"\\begin\{tabular\}\{([lr]+)\}", lines[0])[1])
    for line in body:
        assert len(re.findall(r"(?<!\\)&", line)) == columns - 1
        assert not re.search(r"(?<!\\)[%#$_]", line)
        assert not re.match(r"[\[*]", line), "read as an option of the line break before it"
    mean = runs[0].summary["mean_divergence"]["debiased"]
    ends = [percent(mean[end]) for end in ("ci_low", "ci_high")]
    assert f"{percent(mean['value'])} {{\\footnotesize [{ends[0]}, {ends[1]}]}}" in body[1]
    assert " -- " in body[2]


def test_latex_escapes_every_special_letter():
    assert latex_escaped("a%b&c_d#e$f{g}~^\\") == (
        r"a\%b\&c\_d\#e\$f\{g\}\textasciitilde{}\textasciicircum{}\textbackslash{}"
    )
    assert "\n" not in latex_escaped("two\nlines")


def test_a_negative_divergence_has_a_minus_sign():
    run = make_comparison(6)
    run.summary["mean_divergence"]["debiased"].update(value=-0.004, ci_low=-0.012, ci_high=-0.0003)
    assert "$-$0.400 {\\footnotesize [$-$1.20, \\textgreater{} $-$0.05]}" in to_latex(summary_table([run]))


def test_markdown_is_a_table_that_no_name_can_break(runs):
    lines = to_markdown(summary_table(runs, [HOSTILE, "two"])).splitlines()
    bars = [len(re.findall(r"(?<!\\)\|", line)) for line in lines[:4]]
    assert len(set(bars)) == 1
    assert "\\|k\\|" in lines[2]
    assert markdown_escaped("a|b_c\n`d`") == "a\\|b\\_c \\`d\\`"


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_shows_whole_values_at_any_width(runs, width):
    long = make_comparison(6, names=("/data/" + "deep/" * 20 + "a", "b[red]"), corpus="x" * 60, n=90)
    text = printed(summary_table([*runs, long]), width)
    assert max(map(len, text.splitlines())) <= width
    for run in (*runs, long):
        mean = run.summary["mean_divergence"]["debiased"]
        assert f"{percent(mean['ci_low'])} to {percent(mean['ci_high'])}" in text
    assert "b[red]" in text
    assert "…" not in re.sub(r"…/", "", text)
