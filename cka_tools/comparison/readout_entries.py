"""What a language-model readout says of a model, as records hold it."""

from __future__ import annotations

import math

from cka_tools.comparison.record import JsonObject, interval_entry
from cka_tools.readouts.of_models import ModelReadings
from cka_tools.statistics.intervals import Interval


def readout_entries(readout: str, one: ModelReadings) -> JsonObject:
    """Every quantity of a model with its interval, and the perplexity, which is exp(loss)."""
    found = {f"{readout}.{name}": interval_entry(reading.interval()) for name, reading in one.readings.items()}
    if "loss" in one.readings:
        loss = one.readings["loss"].interval()
        value, low, high = (None if v is None else math.exp(v) for v in (loss.value, loss.ci_low, loss.ci_high))
        found[f"{readout}.perplexity"] = interval_entry(Interval(value, low, high, loss.reason))
    return found
