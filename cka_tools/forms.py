"""Forms of JSON data that may come from anywhere, and what of it is not of its form.

A form is a type, a set of values, a list of one form, a mapping of names (with "?" behind what may lack, or
"*" for any name) to forms, a tuple of alternatives, or None. What is there beyond the form is let be.
"""

from __future__ import annotations

import math
from typing import Any

from cka_tools.formatting import quoted

Form = Any
LARGEST = 1e18
"""Of a number: beyond it nothing here counts or measures."""

NUMBER, TEXT, WHOLE = (float, None), (str, None), (int, None)


def fault_in(value: Any, form: Form, at: str = "", whole: str = "the record") -> str | None:
    """What of some JSON data is not of a form, in words; None where all is.

    Args:
        at: where the value lies, as "pairs[0].layers". whole: what all of it is called.
    """
    if isinstance(form, tuple):
        faults = [fault_in(value, one, at, whole) for one in form]
        return None if None in faults else faults[0]
    if isinstance(form, dict):
        return _fault_in_object(value, form, at, whole)
    if isinstance(form, list):
        if not isinstance(value, list):
            return f"{at} is {quoted(value)}, not a list"
        return next((fault for i, one in enumerate(value) if (fault := fault_in(one, form[0], f"{at}[{i}]"))), None)
    if isinstance(form, set):
        fits, words = isinstance(value, str) and value in form, f"one of {', '.join(sorted(form))}"
    elif form is None:
        fits, words = value is None, "null"
    elif form in (int, float):
        number = isinstance(value, int | form) and not isinstance(value, bool)
        fits, words = number and abs(value) < LARGEST and math.isfinite(value), "a number of such a size"
    else:
        fits, words = (
            isinstance(value, form),
            {str: "text", bool: "true or false", dict: "an object"}.get(form, "a list"),
        )
    return None if fits else f"{at} is {quoted(value)}, not {words}"


def _fault_in_object(value: Any, form: dict[str, Form], at: str, whole: str) -> str | None:
    if not isinstance(value, dict):
        return f"{at or whole} is {quoted(value)}, not an object"
    if "*" in form:
        form = dict.fromkeys(value, form["*"])
    for key, inner in form.items():
        name = key.removesuffix("?")
        place = f"{at}.{name}" if at else name
        if name not in value:
            if key == name:
                return f"there is no {place}"
        elif fault := fault_in(value[name], inner, place):
            return fault
    return None
