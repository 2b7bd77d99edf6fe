"""The activation store: pooled features of one model on one corpus, found again by content."""

from cka_tools.store.cached_extraction import extract_cached
from cka_tools.store.directory import cache_directory

__all__ = ["cache_directory", "extract_cached"]
