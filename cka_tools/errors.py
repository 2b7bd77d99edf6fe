"""The errors a user is meant to see, in one line."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """Input that does not fit.

    The message is one line: it quotes what was given, says what does not fit and what to do.
    The command line prints it without a traceback and exits with code 2.
    """

    exit_code = 2


class ProcessLost(Exception):  # noqa: N818 - a condition for the command line to name, not a fault
    """Another process of the run ended or does not answer, or the launcher stops all of them."""


class EarlyWarning(UserWarning):
    """Something to know before a run starts; the command line prints it as one line."""


def reason_of(error: OSError) -> str:
    """Why a file could not be written or read, in a few words."""
    if error.errno == errno.ENOSPC:
        return "no space is left"
    return (error.strerror or str(error)).lower()


@contextmanager
def failing_as(problem: str) -> Iterator[None]:
    """Say what goes wrong inside in one line, behind what it means."""
    try:
        yield
    except BaseException as error:
        # Compiled packages (tokenizers) end in panics, which are no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{problem}: {one_line(error)}") from error


def one_line(error: BaseException, limit: int = 160) -> str:
    """The first line of an exception's text, cut to `limit` characters, or its class name."""
    text = " ".join(str(error).split())
    if isinstance(error, KeyError):  # whose text is the key alone
        text = f"there is no {text}"
    return text if 0 < len(text) <= limit else (text[: limit - 1] + "…" if text else type(error).__name__)
