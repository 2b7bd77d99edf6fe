"""CKA of two feature matrices: over all documents, or approximately over small random groups of them."""

from __future__ import annotations

import numpy as np
import torch

from cka_tools.errors import UserError
from cka_tools.statistics.hsic import MINIMUM_SAMPLES, Estimator, check_estimator, normalise
from cka_tools.statistics.linear_cka import ArrayLike, LinearCKA, as_matrix

GROUP = 256
"""Documents in a group by default."""


def cka(X: ArrayLike, Y: ArrayLike, estimator: Estimator = "debiased") -> float:
    """Linear CKA of two feature matrices, computed in float64.

    Args:
        X: (n, p), one row a sample. Y: (n, q), the same samples.
        estimator: "debiased" (U-statistic, Song et al. 2012) or "biased" (Kornblith et al. 2019).

    Returns:
        CKA, not clamped; NaN where one side has no variance.

    Raises:
        UserError: shapes that do not fit, fewer than four rows, a value that is not finite.

    Example:
        >>> import numpy as np
        >>> X = np.random.default_rng(0).normal(size=(40, 5))
        >>> round(cka(X, 3 * X + 1), 6)
        1.0
    """
    check_estimator(estimator)
    X, Y = as_matrix(X, "X"), as_matrix(Y, "Y")
    if X.shape[0] != Y.shape[0]:
        raise UserError(f"X has {X.shape[0]} rows and Y has {Y.shape[0]}: give the same samples to both")
    if X.shape[1] == 0 or Y.shape[1] == 0:
        raise UserError(f"X is {tuple(X.shape)} and Y is {tuple(Y.shape)}: give at least one feature")
    stat = LinearCKA([X.shape[1]], [Y.shape[1]], device=X.device)
    stat.update([X], [Y])
    return float(stat.compute(estimator).item())


def minibatch_cka(X: ArrayLike, Y: ArrayLike, group: int = GROUP, seed: int = 42) -> float:
    """Debiased linear CKA from random groups: each HSIC averaged over the groups, then the ratio.

    The estimator of Nguyen et al. (2021, eq. 4). Each HSIC is unbiased; their ratio is not quite, and its
    variance is larger than that of `cka` over all documents. Groups are drawn at random, as they must be:
    batches of documents of like length hide every difference that goes with length.

    Args:
        X: (n, p), one row a document. Y: (n, q), the same documents.
        group: documents in a group; those left over by n / group are not used.
        seed: of the groups.

    Returns:
        CKA, not clamped; NaN where one side has no variance.

    Raises:
        UserError: shapes that do not fit, a group of fewer than four documents or of more than there are.
    """
    X, Y = as_matrix(X, "X"), as_matrix(Y, "Y")
    n = X.shape[0]
    if n != Y.shape[0]:
        raise UserError(f"X has {n} rows and Y has {Y.shape[0]}: give the same documents to both")
    if not MINIMUM_SAMPLES <= group <= n:
        limits = f"at least {MINIMUM_SAMPLES} and at most the {n} documents there are"
        raise UserError(f"group {group}: give {limits}")
    order = torch.from_numpy(np.random.default_rng(seed).permutation(n))[: n // group * group]
    stat = LinearCKA([X.shape[1]], [Y.shape[1]], device=X.device)
    total = torch.zeros(3, dtype=torch.float64)
    for rows in order.split(group):
        stat.reset()
        stat.update([X[rows.to(X.device)]], [Y[rows.to(Y.device)]])
        total += torch.cat([part.reshape(1) for part in stat.hsic("debiased")]).cpu()
    return float(normalise(total[0], total[1], total[2]))
