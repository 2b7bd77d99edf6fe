"""Where the data that ships with the project lies: `data/` in a checkout, `cka_tools/data/` in a wheel."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def bundled_data() -> Path:
    """Return the folder of the bundled corpus and models.

    Raises:
        FileNotFoundError: the installation is incomplete.
    """
    for folder in (PACKAGE / "data", PACKAGE.parent / "data"):
        if (folder / "models").is_dir() or (folder / "sample.jsonl.gz").is_file():
            return folder
    raise FileNotFoundError(f"no bundled data in {PACKAGE / 'data'} or {PACKAGE.parent / 'data'}")
