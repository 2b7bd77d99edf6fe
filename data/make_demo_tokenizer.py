"""Train the family's tokenizer, a byte-level BPE of 4,096 tokens, on both training corpora.

    python data/make_demo_tokenizer.py --out FOLDER

Every `LEFT_OUT_EVERY`-th document is left out, as when the bundled tokenizer was made. It has been the same
through all versions of the family, so that their losses compare; this is here to show how it was made.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from training_texts import BIOMEDICAL, CORPORA, GENERAL, read_texts
from transformers import PreTrainedTokenizerFast

VOCABULARY = 4096
CONTEXT = 1024
LEFT_OUT_EVERY = 50
PAD, UNK, CLS, SEP, MASK = SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def train_tokenizer(texts: Iterable[str], *, vocabulary_size: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE whose first five ids are the special tokens; a text becomes [CLS] … [SEP].

    Byte-level: every string can be written, so [UNK] never occurs. Texts are put into Unicode form NFC first.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=UNK))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary_size,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    ends = [(token, tokenizer.token_to_id(token)) for token in (CLS, SEP)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}", pair=f"{CLS} $A {SEP} $B {SEP}", special_tokens=ends
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNK,
        cls_token=CLS,
        sep_token=SEP,
        mask_token=MASK,
        model_max_length=CONTEXT,
        model_input_names=["input_ids", "attention_mask"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, default=CORPORA)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    texts = [
        text
        for corpus in (GENERAL, BIOMEDICAL)
        for i, text in enumerate(read_texts(corpus, options.corpora))
        if i % LEFT_OUT_EVERY
    ]
    train_tokenizer(texts).save_pretrained(options.out)


if __name__ == "__main__":
    main()
