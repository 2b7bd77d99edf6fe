"""Language-model readouts against a plain loop of transformers, one document at a time without padding."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from cka_tools.compute import open_run
from cka_tools.documents import Document
from cka_tools.errors import UserError
from cka_tools.models import LoadOptions, as_source, head_of
from cka_tools.models.parts import tensors_of
from cka_tools.readouts import find_readout
from cka_tools.readouts.language import Targets
from cka_tools.readouts.passes import Variant, drawn_inputs, read_variants, shared_prefixes
from cka_tools.settings import Settings

ENCODERS = ("modernbert", "bert", "roberta", "distilbert")
DECODERS = ("gpt2", "llama", "modernbert-decoder")
OPTIONS = LoadOptions("cpu", head=True)


def texts(documents: list[Document]) -> list[str]:
    return [one.text for one in documents]


def read(folder: Path, corpus: list[str], readout: str, **settings: Any) -> tuple[dict[str, np.ndarray], Targets, Any]:
    run = open_run([str(folder)], corpus, Settings(cache=False, device="cpu", **settings))
    loaded = run.sources[0].load(OPTIONS)
    found = find_readout(readout)
    inputs = found.inputs(loaded, drawn_inputs(run, 0, [loaded]), run.settings)
    assert isinstance(inputs, Targets)
    rows, _ = read_variants([Variant("m", loaded)], inputs, found, run.settings)
    return rows[0], inputs, found


@pytest.mark.parametrize("architecture", [*ENCODERS, *DECODERS])
def test_loss_and_accuracy_are_those_of_a_plain_loop(
    tiny_model: Callable[..., Path], tiny_documents: list[Document], architecture: str
) -> None:
    folder = tiny_model(architecture, head=True)
    masked = architecture in ENCODERS
    rows, inputs, readout = read(folder, texts(tiny_documents), "mlm" if masked else "clm")
    plain = (AutoModelForMaskedLM if masked else AutoModelForCausalLM).from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for at, document in enumerate(inputs.documents):
        ids = torch.tensor([tokenizer(document.text)["input_ids"]])
        targets = slice(inputs.offsets[at], inputs.offsets[at + 1])
        places, labels = inputs.positions[targets], torch.from_numpy(inputs.labels[targets])
        read_ids = ids.clone()
        if masked:
            assert torch.equal(ids[0, places], labels)
            read_ids[0, places] = tokenizer.mask_token_id
        else:
            assert torch.equal(ids[0, places + 1], labels)
        with torch.no_grad():
            logits = plain(input_ids=read_ids).logits[0, places]
        loss = torch.nn.functional.cross_entropy(logits, labels).item()
        hits = (logits.argmax(-1) == labels).double().mean().item()
        assert rows["loss"][at] == pytest.approx(loss, abs=1e-5)
        assert rows["accuracy"][at] == pytest.approx(hits, abs=1e-12)
    reading = readout.readings(rows, inputs)["loss"]
    assert reading.value == pytest.approx(rows["loss"].mean(), abs=1e-12)


def test_masks_are_15_percent_of_ordinary_tokens_and_never_special_ones(
    tiny_model: Callable[..., Path], tiny_documents: list[Document]
) -> None:
    corpus = [*texts(tiny_documents), "[SEP] [MASK] w3 [CLS]", "w7"]
    _, inputs, _ = read(tiny_model("bert", head=True), corpus, "mlm")
    specials = {0, 1, 2, 4}
    for at, document in enumerate(inputs.documents):
        ordinary = [word for word in document.text.split() if word.startswith("w")][: 64 - 2]
        labels = inputs.labels[inputs.offsets[at] : inputs.offsets[at + 1]]
        assert len(labels) == max(1, round(0.15 * len(ordinary)))
        assert not specials & set(labels.tolist())
        places = inputs.positions[inputs.offsets[at] : inputs.offsets[at + 1]]
        assert (inputs.table.row(at)[places] == 4).all()
        assert len(set(places.tolist())) == len(places)


def test_masks_depend_on_document_and_seed_alone(
    tiny_model: Callable[..., Path], tiny_documents: list[Document]
) -> None:
    """Not on the model, the batches, or what else is in the corpus."""
    corpus = texts(tiny_documents)
    by_id = {}
    for model, settings, some in (
        (("bert", 0), {}, corpus),
        (("modernbert", 1), {"batch_tokens": 64}, corpus),
        (("bert", 0), {"plan": "corpus-order", "batch_size": 3}, corpus[::-1][:20]),
        (("bert", 0), {"seed": 7}, corpus),
    ):
        folder = tiny_model(model[0], seed=model[1], head=True)
        _, inputs, _ = read(folder, some, "mlm", **settings)
        by_id[str(settings)] = {
            one.text: tuple(inputs.positions[inputs.offsets[at] : inputs.offsets[at + 1]])
            for at, one in enumerate(inputs.documents)
        }
    first, second, some_found, other = by_id.values()
    assert first == second
    assert some_found.items() <= first.items()
    assert len(some_found) == 20
    assert any(other[text] != first[text] for text in first)


def test_values_do_not_depend_on_batches(tiny_model: Callable[..., Path], tiny_documents: list[Document]) -> None:
    folder, corpus = tiny_model("modernbert", head=True), texts(tiny_documents)
    whole, alone = (read(folder, corpus, "mlm", batch_tokens=size)[0]["loss"] for size in (4096, 1))
    np.testing.assert_allclose(whole, alone, atol=1e-5)


def test_documents_of_one_token_have_no_next_one(tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model("gpt2", head=True)
    rows, inputs, readout = read(folder, ["w1", "w2 w3", "w4 w5 w6", "w7 w8"], "clm")
    assert readout.readings(rows, inputs)["loss"].n == 3
    assert inputs.notes == ("1 document of a single token have no next one and were left out.",)
    with pytest.raises(UserError, match="none of the 4 documents has a second token"):
        read(folder, ["w1", "w2", "w3", "w4"], "clm")


def test_a_model_without_a_head_or_a_mask_token_is_refused(
    tiny_model: Callable[..., Path], fresh_model: Callable[..., Any], fresh_tokenizer: Callable[..., Any]
) -> None:
    source = as_source(str(tiny_model("bert")))
    with pytest.raises(UserError, match=r"\(BertModel\) has no masked-LM or causal-LM head: give .* BertForMaskedLM"):
        head_of(source, OPTIONS)
    pair = fresh_model("bert", head=True), fresh_tokenizer(mask_token=None)
    run = open_run([pair], ["w1 w2", "w3", "w4 w5", "w6"], Settings(cache=False, device="cpu"))
    loaded = run.sources[0].load(OPTIONS)
    with pytest.raises(UserError, match="has no mask token"):
        find_readout("mlm").inputs(loaded, drawn_inputs(run, 0, [loaded]), run.settings)


def test_a_head_whose_weights_are_missing_is_refused(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for file in tiny_model("bert", head=True).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    kept = {k: v for k, v in load_file(tmp_path / "model.safetensors").items() if "transform" not in k}
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"lacks the weights of a masked-LM head .*saved as BertForMaskedLM"):
        as_source(str(tmp_path)).load(OPTIONS)


@pytest.mark.parametrize("architecture", [*ENCODERS, *DECODERS])
def test_a_variant_that_starts_in_the_middle_gives_the_bits_of_a_whole_pass(
    tiny_model: Callable[..., Path], tiny_documents: list[Document], architecture: str
) -> None:
    """Blocks 3 and 4 of another model: blocks 0 to 2 are not run again, in either readout."""
    folders = [str(tiny_model(architecture, seed=seed, head=True)) for seed in (0, 1)]
    run = open_run(folders, texts(tiny_documents), Settings(cache=False, device="cpu", batch_tokens=256))
    base, donor = (source.load(OPTIONS) for source in run.sources)
    place = base.blocks[0].path.rpartition(".")[0]
    theirs = {n: t for n, t in tensors_of(donor).items() if any(f"{place}.{at}." in n for at in (3, 4))}
    own, mixed = (0, 0, 0, 0, 0, 0, 0), (0, 0, 0, 0, 1, 1, 0)
    for name in ("mlm" if architecture in ENCODERS else "clm", "divergence"):
        readout = find_readout(name)
        inputs = readout.inputs(base, drawn_inputs(run, 0, [base, donor]), run.settings)

        (shared, cost), (whole, full) = (
            read_variants(
                [Variant("base", base, {}, first), Variant("mixed", base, theirs, second)],
                inputs,
                readout,
                run.settings,
            )
            for first, second in ((own, mixed), ((), ()))
        )
        assert cost.blocks == (6 + 3) * 40
        assert full.blocks == full.naive == cost.naive == 2 * 6 * 40
        for one, other in zip(shared, whole, strict=True):
            assert one.keys() == other.keys()
            for key in one:
                np.testing.assert_array_equal(one[key], other[key])
        assert any(not np.array_equal(whole[0][key], whole[1][key]) for key in whole[0])


def test_prefixes_are_those_of_the_first_variant_that_ran_them() -> None:
    units = [("e", 0, 0, 0), ("e", 0, 0, 1), ("e", 0, 0, 1), ("e", 1, 0, 0), ("f", 0, 0, 0), ("e", 1, 0, 1)]
    assert shared_prefixes(units) == [(0, 0), (0, 2), (1, 3), (0, 0), (0, 0), (3, 2)]
    assert shared_prefixes([(), ()]) == [(0, 0), (0, 0)]


@pytest.mark.parametrize(
    ("name", "said"),
    [("mlmm", "did you mean 'mlm'"), ("nothing", "choose among mlm, clm"), ("mlm:x", "write it like mlm")],
)
def test_unknown_readouts_are_refused(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        find_readout(name)
