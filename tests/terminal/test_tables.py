"""Tables that fit a terminal."""

from io import StringIO

from rich.console import Console

from cka_tools.terminal.tables import Column, fitted_table


def test_an_interval_that_is_left_out_is_named_by_its_column() -> None:
    cells = ["1.000 to 2.000"]
    columns = [
        Column("loss", ["1.5"]),
        Column("interval", cells, 1),
        Column("paired\ninterval", cells, 2),
        Column("accuracy %", ["20"]),
        Column("interval", cells, 1),
    ]
    out = StringIO()
    Console(file=out, width=24).print(fitted_table(columns, 24, "all.csv"))
    said = " ".join(out.getvalue().split())
    assert "Too narrow for: interval of loss, interval of accuracy %, paired interval (in all.csv)." in said
    assert "loss accuracy %" in said
