"""Train the family's tokenizer, a byte-level BPE of 4,096 tokens, on both training corpora.

    python data/make_demo_tokenizer.py --out FOLDER

Every `LEFT_OUT_EVERY`-th document is left out, as when the bundled tokenizer was made. It has been the same
through all versions of the family, so that their losses compare; this is here to show how it was made.
"""

import argparse
from pathlib import Path

from training_texts import BIOMEDICAL, CORPORA, GENERAL, read_texts

from cka_tools.training.tokenizer import train_tokenizer

VOCABULARY = 4096
CONTEXT = 1024
LEFT_OUT_EVERY = 50


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpora", type=Path, default=CORPORA)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    texts = [
        text
        for corpus in (GENERAL, BIOMEDICAL)
        for i, text in enumerate(read_texts(corpus, options.corpora))
        if i % LEFT_OUT_EVERY
    ]
    train_tokenizer(texts, vocabulary_size=VOCABULARY, model_max_length=CONTEXT).save_pretrained(options.out)


if __name__ == "__main__":
    main()
