import dataclasses
import errno
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_start import DECAY, DETOUR, LENGTH, PER_STEP, SETTINGS, STEP, write_start
from transformers import AutoModelForMaskedLM, AutoTokenizer, ModernBertModel

from cka_tools.errors import UserError
from cka_tools.training import checkpoint, segment
from cka_tools.training.attention import ANYWHERE
from cka_tools.training.loop import sequences_of
from cka_tools.training.packing import PackedTokens
from cka_tools.training.recipe import Masking, OptimizerSettings, Phase
from cka_tools.training.segment import train_phase

Start = tuple[Path, PackedTokens]
SEEDS: dict[str, int] = {"seed": 1, "data_seed": 1}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    folder = tmp_path_factory.mktemp("start") / "theta0"
    return folder, write_start(folder)


@pytest.fixture(scope="module")
def detour(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("detour") / "detour"
    return train_phase(
        start[0], DETOUR, start[1], seed=1, data_seed=1, first_sequence=0, out=out, optimizer=SETTINGS, bf16=False
    )


def decayed(
    detour: Path, data: PackedTokens, out: Path, phase: Phase = DECAY, **changed: object
) -> dict[str, torch.Tensor]:
    options: dict = {
        "seed": 1,
        "data_seed": 1,
        "first_sequence": 60,
        "optimizer": SETTINGS,
        "bf16": False,
        "phase_index": 1,
    }
    train_phase(detour, phase, data, out=out, **options | changed)
    return load_file(out / "model.safetensors")


def moved(folder: Path, other: dict[str, torch.Tensor]) -> set[str]:
    before = load_file(folder / "model.safetensors")
    assert before.keys() == other.keys()
    return {name for name in before if not torch.equal(before[name], other[name])}


def test_a_checkpoint_is_an_ordinary_directory_with_its_manifest(start: Start, detour: Path) -> None:
    assert AutoModelForMaskedLM.from_pretrained(detour).dtype == torch.float32
    assert (detour / "tokenizer.json").read_bytes() == (start[0] / "tokenizer.json").read_bytes()
    assert AutoTokenizer.from_pretrained(detour).mask_token_id == 4
    manifest = json.loads((detour / "training.json").read_text())
    assert (manifest["tokens"], manifest["next_sequence"], manifest["step"]) == (12 * STEP, 60, 12)
    assert manifest["data_sha256"] == start[1].fingerprint
    assert manifest["fresh_optimizer"]
    assert {"torch", "accelerate", "transformers"} <= manifest["versions"].keys()
    assert not [path for path in detour.iterdir() if path.suffix in (".bin", ".pt", ".pkl")]


def test_what_is_finished_is_returned_at_once(start: Start, detour: Path, tmp_path: Path) -> None:
    steps: list[int] = []
    for _ in range(2):
        decayed(detour, start[1], tmp_path / "decay", report=lambda done: steps.append(done.step))
    assert steps == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 2},
        {"first_sequence": 65},
        {"phase_index": 0},
        {"bf16": True},
        {"optimizer": dataclasses.replace(SETTINGS, peak_lr=1e-3)},
        {"phase": dataclasses.replace(DECAY, masking=Masking(0.3))},
        {"phase": dataclasses.replace(DECAY, frozen=(0,))},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_another_run_in_the_output_directory_is_refused(
    start: Start, detour: Path, tmp_path: Path, changed: dict[str, object]
) -> None:
    decayed(detour, start[1], tmp_path / "decay")
    with pytest.raises(UserError, match="holds another run"):
        decayed(detour, start[1], tmp_path / "decay", **changed)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="parent_weights"):
        decayed(start[0], start[1], tmp_path / "decay")


def test_an_output_directory_with_something_else_is_refused(start: Start, detour: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="something else"):
        decayed(detour, start[1], tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_data_beyond_what_a_phase_reads_do_not_make_it_another(start: Start, detour: Path, tmp_path: Path) -> None:
    data = start[1]
    decayed(detour, data, tmp_path / "decay")
    decayed(detour, data.part(range(90)), tmp_path / "decay")
    with pytest.raises(UserError, match="needs 1,440 tokens"):
        decayed(detour, data.part(range(80)), tmp_path / "other")


def test_the_pieces_of_a_phase_equal_the_phase_in_one_piece(start: Start, detour: Path, tmp_path: Path) -> None:
    theta0, data = start
    first = dataclasses.replace(DETOUR, tokens=7 * STEP)
    second = dataclasses.replace(DETOUR, tokens=5 * STEP, warmup_tokens=0)
    parent, at = theta0, 0
    for number, piece in enumerate((first, second)):
        out = tmp_path / str(number)
        options = {"seed": 1, "data_seed": 1, "first_sequence": at, "out": out, "optimizer": SETTINGS, "bf16": False}
        parent = train_phase(parent, piece, data, **options)  # type: ignore
        at = sequences_of(piece, data, SETTINGS, at).stop
    for file in ("model.safetensors", "optimizer.safetensors"):
        one, two = load_file(detour / file), load_file(parent / file)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_frozen_layers_stay_to_the_bit_though_their_moments_are_not_zero(
    start: Start, detour: Path, tmp_path: Path
) -> None:
    moments = load_file(detour / "optimizer.safetensors")
    assert all(bool((value != 0).any()) for name, value in moments.items() if name.startswith("model.layers.0"))
    after = decayed(detour, start[1], tmp_path / "decay", dataclasses.replace(DECAY, frozen=(0, 2)))
    frozen = {name for name in after if name.startswith(("model.layers.0.", "model.layers.2."))}
    assert len(frozen) > 8
    assert moved(detour, after) == after.keys() - frozen
    kept = load_file(tmp_path / "decay" / "optimizer.safetensors")
    assert all(torch.equal(kept[f"{name}/exp_avg"], moments[f"{name}/exp_avg"]) for name in frozen)


def test_zero_gradients_would_have_moved_them(start: Start, detour: Path, tmp_path: Path) -> None:
    """What freezing must not be: the kept moments and the decay move a weight whose gradient is zero."""
    model, _ = segment.load_start(detour)
    adam = segment.adamw(model, SETTINGS)
    assert segment.load_optimizer(detour, model, adam)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    adam.step()
    assert not torch.equal(
        model.model.layers[0].attn.Wo.weight.detach(),
        load_file(detour / "model.safetensors")["model.layers.0.attn.Wo.weight"],
    )


@pytest.mark.parametrize(
    ("modules", "kept"),
    [
        (("embeddings",), {"model.embeddings.tok_embeddings.weight", "model.embeddings.norm.weight"}),
        (("head",), {"head.dense.weight", "head.norm.weight", "decoder.bias"}),
    ],
)
def test_embeddings_and_head_are_frozen_where_they_are_named(
    start: Start, detour: Path, tmp_path: Path, modules: tuple, kept: set[str]
) -> None:
    after = decayed(detour, start[1], tmp_path / "d", dataclasses.replace(DECAY, frozen_modules=modules))
    assert moved(detour, after) == after.keys() - kept


def test_impossible_phases_are_refused_before_any_training(start: Start, detour: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for wrong, words in (
        (dataclasses.replace(DECAY, frozen=(1, 3)), "layer 3 does not exist.*0 to 2"),
        (dataclasses.replace(DECAY, tokens=STEP - 1), "shorter than one step"),
    ):
        with pytest.raises(UserError, match=words):
            decayed(detour, start[1], out, wrong)
    long = PackedTokens(
        start[1].input_ids[:160].reshape(-1, 128), start[1].document_ids[:160].reshape(-1, 128), 3, (0, 1, 2, 3, 4)
    )
    with pytest.raises(UserError, match="64 positions"):
        decayed(detour, long, out, first_sequence=0, optimizer=dataclasses.replace(SETTINGS, sequences_per_step=1))
    with pytest.raises(UserError, match="'flash'"):
        decayed(detour, start[1], out, attention="flash")
    assert not out.exists()


def test_a_start_model_without_a_head_is_refused(start: Start, tmp_path: Path) -> None:
    theta0, data = start
    bare = tmp_path / "bare"
    ModernBertModel.from_pretrained(theta0).save_pretrained(bare)
    (bare / "tokenizer.json").write_bytes((theta0 / "tokenizer.json").read_bytes())
    with pytest.raises(UserError, match=r"is a ModernBertModel.*LM head"):
        decayed(bare, data, tmp_path / "out")
    config = json.loads((bare / "config.json").read_text()) | {"architectures": ["ModernBertForMaskedLM"]}
    (bare / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="lacks the weights of"):
        decayed(bare, data, tmp_path / "out")
    with pytest.raises(UserError, match="not a directory"):
        decayed(tmp_path / "nothing", data, tmp_path / "out")


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(start: Start, tmp_path: Path) -> None:
    theta0, data = start
    wild = OptimizerSettings(1e30, (0.9, 0.98), 1e-8, 0.0, PER_STEP)
    steep = Phase("steep", "clm", 8 * STEP, "warmup-constant")
    options: dict = {**SEEDS, "bf16": False, "checkpoint_tokens": STEP}
    with pytest.raises(UserError, match=r"of step \d \(steep\).*last good checkpoint is") as error:
        train_phase(theta0, steep, data, first_sequence=0, out=tmp_path / "out", optimizer=wild, **options)
    named = Path(str(error.value).split("'")[-2])
    assert all(torch.isfinite(value).all() for value in load_file(named / "model.safetensors").values())
    assert not (tmp_path / "out").exists()


def test_checkpoints_can_be_kept_without_their_training_state(start: Start, detour: Path, tmp_path: Path) -> None:
    decayed(detour, start[1], tmp_path / "d", checkpoint_tokens=2 * STEP, keep_checkpoints=True)
    kept = sorted((tmp_path / "d-checkpoints").iterdir())
    assert [place.name for place in kept] == ["tokens-000000000160", "tokens-000000000320"]
    for place in kept:
        assert AutoModelForMaskedLM.from_pretrained(place).num_parameters() > 0
        assert not (place / "optimizer.safetensors").exists()
    assert json.loads((kept[0] / "training.json").read_text())["tokens"] == 160


def test_resuming_with_other_threads_goes_on_and_says_that_bits_may_differ(
    start: Start, detour: Path, tmp_path: Path
) -> None:
    class Stop(Exception):  # noqa: N818
        pass

    def stop(done: object) -> None:
        if done.step == 4:  # type: ignore[attr-defined]
            raise Stop

    with pytest.raises(Stop):
        decayed(detour, start[1], tmp_path / "d", checkpoint_tokens=2 * STEP, report=stop)
    notes: list[str] = []
    torch.set_num_threads(2)
    decayed(detour, start[1], tmp_path / "d", checkpoint_tokens=2 * STEP, note=notes.append)
    assert len(notes) == 1
    assert "threads (1, now 2): not bit-identical" in notes[0]
    assert json.loads((tmp_path / "d" / "training.json").read_text())["notes"]


def test_a_disk_that_is_full_keeps_the_last_good_checkpoint(
    start: Start, detour: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = decayed(detour, start[1], tmp_path / "whole")
    saved, calls = checkpoint.save_file, iter(range(100))

    def full(tensors: dict[str, torch.Tensor], file: Path) -> None:
        if next(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        saved(tensors, file)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(UserError, match=r"tokens-000000000320' could not be written .*No space left"):
        decayed(detour, start[1], tmp_path / "d", checkpoint_tokens=2 * STEP)
    steps: list[int] = []
    after = decayed(
        detour, start[1], tmp_path / "d", checkpoint_tokens=2 * STEP, report=lambda done: steps.append(done.step)
    )
    assert steps == [3, 4, 5, 6]
    assert all(torch.equal(whole[name], after[name]) for name in whole)


def test_a_second_process_is_kept_out(start: Start, detour: Path, tmp_path: Path) -> None:
    def again(done: object) -> None:
        with pytest.raises(UserError, match="being trained by another"):
            decayed(detour, start[1], tmp_path / "d")

    decayed(detour, start[1], tmp_path / "d", report=again)


@pytest.mark.parametrize("attention", ANYWHERE)
def test_a_decoder_learns_by_clm_and_mlm(tmp_path: Path, attention: str) -> None:
    data = write_start(tmp_path / "theta0", decoder=True)
    losses: dict[str, list[float]] = {"clm": [], "mlm": []}
    parent, at = tmp_path / "theta0", 0
    for index, objective in enumerate(losses):
        masking = Masking(0.3) if objective == "mlm" else None
        phase = Phase(objective, objective, 20 * STEP, "warmup-constant", masking)  # type: ignore[arg-type]
        parent = train_phase(
            parent,
            phase,
            data,
            seed=1,
            data_seed=1,
            first_sequence=at,
            out=tmp_path / objective,
            optimizer=SETTINGS,
            bf16=False,
            phase_index=index,
            attention=attention,
            report=lambda done: losses[done.objective].append(done.loss),
        )
        at = sequences_of(phase, data, SETTINGS, at).stop
    assert data.length == LENGTH
    assert losses["clm"][0] > 5.5
    assert losses["clm"][-1] < 3.5
    assert losses["mlm"][-1] < losses["mlm"][0]
    assert json.loads((parent / "config.json").read_text())["architectures"] == ["ModernBertDecoderForCausalLM"]


def flip(file: Path) -> None:
    """Change the last byte."""
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def stopped(detour: Path, data: PackedTokens, out: Path) -> list[Path]:
    """Stop a phase of 6 steps after the fifth; return its checkpoints of steps 2 and 4."""

    def stop(done: object) -> None:
        if done.step == 5:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        # Both are kept, where a run keeps the newest alone.
        patch.setattr(segment, "_clear", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            decayed(detour, data, out, checkpoint_tokens=2 * STEP, report=stop)
    return sorted(out.with_name(f"{out.name}-checkpoints").iterdir())


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "trainer_state.json"])
@pytest.mark.parametrize("damaged", [1, 2])
def test_training_goes_on_from_the_last_sound_checkpoint_and_says_so(
    start: Start, detour: Path, tmp_path: Path, name: str, damaged: int
) -> None:
    whole = decayed(detour, start[1], tmp_path / "whole")
    places = stopped(detour, start[1], tmp_path / "d")
    assert len(places) == 2
    for place in places[2 - damaged :]:
        flip(place / name)
    notes: list[str] = []
    steps: list[int] = []
    after = decayed(detour, start[1], tmp_path / "d", note=notes.append, report=lambda done: steps.append(done.step))
    assert steps[0] == {1: 3, 2: 1}[damaged]
    assert len(notes) == damaged
    assert f"tokens-000000000320 is damaged ({name}" in notes[0]
    assert all(torch.equal(whole[key], after[key]) for key in whole)
    assert json.loads((tmp_path / "d" / "training.json").read_text())["notes"] == notes


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "trainer_state.json"])
def test_a_finished_phase_that_lacks_a_file_is_made_again(
    start: Start, detour: Path, tmp_path: Path, name: str
) -> None:
    whole = decayed(detour, start[1], tmp_path / "d")
    (tmp_path / "d" / name).unlink()
    notes: list[str] = []
    after = decayed(detour, start[1], tmp_path / "d", note=notes.append)
    assert len(notes) == 1
    assert name in notes[0]
    assert all(torch.equal(whole[key], after[key]) for key in whole)
    assert (tmp_path / "d-damaged" / "training.json").is_file()


def test_an_optimizer_state_may_be_gone_unless_another_phase_goes_on(
    start: Start, detour: Path, tmp_path: Path
) -> None:
    decayed(detour, start[1], tmp_path / "d")
    (tmp_path / "d" / "optimizer.safetensors").unlink()
    notes: list[str] = []
    decayed(detour, start[1], tmp_path / "d", note=notes.append)
    assert notes == []
    decayed(detour, start[1], tmp_path / "d", note=notes.append, goes_on=True)
    assert "optimizer.safetensors is missing" in notes[0]
    assert (tmp_path / "d" / "optimizer.safetensors").is_file()


def test_a_damaged_parent_is_refused(start: Start, detour: Path, tmp_path: Path) -> None:
    shutil.copytree(detour, tmp_path / "parent")
    flip(tmp_path / "parent" / "model.safetensors")
    with pytest.raises(UserError, match=r"start model .* is damaged"):
        decayed(tmp_path / "parent", start[1], tmp_path / "d")


def test_checkpoints_of_before_the_hashes_were_recorded_are_taken(start: Start, detour: Path, tmp_path: Path) -> None:
    whole = decayed(detour, start[1], tmp_path / "whole")
    for place in stopped(detour, start[1], tmp_path / "d"):
        manifest = json.loads((place / "training.json").read_text())
        kept = {k: v for k, v in manifest.items() if k not in ("optimizer_sha256", "state_sha256")}
        (place / "training.json").write_text(json.dumps(kept))
    steps: list[int] = []
    after = decayed(detour, start[1], tmp_path / "d", report=lambda done: steps.append(done.step))
    assert steps == [5, 6]
    assert all(torch.equal(whole[key], after[key]) for key in whole)
