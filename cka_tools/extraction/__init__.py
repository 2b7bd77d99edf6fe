"""Documents → tokens → batches → activations → features."""

from cka_tools.extraction.activations import bare_forward
from cka_tools.extraction.batches import (
    BatchPlan,
    TokenBatch,
    iterate_batches,
    plan_corpus_order,
    plan_sorted,
)
from cka_tools.extraction.extract import Extraction, Prepared, extract_features, prepare
from cka_tools.extraction.features import ModelFeatures

__all__ = [
    "BatchPlan",
    "Extraction",
    "ModelFeatures",
    "Prepared",
    "TokenBatch",
    "bare_forward",
    "extract_features",
    "iterate_batches",
    "plan_corpus_order",
    "plan_sorted",
    "prepare",
]
