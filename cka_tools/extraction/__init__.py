"""Documents → tokens → batches → activations → features."""

from cka_tools.extraction.batches import BatchPlan, plan_corpus_order, plan_sorted
from cka_tools.extraction.extract import Extraction, Prepared, extract_features, prepare

__all__ = ["BatchPlan", "Extraction", "Prepared", "extract_features", "plan_corpus_order", "plan_sorted", "prepare"]
