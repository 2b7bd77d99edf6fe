"""BIO tags of words, and what is read as them: IOB1, BIOES and BILOU, which say the same in other letters."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cka_tools.errors import UserError
from cka_tools.formatting import quoted

UNTYPED = "entity"
"""The type of entities whose tags are plain B and I."""

TAG = re.compile(r"O|([BIESLU])(?:-(\S(?:.*\S)?))?")


def as_bio(tags: Sequence[str], where: str) -> tuple[tuple[str, ...], int]:
    """The BIO tags of a sentence, and how many other tags were changed to them.

    A tag I that continues no entity of its type begins one (as in IOB1, and as seqeval and conlleval count);
    E and L end, S and U are an entity of one word. Plain B and I get the type "entity".

    Raises:
        UserError: a tag of another form.
    """
    found, changed, inside = [], 0, None
    for tag in tags:
        parts = TAG.fullmatch(tag)
        if parts is None:
            raise UserError(f"{where}: tag {quoted(tag)} is not BIO: write O, B-TYPE or I-TYPE")
        letter, kind = parts[1], parts[2] or UNTYPED
        if letter is None:
            found.append("O")
            inside = None
            continue
        begins = letter in "BSU" or inside != kind
        found.append(f"{'B' if begins else 'I'}-{kind}")
        changed += letter != ("B" if begins else "I")
        inside = None if letter in "ESLU" else kind
    return tuple(found), changed


def types_of(tags: Sequence[str]) -> list[str]:
    """The type of each entity of a sentence in BIO, in order."""
    return [tag[2:] for tag in tags if tag.startswith("B-")]
