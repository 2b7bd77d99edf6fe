"""What parts of a model do: transplants, interpolation, health of checkpoints."""

from cka_tools.interventions.run_health import health
from cka_tools.interventions.run_interpolate import interpolate
from cka_tools.interventions.run_transplant import transplant

__all__ = ["health", "interpolate", "transplant"]
