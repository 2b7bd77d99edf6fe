"""What a task's labels can be read from, layer by layer, and whether a document's fact can."""

from cka_tools.probes.run_needle import needle
from cka_tools.probes.run_probe import probe

__all__ = ["needle", "probe"]
