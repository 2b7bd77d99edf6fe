import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_start import train_tokenizer
from transformers import PreTrainedTokenizerFast

from cka_tools.errors import UserError
from cka_tools.training.packing import pack_texts, pack_tokens

TEXTS = [f"the {word} of cell {i} is {word} [SEP] é" for i in range(40) for word in ("protein", "membrane")]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, vocabulary_size=300)


def test_documents_are_joined_by_separators_and_cut_to_length() -> None:
    packed = pack_tokens([[5, 6], [7], [8, 9, 10], [11]], length=4, separator=3, begin=2)
    assert packed.input_ids.tolist() == [[2, 5, 6, 3], [2, 7, 3, 2], [8, 9, 10, 3]]
    assert packed.document_ids.tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 3], [0, 1, 2, 0], [0, 1, 2, 3]]


@given(st.lists(st.lists(st.integers(5, 20), max_size=9), min_size=1, max_size=20), st.integers(2, 7))
def test_packing_keeps_the_stream_and_every_separator_ends_a_document(documents: list[list[int]], length: int) -> None:
    stream = [token for document in documents for token in [*document, 3]]
    if len(stream) < length:
        with pytest.raises(UserError, match="larger corpus"):
            pack_tokens(documents, length=length, separator=3)
        return
    packed = pack_tokens(documents, length=length, separator=3)
    assert packed.input_ids.ravel().tolist() == stream[: packed.tokens]
    ends = np.diff(packed.document_ids, axis=1) > 0
    assert np.array_equal(ends, packed.input_ids[:, :-1] == 3)
    assert np.array_equal(packed.position_ids[:, 1:] == 0, ends)


def test_the_order_depends_on_the_seed_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    first, again, other = (pack_texts(TEXTS, tokenizer, length=16, seed=seed) for seed in (1, 1, 2))
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_fewer_tokens_are_a_prefix_of_more(tokenizer: PreTrainedTokenizerFast) -> None:
    more = pack_texts(TEXTS, tokenizer, length=16, seed=1)
    fewer = pack_texts(TEXTS, tokenizer, length=16, seed=1, tokens=33)
    assert fewer.sequences == 3
    assert np.array_equal(fewer.input_ids, more.input_ids[:3])


def test_the_fingerprint_sees_ids_borders_and_shape() -> None:
    one = pack_tokens([[5, 3, 6]], length=4, separator=3)
    two = pack_tokens([[5], [6]], length=4, separator=3)
    assert np.array_equal(one.input_ids, two.input_ids)
    halves = pack_tokens([[5, 3, 6]], length=2, separator=3)
    assert len({one.fingerprint, two.fingerprint, halves.fingerprint}) == 3


def test_a_special_token_spelt_out_in_a_text_is_plain_text(tokenizer: PreTrainedTokenizerFast) -> None:
    packed = pack_texts(TEXTS, tokenizer, length=16, seed=1)
    separators = int((packed.input_ids == tokenizer.sep_token_id).sum())
    begins = int((packed.input_ids == tokenizer.cls_token_id).sum())
    assert 0 <= begins - separators <= 1


def test_too_small_a_corpus_is_refused_in_one_line(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match="100,000") as error:
        pack_texts(TEXTS, tokenizer, length=16, seed=1, tokens=100_000)
    assert "\n" not in str(error.value)


def test_the_tokenizer_frames_a_text_and_gives_it_back(tokenizer: PreTrainedTokenizerFast, tmp_path: object) -> None:
    tokenizer.save_pretrained(str(tmp_path))
    loaded = PreTrainedTokenizerFast.from_pretrained(str(tmp_path))
    ids = loaded("a naïve cell 細胞")["input_ids"]
    assert ids[0] == loaded.cls_token_id
    assert ids[-1] == loaded.sep_token_id
    assert loaded.decode(ids, skip_special_tokens=True) == "a naïve cell 細胞"
    assert loaded.unk_token_id not in ids
    assert loaded.convert_ids_to_tokens([0, 1, 2, 3, 4]) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert set(loaded("a cell")) == {"input_ids", "attention_mask"}
