"""What a program that uses cka_tools may write under `mypy --strict`; it is checked, never run."""

from pathlib import Path
from typing import Any, assert_type

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

import cka_tools
from cka_tools import Comparison, Contrast, LinearCKA, ModelMatrix, Settings, Trajectory
from cka_tools.errors import UserError


def values(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    assert_type(cka_tools.cka(x, y), float)
    statistics = LinearCKA([4, 8], [4])
    statistics.update([x, y], [x])
    statistics.merge(LinearCKA([4, 8], [4]))
    return float(statistics.compute("debiased")[0, 0]) + cka_tools.cka(x, y, estimator="biased")


def runs(place: Path) -> list[Figure]:
    result = cka_tools.compare("A", "B", "sample", documents=100, control="C")
    assert_type(result, Comparison)
    result.save(place)
    loaded = Comparison.load(place)
    table = loaded.to_frame()
    print(table["divergence"].mean(), result.matrix("debiased").shape, loaded.summary["warnings"])
    trajectory = cka_tools.trajectory("A", ["B", "C"], "texts.jsonl", settings=Settings(documents=100))
    assert_type(trajectory, Trajectory)
    models = cka_tools.matrix(["A", "B", "C"])
    assert_type(models, ModelMatrix)
    groups = cka_tools.contrast({"detour": ["A", "B"], "baseline": ["C", "D"]})
    assert_type(groups, Contrast)
    return [result.figure(), trajectory.figure()]


def interventions() -> dict[str, Any]:
    half = cka_tools.graft("A", "B", [0, 1], ["mlp"])
    compared = cka_tools.compare(half, "B")
    shares = cka_tools.transplant("A", "B", parts=["attention"]).to_frame()
    read = cka_tools.probe(["A", "B"], "sections")
    health = cka_tools.health(["A"], documents=50)
    line = cka_tools.interpolate("A", "B", points=3)
    features = cka_tools.compute_features(["A"], documents=10)
    return {
        "compared": compared, "shares": shares, "probe": read, "health": health, "line": line, "ids": features[0].ids
    }  # fmt: skip


def refused() -> str:
    try:
        cka_tools.compare("A", "A")
    except UserError as error:
        return str(error)
    return ""
