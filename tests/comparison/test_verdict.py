"""Warnings that only the models tell, and the verdict's rules."""

import warnings

import pytest

from cka_tools import compare
from cka_tools.comparison.verdict import verdict
from cka_tools.errors import EarlyWarning
from cka_tools.formatting import three_digits

OPTIONS = {"max_length": 64, "permutations": 0}


def codes(result):
    return {warning["code"] for warning in result.warnings}


def test_the_same_weights_are_named(tiny_model, fresh_tokenizer, texts, tmp_path):
    a = tiny_model("bert", seed=0)
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in a.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    found = compare(str(a), str(copy), texts, **OPTIONS)
    assert "same-weights" in codes(found)
    assert found.summary["verdict"].startswith("A and B do the same in every layer, up to rounding")
    assert "same-weights" not in codes(compare(str(a), str(tiny_model("bert", seed=1)), texts, **OPTIONS))


def test_different_tokenizers_are_named(fresh_model, fresh_tokenizer, texts):
    models = [fresh_model("bert", seed=seed) for seed in (0, 1)]
    first, other = fresh_tokenizer(), fresh_tokenizer(specials=False)
    assert "different-tokenizers" in codes(compare((models[0], first), (models[1], other), texts, **OPTIONS))
    assert "different-tokenizers" not in codes(compare((models[0], first), (models[1], first), texts, **OPTIONS))


def test_few_directions_are_named(tiny_model, fresh_model, fresh_tokenizer, texts):
    """Embeddings along one direction: the spread of a layer is nearly of one dimension."""
    import torch

    flat = fresh_model("gpt2", seed=0, layers=1)
    with torch.no_grad():
        direction = torch.randn(flat.wte.weight.shape[1])
        flat.wte.weight += 40 * torch.randn(flat.wte.weight.shape[0], 1) * direction
    tokenizer = fresh_tokenizer(specials=False)
    found = compare((flat, tokenizer), (fresh_model("gpt2", seed=1, layers=1), tokenizer), texts, **OPTIONS)
    (warning,) = [one for one in found.warnings if one["code"] == "low-dimension"]
    assert found.layers[0]["effective_dim_a"] < 3
    assert found.layers[0]["effective_dim_b"] > 3
    assert "Model A has an effective dimension below 3 in layer 0" in warning["text"]


def test_float16_on_a_cpu_is_said_before_anything_runs(tiny_model, texts):
    a, b = (str(tiny_model("bert", seed=seed)) for seed in (0, 1))
    with pytest.warns(EarlyWarning, match="float16 on a CPU"):
        found = compare(a, b, texts, dtype="float16", device="cpu", layers=(0,), **OPTIONS)
    assert "float16-on-cpu" in codes(found)
    with warnings.catch_warnings():
        warnings.simplefilter("error", EarlyWarning)
        compare(a, b, texts, device="cpu", layers=(0,), **OPTIONS)


def test_the_terminal_says_it_in_one_line_and_shows_tokens(tiny_model, cka, tmp_path):
    a, b = (tiny_model("bert", seed=seed) for seed in (0, 1))
    corpus = tmp_path / "texts.jsonl"
    corpus.write_text("".join(f'{{"text": "{" ".join([f"w{at}"] * (at + 5))}"}}\n' for at in range(40)))
    options = ("--dtype", "float16", "--device", "cpu", "--max-length", 20, "--layers", 0, "--permutations", 0)
    code, out, err = cka("compare", a, b, "--corpus", corpus, *options)
    assert code == 0
    assert [line for line in err.splitlines() if "float16" in line] == [
        "cka: warning: float16 on a CPU is slow and rounds more than on a GPU: use --dtype bfloat16 or float32 there."
    ]
    lengths = [min(at + 7, 20) for at in range(40)]
    cut = 100 * sum(at + 7 > 20 for at in range(40)) / 40
    assert (
        f"{sum(lengths) / 40:.0f} tokens a document, {three_digits(cut)} % of documents cut (every model)"
        in " ".join(out.split())
    )
    assert "verdict A and B" in out


def entry(value, low, high, **more):
    return {"value": value, "ci_low": low, "ci_high": high, **more}


def record(mean, layers=(), ratio=None, codes=()):
    summary = {"mean_divergence": {"debiased": mean}, "warnings": [{"code": code} for code in codes]}
    if ratio is not None:
        summary["ratio"] = {"mean": ratio}
    return {"summary": summary, "layers": [{"layer_a": at, "divergence": one} for at, one in enumerate(layers)]}


CLEAR, OPEN = entry(0.08, 0.05, 0.11), entry(0.01, -0.01, 0.03)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (record(entry(None, None, None, reason="no layer")), "Nothing can be said: no layer."),
        (record(entry(1e-13, -1e-12, 1e-12)), "do the same in every layer, up to rounding."),
        (record(entry(0.08, None, None)), "differ by 8.00 % on average; how sure that is cannot be said."),
        (record(OPEN), "No difference between A and B is shown: the interval of the mean divergence holds 0."),
        (record(CLEAR, [CLEAR, CLEAR]), "clearly in every layer; whether another seed"),
        (record(CLEAR, [OPEN, CLEAR, CLEAR]), "clearly in 2 of 3 layers (1–2); whether another seed"),
        (record(CLEAR, [CLEAR], entry(3.1, 2.5, 3.8)), "3.10 times what another seed makes and clearly more"),
        (record(CLEAR, [CLEAR], entry(0.5, 0.3, 0.8)), "clearly less than what another seed makes."),
        (record(CLEAR, [CLEAR], entry(1.1, 0.9, 1.3)), "not clearly more or less than what another seed makes."),
        (record(CLEAR, [CLEAR], entry(None, None, None)), "how that compares with another seed is not known."),
        (record(CLEAR, [CLEAR], codes=["low-dimension"] * 2), "can say, but few directions of variance decide it."),
    ],
)
def test_a_verdict_follows_from_the_intervals(given, words):
    assert words in verdict(given)


def test_every_column_is_explained(tiny_model, texts, tmp_path, cka):
    a, b, c = (str(tiny_model("bert", seed=seed)) for seed in range(3))
    everything = {"rescale": True, "control": c, "measures": ("cka", "procrustes", "mknn", "rsa", "svcca")}
    run = compare(a, b, texts, layers=(0, 1), **everything, **OPTIONS).save(tmp_path / "run")
    code, out, _ = cka("show", run, "--explain")
    assert code == 0
    for head in ("layer", "rescaled %", "seed noise %", "interval of ratio", "best in B", "svcca"):
        assert f"\n{head} " in out
