"""The detour, ablated: cells of an axis → a tree of training segments → comparisons → one tidy table."""
