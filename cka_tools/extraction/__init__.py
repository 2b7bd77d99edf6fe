"""Documents → tokens → batches → activations → features."""

from cka_tools.extraction.batches import BatchPlan, plan_corpus_order, plan_sorted
from cka_tools.extraction.extract import Extraction, Prepared, prepare

__all__ = ["BatchPlan", "Extraction", "Prepared", "plan_corpus_order", "plan_sorted", "prepare"]
