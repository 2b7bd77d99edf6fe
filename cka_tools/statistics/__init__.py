"""Features → CKA: estimators, sufficient statistics, intervals, spectra."""

from cka_tools.statistics.estimate import cka
from cka_tools.statistics.linear_cka import LinearCKA

__all__ = ["LinearCKA", "cka"]
