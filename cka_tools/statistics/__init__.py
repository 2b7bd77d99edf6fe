"""Features → CKA: estimators, sufficient statistics, intervals, spectra."""

from cka_tools.statistics.linear_cka import LinearCKA, cka

__all__ = ["LinearCKA", "cka"]
