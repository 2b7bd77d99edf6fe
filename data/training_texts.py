"""The texts that the bundled models and their tokenizer were trained on: read, never kept."""

import gzip
import json
from pathlib import Path

from cka_tools.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "data" / "models"
CORPORA = ROOT.parent / "shared" / "corpora"
GENERAL, BIOMEDICAL, HELD_OUT = "general", "biomed_train", "pubmed_heldout"


def read_texts(name: str, corpora: Path = CORPORA) -> list[str]:
    """Return a corpus's texts, in order.

    Raises:
        UserError: it is not there.
    """
    path = corpora / f"{name}.jsonl.gz"
    if not path.is_file():
        raise UserError(f"no corpus at {str(path)!r}: name its folder with --corpora")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]
