"""The one error a user is meant to see."""


class UserError(ValueError):
    """Input that does not fit.

    The message is one line: it quotes what was given, says what does not fit and what to do.
    The command line prints it without a traceback and exits with code 2.
    """
