"""The recorded rows of the bundled family follow from the committed weights."""

from pathlib import Path

import pandas as pd

from cka_tools.ablation.checkpoints import find_trios
from cka_tools.bundled import bundled_data
from cka_tools.models.folder import hash_weight_files

ROOT = Path(__file__).parents[2]


def test_the_family_lies_on_the_axes_by_the_names_that_the_table_has() -> None:
    trios, notes = find_trios("all", sorted((bundled_data() / "models").iterdir()))
    cells = {(t.axis, t.cell, t.size, t.seed) for t in trios}
    assert cells >= {
        ("length", "1", "8x128", 1),
        ("decay", "10 %", "8x128", 1),
        ("decay", "100 %", "8x128", 1),
        ("freeze", "none", "8x128", 1),
    }
    assert all(trio.control is not None for trio in trios)
    assert "theta0" in notes[0]


def test_recorded_weights_are_the_committed_ones() -> None:
    table = pd.read_csv(ROOT / "figures" / "results" / "ablation.csv", dtype={"layer": str})
    trios, _ = find_trios("all", sorted((bundled_data() / "models").iterdir()))
    for trio in trios:
        if trio.axis == "direction":
            continue
        chosen = (table["axis"] == trio.axis) & (table["cell"] == trio.cell) & (table["seed"] == trio.seed)
        rows = table[chosen & (table["size"] == trio.size)]
        assert len(rows) == 10
        for role in ("detour", "baseline", "control"):
            weights = hash_weight_files([getattr(trio, role).folder / "model.safetensors"])
            assert set(rows[f"weights_{role}"]) == {weights}
