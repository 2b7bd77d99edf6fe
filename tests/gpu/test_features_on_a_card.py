"""Features on a card: those of the CPU, through memory that runs out, without waits in between."""

import json
import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, BitsAndBytesConfig

import cka_tools
from cka_tools import compare
from cka_tools.compute import FeatureRun, open_run
from cka_tools.models.attention import FLASH
from cka_tools.settings import Settings
from cka_tools.store.directory import VARIABLE

pytestmark = pytest.mark.gpu
CUDA_ONLY = pytest.mark.cuda_only

#: Largest difference of a feature from the CPU's in float32, in spreads of that feature.
BOUNDS = {"float32": 1e-3, "float16": 5e-2, "bfloat16": 0.3}
#: And of debiased CKA.
CKA_BOUNDS = {"float32": 1e-6, "float16": 1e-3, "bfloat16": 1e-2}


def opened(models: Any, texts: list[str], device: torch.device, dtype: str = "float32", **options: Any) -> FeatureRun:
    given = {"max_length": 64, "batch_tokens": 256, "cache": False, "dtype": dtype, "device": str(device)}
    return open_run(models, texts, Settings.of(given | options))


def layers(run: FeatureRun) -> list[np.ndarray]:
    (found,) = run.features([None])[0]
    return list(found.layers.values())


@pytest.mark.parametrize("pooling", ["mean", "cls", "token"])
@pytest.mark.parametrize("dtype", BOUNDS)
def test_features_are_those_of_the_cpu(
    dtype: str, pooling: str, tiny_model: Callable[..., Path], texts: list[str], device: torch.device
) -> None:
    model = tiny_model("modernbert")
    expected = layers(opened([model], texts, torch.device("cpu"), pooling=pooling))
    found = layers(opened([model], texts, device, dtype, pooling=pooling))
    for x, y in zip(found, expected, strict=True):
        spread = y.reshape(-1, y.shape[-1]).std(0)
        assert np.abs((x - y) / spread).max() < BOUNDS[dtype]


@pytest.mark.parametrize("dtype", BOUNDS)
def test_packed_features_are_those_of_the_cpu(
    dtype: str, tiny_model: Callable[..., Path], texts: list[str], device: torch.device
) -> None:
    """In formats of 16 bits by varlen attention on a card."""
    model = tiny_model("modernbert")
    expected = layers(opened([model], texts, torch.device("cpu")))
    run = opened([model], texts, device, dtype, batching="packed")
    (found,) = run.features([None])[0]
    assert found.extraction.plan.kind == "packed"
    for x, y in zip(found.layers.values(), expected, strict=True):
        assert np.abs((x - y) / y.std(0)).max() < BOUNDS[dtype]


@pytest.mark.parametrize("dtype", BOUNDS)
def test_cka_is_that_of_the_cpu(
    dtype: str, tiny_model: Callable[..., Path], texts: list[str], device: torch.device
) -> None:
    pair = tiny_model("bert"), tiny_model("bert", seed=1)
    expected, found = (
        compare(*pair, texts, max_length=64, cache=False, device=str(place), dtype=kind)
        for place, kind in ((torch.device("cpu"), "float32"), (device, dtype))
    )
    for name in ("debiased", "biased"):
        difference = np.abs(found.arrays[f"matrix.{name}"] - expected.arrays[f"matrix.{name}"])
        assert difference.max() < CKA_BOUNDS[dtype], name


@pytest.mark.parametrize("options", [{"keep_features": 0, "rescale": True}, {"measures": ("cka", "mknn")}])
def test_streamed_sums_and_other_measures_are_those_of_the_cpu(
    options: dict[str, Any], tiny_model: Callable[..., Path], texts: list[str], device: torch.device
) -> None:
    pair = tiny_model("bert"), tiny_model("bert", seed=1)
    expected, found = (
        compare(*pair, texts, max_length=64, cache=False, device=str(place), **options)
        .to_frame()
        .select_dtypes("number")
        .to_numpy(float, na_value=np.nan)
        for place in ("cpu", device)
    )
    assert np.isfinite(expected).sum() > 50
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@CUDA_ONLY
def test_a_batch_that_does_not_fit_is_split(in_memory: Callable[..., Any], texts: list[str]) -> None:
    wide = in_memory(hidden_size=512, intermediate_size=8192, layers=2)
    expected = layers(opened([wide], texts, torch.device("cuda")))
    run = opened([wide], texts, torch.device("cuda"), batch_tokens=2**20)
    torch.cuda.empty_cache()
    held, total = torch.cuda.memory_reserved(), torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((held + 100 * 2**20) / total)
    try:
        (found,) = run.features([None])[0]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert found.extraction.splits, "one batch of 80 documents takes over 200 MiB: it should not have fitted"
    for x, y in zip(found.layers.values(), expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-3 * np.abs(y).max())


@CUDA_ONLY
@pytest.mark.parametrize("pooling", ["mean", "cls", "token"])
def test_our_code_waits_for_no_batch(pooling: str, in_memory: Callable[..., Any], texts: list[str]) -> None:
    """What transformers itself asks of the device while it makes masks is not ours."""
    run = opened([in_memory()], texts, torch.device("cuda"), pooling=pooling)
    assert len(run.prepared[0].plan.batches) > 8
    waits = []
    forward = cka_tools.extraction.extract._ModelRun.forward_batch

    def watched(self: Any, rows: Any) -> None:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                forward(self, rows)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        package = str(Path(cka_tools.__file__).parent)
        waits.extend(f"{one.filename}:{one.lineno}" for one in seen if one.filename.startswith(package))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cka_tools.extraction.extract._ModelRun, "forward_batch", watched)
        layers(run)
    assert waits == []


@CUDA_ONLY
def test_the_host_waits_for_a_batch_while_the_next_one_is_at_work(
    in_memory: Callable[..., Any], texts: list[str]
) -> None:
    run = opened([in_memory()], texts, torch.device("cuda"))
    layers(run)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        layers(run)
        torch.cuda.synchronize()
    names = [event.name for event in profile.events()]
    copies = [name for name in names if name.startswith("Memcpy DtoH")]
    # The checks at load and a hash of the weights read pageable memory; each batch's layers go to pinned.
    pinned = [name for name in copies if "Pinned" in name]
    batches, depth = len(run.prepared[0].plan.batches), len(run.outlines[0].blocks)
    assert len(pinned) >= batches * depth, sorted(set(copies))
    # Kernels launched from one wait to the next: the last batch is waited for right after the last but one.
    calls = sorted(
        (event.time_range.start, event.name == "cudaEventSynchronize")
        for event in profile.events()
        if "LaunchKernel" in event.name or event.name == "cudaEventSynchronize"
    )
    waits = [at for at, (_, is_wait) in enumerate(calls) if is_wait][-batches:]
    launched = [after - before - 1 for before, after in pairwise(waits)]
    assert len(launched) == batches - 1
    assert launched[-1] == 0
    assert min(launched[:-1]) > depth


@CUDA_ONLY
def test_flash_attention_gives_what_sdpa_gives(in_memory: Callable[..., Any], texts: list[str]) -> None:
    pytest.importorskip("flash_attn", reason="FlashAttention-2 is not installed")
    found = []
    for attention in ("sdpa", FLASH):
        model, tokenizer = in_memory(dtype=torch.bfloat16)
        model.set_attn_implementation(attention)
        found.append(layers(opened([(model, tokenizer)], texts, torch.device("cuda"), "bfloat16")))
    for x, y in zip(*found, strict=True):
        assert np.abs((x - y) / y.std(0)).max() < BOUNDS["bfloat16"]


@pytest.mark.parametrize("how", [{"load_in_8bit": True}, {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}])
def test_features_of_quantized_weights_are_those_of_the_package(
    how: dict[str, Any],
    fresh_model: Callable[..., Any],
    fresh_tokenizer: Callable[..., Any],
    texts: list[str],
    device: torch.device,
    tmp_path: Path,
) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    full, folder = tmp_path / "full", tmp_path / "quantized"
    fresh_model("bert", hidden_size=64, intermediate_size=64, num_hidden_layers=3).save_pretrained(full)
    place = {"": str(device)}
    quantized = AutoModel.from_pretrained(full, quantization_config=BitsAndBytesConfig(**how), device_map=place)
    quantized.save_pretrained(folder)
    words = fresh_tokenizer()
    words.save_pretrained(folder)
    run = opened([folder], texts[:8], device)
    found = layers(run)
    plain = AutoModel.from_pretrained(folder, device_map=place).eval()
    kept = [run.draws[0].documents[row].text for row in run.prepared[0].kept]
    assert sorted(kept) == sorted(texts[:8])
    for at, text in enumerate(kept):
        ids = torch.tensor([words(text)["input_ids"]], device=device)
        with torch.no_grad():
            states = plain(input_ids=ids, output_hidden_states=True).hidden_states
        np.testing.assert_allclose(found[1][at], states[2][0].float().mean(0).cpu(), atol=5e-3)


TWO = """
import json, os, sys
from cka_tools import compare
from cka_tools.processes import joined
given = json.loads(sys.argv[1])
with joined() as process:
    result = compare(*given["models"], given["texts"], **given["options"])
if process.first:
    print(json.dumps(result.arrays["matrix.debiased"].tolist()))
"""


def test_two_processes_share_a_card(
    tiny_model: Callable[..., Path], texts: list[str], device: torch.device, tmp_path: Path
) -> None:
    pair = [str(tiny_model("bert")), str(tiny_model("bert", seed=1))]
    options = {"max_length": 64, "batch_tokens": 256, "cache": False, "device": str(device)}
    alone = compare(*pair, texts, **options)
    given = json.dumps({"models": pair, "texts": texts, "options": options})
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(one.getsockname()[1]), "WORLD_SIZE": "2"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, given],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank), VARIABLE: str(tmp_path)},
        )
        for rank in (0, 1)
    ]
    told = [process.communicate(timeout=180)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    np.testing.assert_allclose(json.loads(told[0]), alone.arrays["matrix.debiased"], atol=1e-6)
