"""What the `cka` command returns other than 0."""

BAD_INPUT = 2
INTERRUPTED = 130
