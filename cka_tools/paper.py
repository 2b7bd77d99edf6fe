"""Constants of the CKA protocol of Touchent and de la Clergerie, arXiv 2605.12438 (2026)."""

from typing import Final

CITATION: Final = "Touchent and de la Clergerie, arXiv 2605.12438"
DOCUMENTS: Final = 500
DRAW_SEEDS: Final = (42, 43, 44)
MAX_LENGTH: Final = 512
BATCH_SIZE: Final = 16
MODEL_DTYPE: Final = "float16"
ESTIMATOR: Final = "biased"
EARLY_SHARE: Final = (1, 3)
"""Layers 0–7 of 22: the first third, rounded up."""
