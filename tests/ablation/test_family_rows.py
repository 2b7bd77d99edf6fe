"""The recorded rows of the bundled family follow from the committed weights."""

from pathlib import Path

import pandas as pd
import pytest

from cka_tools.ablation.checkpoints import find_trios
from cka_tools.ablation.measure import compare_trios
from cka_tools.bundled import bundled_data
from cka_tools.models.folder import hash_weight_files
from cka_tools.settings import Settings

ROOT = Path(__file__).parents[2]
HELD_OUT = ROOT.parent / "shared" / "corpora" / "pubmed_heldout.jsonl.gz"
RECORDED = ROOT / "figures" / "results" / "family" / "ablation.csv"


def family():
    return find_trios("all", sorted((bundled_data() / "models").iterdir()))


def recorded():
    return pd.read_csv(RECORDED, dtype={"layer": str, "cell": str})


def test_the_family_lies_on_the_axes_by_the_names_that_the_table_has() -> None:
    trios, notes = family()
    cells = {(t.axis, t.cell, t.size, t.seed) for t in trios}
    assert cells >= {("length", "1", "8x128", 1), ("decay", "10 %", "8x128", 1), ("freeze", "none", "8x128", 1)}
    assert {trio.noise for trio in trios} == {"masks"}
    assert "theta0" in notes[0]


def test_recorded_weights_are_the_committed_ones() -> None:
    table = recorded()
    for trio in family()[0]:
        rows = table[(table["axis"] == trio.axis) & (table["cell"] == trio.cell) & (table["seed"] == trio.seed)]
        assert len(rows) == 10
        for role in ("detour", "baseline", "control"):
            weights = hash_weight_files([getattr(trio, role).folder / "model.safetensors"])
            assert set(rows[f"weights_{role}"]) == {weights}


@pytest.mark.skipif(not HELD_OUT.is_file(), reason=f"needs the held-out abstracts in {HELD_OUT.parent.name}")
def test_the_recorded_rows_are_made_again_from_the_committed_weights() -> None:
    trios = [trio for trio in family()[0] if trio.axis == "length"]
    made = compare_trios("length", trios, str(HELD_OUT), Settings()).to_frame()
    table = recorded()
    table = table[table["axis"] == "length"].reset_index(drop=True)
    for column in ("divergence", "divergence_low", "divergence_high", "control_divergence", "ratio", "ratio_low"):
        assert made[column].to_numpy(float) == pytest.approx(table[column].to_numpy(float), abs=1e-6)
