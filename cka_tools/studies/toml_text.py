"""A TOML text that knows on which line each of its keys stands."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cka_tools.errors import UserError, one_line, reason_of
from cka_tools.formatting import quoted

MOST_BYTES = 2**20
"""A larger file is another kind of file."""

Keys = Sequence[str]
"""The way to a value: the keys of the tables around it, and its own."""


@dataclass(frozen=True)
class TomlText:
    """A file's text.

    Attributes:
        name: of the file, as it was given.
    """

    name: str
    text: str

    @cached_property
    def data(self) -> dict[str, Any]:
        """What it says.

        Raises:
            UserError: it is not TOML, with the line.
        """
        try:
            return tomllib.loads(self.text)
        except (ValueError, RecursionError) as error:
            said = one_line(error)
            found = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", said)
            line = "" if found is None else f", line {found[1] or self.text.rstrip().count(chr(10)) + 1}"
            reason = said if found is None else said[: found.start()]
            raise UserError(f"{self.name}{line}: this is not TOML ({reason})") from error

    @cached_property
    def _lines(self) -> list[str]:
        return self.text.replace("\r\n", "\n").split("\n")

    def place(self, keys: Keys, value: object = None) -> str:
        """The file and the line of a key, for the beginning of a message.

        Args:
            value: of several lines that the key's value takes, the one that has this.
        """
        return f"{self.name}, line {self.line(keys, value)}"

    def line(self, keys: Keys, value: object = None) -> int:
        """The line of a key, counted from 1; of the nearest key around it where there is no such key."""
        for known in range(len(keys), 0, -1):
            for first, last, found in self._statements:
                if _has(found, keys[:known]):
                    lines = range(first, last + 1)
                    return next((at for at in lines if value and str(value) in self._lines[at]), first) + 1
        return 1

    @cached_property
    def _statements(self) -> list[tuple[int, int, dict[str, Any]]]:
        """Of each statement the first and the last line, and what it says, in all tables around it.

        A statement is the shortest piece that is TOML by itself: what reads the file tells, and no second grammar.
        """
        statements = []
        table: list[str] = []
        first: int | None = None
        for at, line in enumerate(self._lines):
            if first is None and line.strip()[:1] in ("", "#"):
                continue
            first = at if first is None else first
            try:
                found = tomllib.loads("\n".join(self._lines[first : at + 1]))
            except (ValueError, RecursionError):
                continue
            if self._lines[first].lstrip().startswith("["):
                table = _way(found)
            else:
                for key in reversed(table):
                    found = {key: found}
            statements.append((first, at, found))
            first = None
        return statements


def _way(table: Any) -> list[str]:
    """The keys to a table that is alone in what was read; of an array of tables none lie deeper."""
    way = []
    while isinstance(table, dict) and table:
        ((key, table),) = table.items()
        way.append(key)
    return way


def _has(data: Any, keys: Sequence[str]) -> bool:
    for key in keys:
        if not isinstance(data, dict) or key not in data:
            return False
        data = data[key]
    return True


def read_toml(path: Path) -> TomlText:
    """Read a file; whether it is TOML shows when its data are asked for.

    Raises:
        UserError: no such file, or no text in UTF-8.
    """
    what = f"study {quoted(path, 400)}"
    try:
        if path.exists() and not path.is_file():
            kind = "a directory" if path.is_dir() else "not a plain file"
            raise UserError(f"{what} is {kind}: give a .toml file, as `cka study init DIR…` writes it")
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{what} is larger than {MOST_BYTES:,} bytes: give a .toml file")
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = reason_of(error) if isinstance(error, OSError) else one_line(error)
        raise UserError(f"{what} cannot be read ({reason}): `cka study init DIR…` writes one") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: this is not UTF-8: save the file in that encoding") from error
    return TomlText(str(path), text)
