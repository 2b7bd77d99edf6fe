"""The activation store: pooled features of one model on one corpus, found again by content."""
