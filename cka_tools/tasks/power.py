"""How many examples a difference of two accuracies takes."""

from __future__ import annotations

import math

from scipy.special import ndtr

DIFFERENCE = 0.05
"""Of two accuracies: what a test set should be able to show."""

INDEPENDENT = 0.5
"""The share of examples of which one model alone is right, where both are near chance and their errors are
independent: the most that models near chance disagree."""

TWO_SIDED = 1.959963984540054
"""The normal quantile of a 95 % interval."""


def power(n: int, difference: float = DIFFERENCE, disagreement: float = INDEPENDENT) -> float:
    """The probability that a paired 95 % interval of a difference of accuracies lies above 0.

    A paired difference is 1, 0 or −1 an example, with a variance of disagreement − difference² (McNemar 1947);
    its mean over n is nearly normal.

    Args:
        n: examples, read by both models.
        difference: the true one. disagreement: the share of examples of which one model alone is right.
    """
    error = math.sqrt((disagreement - difference**2) / n)
    return float(ndtr(difference / error - TWO_SIDED))
