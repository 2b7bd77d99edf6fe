"""What the `cka` command returns other than 0."""

LOST_PROCESS = 1
DAMAGED = 1
BAD_INPUT = 2
INTERRUPTED = 130
