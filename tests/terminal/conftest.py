"""The command line, run in this process."""

import sys
from collections.abc import Callable

import pytest

from cka_tools.terminal.app import main


@pytest.fixture
def cka(monkeypatch, capsys, tmp_path) -> Callable[..., tuple[int, str, str]]:
    """`cka(*arguments)` → exit code, standard output, standard error, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cka", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return run
