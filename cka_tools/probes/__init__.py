"""What a task's labels can be read from, layer by layer."""

from cka_tools.probes.run_probe import probe

__all__ = ["probe"]
