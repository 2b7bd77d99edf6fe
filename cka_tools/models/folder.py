"""A model's files: what a user writes for it, and its directory, checked and hashed."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal

import torch

from cka_tools.bundled import bundled_data
from cka_tools.errors import UserError, failing_as
from cka_tools.formatting import quoted

_HUB = re.compile(r"(?P<repo>[A-Za-z0-9][\w.\-]*/[\w.\-]+)(?:@(?P<revision>[\w.\-/]+))?")
_GRAMMAR = "write demo:NAME, a directory, org/name, org/name@revision, or BASE+ADAPTER"


@dataclass(frozen=True)
class ModelSpec:
    """A parsed model spec: a folder for `demo` and `local`, a repository for `hub`."""

    given: str
    kind: Literal["demo", "local", "hub"]
    folder: Path | None = None
    repo: str | None = None
    revision: str | None = None


def demo_models() -> list[str]:
    """Names of the bundled models, sorted; empty where the installation carries none."""
    try:
        folder = bundled_data() / "models"
    except FileNotFoundError:
        return []
    return sorted(path.name for path in folder.glob("*") if (path / "config.json").is_file())


def parse_spec(given: str | PathLike[str]) -> ModelSpec:
    """Parse what a user wrote for a model.

    A directory that exists wins over a hub id of the same spelling.

    Raises:
        UserError: an unknown demo name, a directory that is not there, or no spec at all.
    """
    text = fspath(given)
    if text.startswith("demo:"):
        name, known = text.removeprefix("demo:"), demo_models()
        if name not in known:
            offered = ", ".join(f"demo:{one}" for one in known) or "none in this installation"
            raise UserError(f"unknown demo model {text!r}: the bundled models are {offered}")
        return ModelSpec(text, "demo", folder=bundled_data() / "models" / name)
    with failing_as(f"model {text!r} is not a path"):
        path = Path(text).expanduser()
        path.exists()  # a name may be too long to look for
    if path.is_dir():
        return ModelSpec(text, "local", folder=path)
    if path.is_file():
        raise UserError(f"model {text!r} is a file: give its directory, with config.json and the weights")
    if isinstance(given, str) and (match := _HUB.fullmatch(text)):
        return ModelSpec(text, "hub", repo=match["repo"], revision=match["revision"])
    if not isinstance(given, str) or "/" in text or text.startswith("."):
        raise UserError(f"model directory {text!r} does not exist: {_GRAMMAR}")
    raise UserError(f"model {text!r} is neither a directory nor a hub id with an organisation: {_GRAMMAR}")


def hash_file(path: Path) -> str:
    """sha256 of one file, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_weight_files(files: Iterable[Path]) -> str:
    """sha256 of a checkpoint: the file's own, or of `digest  name` lines where it is in shards."""
    hashes = [(path.name, hash_file(path)) for path in files]
    listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes))
    return hashes[0][1] if len(hashes) == 1 else hashlib.sha256(listing.encode()).hexdigest()


def hash_weights(folder: Path) -> str:
    """sha256 of a directory's weights, as `hash_weight_files`.

    Raises:
        UserError: as `weight_files`.
    """
    return hash_weight_files(weight_files(folder))


def hash_state_dict(state: Mapping[str, torch.Tensor]) -> str:
    """sha256 of a state dict: names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def hash_tokenizer(tokenizer: Any) -> str:
    """sha256 of what makes a tokenizer's ids: vocabulary, rules, special tokens; not its name or path."""
    content: dict[str, Any] = {
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "truncation_side": tokenizer.truncation_side,
        "split_special_tokens": getattr(tokenizer, "split_special_tokens", False),
    }
    if tokenizer.is_fast:
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        # Both are a call's settings, left over in the backend from the last call or from the file.
        content["backend"] = {k: v for k, v in backend.items() if k not in {"truncation", "padding"}}
    else:
        content["class"] = type(tokenizer).__name__
        content["vocabulary"] = tokenizer.get_vocab()
        left_out = {"name_or_path", "vocab_file", "tokenizer_file", "chat_template"}
        content["settings"] = {k: v for k, v in tokenizer.init_kwargs.items() if k not in left_out}
    return hash_json(content)


def hash_json(value: Any) -> str:
    """sha256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


SINGLE = "model.safetensors"
SHARDS = "model-*-of-*.safetensors"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
BIN, BIN_SHARDS = "pytorch_model.bin", "pytorch_model-*-of-*.bin"
ADAPTER = "adapter_config.json"


def like(names: list[str], *patterns: str) -> list[str]:
    """Those of some names that fit one of some patterns."""
    return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]


def pickled_weights(given: str, found: str = "only pickled weights") -> UserError:
    """The error for a checkpoint without safetensors (loading a pickle can run any code)."""
    return UserError(
        f"model {given!r} has {found}; these are not loaded: convert them to safetensors (load it where you trust "
        "it, then model.save_pretrained(DIR)), or read pytorch_model.bin as tensors alone with --allow-bin"
    )


_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)


def check_folder(given: str, folder: Path, *, allow_bin: bool = False) -> dict[str, Any]:
    """Return the parsed config.json of a directory that holds config, weights and a tokenizer.

    Args:
        allow_bin: weights may be in pytorch_model.bin.

    Raises:
        UserError: one of them is missing, the config is not JSON, weights are not whole, or as `weight_files`.
    """
    if (folder / ADAPTER).is_file():
        if has_model(folder):
            raise UserError(
                f"model {given!r} holds a model and an adapter ({ADAPTER}): move the adapter to a directory of its "
                "own, and give MODEL or MODEL+ADAPTER"
            )
        base = read_object(folder / ADAPTER, given).get("base_model_name_or_path") or "BASE"
        raise UserError(f"model {given!r} is an adapter ({ADAPTER}): give it with its base, as {base}+{given}")
    if not (folder / "config.json").is_file():
        raise UserError(f"model {given!r} has no config.json: {_inside(folder)}")
    config = read_object(folder / "config.json", given)
    classes = config.get("architectures") or []
    if not isinstance(classes, list) or not all(isinstance(one, str) for one in classes):
        raise UserError(
            f"model {given!r}: architectures in config.json is {quoted(classes)}, not a list of names of classes: "
            "correct it, or write it with save_pretrained"
        )
    for file in weight_files(folder, given, allow_bin=allow_bin):
        _check_whole(file, given)
    if not has_tokenizer(folder):
        raise UserError(
            f"model {given!r} has no tokenizer (tokenizer.json or a vocabulary): save it there with "
            "tokenizer.save_pretrained"
        )
    return config


def has_model(folder: Path) -> bool:
    """Whether a directory holds weights of a model, by the names that transformers gives them."""
    names = [file.name for file in folder.iterdir()]
    return bool(like(names, SINGLE, SHARDS, f"{SINGLE}.index.json", BIN, BIN_SHARDS))


def has_tokenizer(folder: Path) -> bool:
    """Whether a directory holds a file of a tokenizer."""
    return any((folder / name).is_file() for name in _TOKENIZER_FILES)


def _inside(folder: Path) -> str:
    """What to give instead of a directory that is not a model: the last one in it that is (of a Trainer's output,
    or of an old sentence-transformers model)."""
    models = [one.name for one in folder.iterdir() if (one / "config.json").is_file() and has_model(one)]
    if not models:
        return "give the directory written by save_pretrained"
    last = max(models, key=lambda name: [int(part) if part.isdigit() else -1 for part in re.split(r"(\d+)", name)])
    return f"give the model inside, {str(folder / last)!r}"


def _check_whole(file: Path, given: str) -> None:
    """Refuse a pointer of Git LFS, and safetensors of another size than their header says.

    A file starts with the length of its header, 8 bytes, little-endian; the header holds where each tensor ends.
    """
    problem = None
    with file.open("rb") as opened:
        start = opened.read(64)
        if start.startswith(b"version https://git-lfs"):
            raise UserError(
                f"model {given!r}: {file.name} is a pointer of Git LFS, not the weights: run `git lfs pull`"
            )
        if file.suffix != ".safetensors":
            return
        size, length = file.stat().st_size, int.from_bytes(start[:8], "little")
        opened.seek(8)
        header = opened.read(length) if 8 + length <= size else b""
        if not header:
            problem = f"ends within its header ({size} bytes)"
        else:
            with failing_as(f"model {given!r}: {file.name} cannot be loaded, copy it again"):
                parts = [one["data_offsets"][1] for name, one in json.loads(header).items() if name != "__metadata__"]
            whole = 8 + length + max(parts, default=0)
            problem = None if whole == size else f"has {size} bytes of {whole}"
    if problem is not None:
        raise UserError(f"model {given!r}: {file.name} cannot be loaded, it {problem}: copy it again")


_INDEX = ".index.json"


def weight_files(folder: Path, given: str | None = None, *, allow_bin: bool = False) -> list[Path]:
    """The files a checkpoint's weights are in, sorted by name: those that are loaded, hashed and recorded.

    As transformers chooses them: what `transformers_weights` in config.json names, else model.safetensors,
    else what model.safetensors.index.json names.

    Args:
        given: the model as the user named it, for errors; the folder by default.
        allow_bin: where none of these is there, pytorch_model.bin or what its index names.

    Raises:
        UserError: no weights, two sets of them, pickles, a file that is missing or lies elsewhere.
    """
    name = given or str(folder)
    config = read_object(folder / "config.json", name) if (folder / "config.json").is_file() else {}
    source, others = config.get("transformers_weights"), list[str]()
    for single, shards in ((SINGLE, SHARDS), (BIN, BIN_SHARDS))[: 1 + allow_bin]:
        if source is None and (present := [one for one in (single, single + _INDEX) if (folder / one).is_file()]):
            source, *others = [*present, *sorted(file.name for file in folder.glob(shards))]
            if source == single and others:
                sets = f"{single} and {others[0]}"
                raise UserError(f"model {name!r} has two sets of weights, {sets}: remove the one not meant")
    if source is None:
        raise _no_weights(name, folder)
    files = [_weight_file(source, "config.json", folder, name)]
    if files[0].name.endswith(_INDEX):
        named = read_object(files[0], name).get("weight_map")
        if not isinstance(named, dict) or not named:
            raise UserError(f"model {name!r}: {files[0].name} names no weights: write it again")
        parts = set(map(str, named.values()))
        files = sorted(_weight_file(part, files[0].name, folder, name) for part in parts)
    known = (".safetensors", ".bin")[: 1 + allow_bin]
    if wrong := [file.name for file in files if file.suffix not in known]:
        raise pickled_weights(name, f"weights in {wrong[0]}, which is not safetensors")
    return files


def _weight_file(source: object, named_by: str, folder: Path, given: str) -> Path:
    """A file of weights that config or index names: it must lie in the folder itself."""
    problem = None
    if not isinstance(source, str) or Path(source).name != source:
        problem = "is not a file of its directory: put the file there and correct the name"
    elif not (folder / source).is_file():
        problem = "is missing: copy it there"
    if problem is not None:
        raise UserError(f"model {given!r}: {named_by} names weights in {source!r}, which {problem}")
    return folder / str(source)


def _no_weights(given: str, folder: Path) -> UserError:
    files = sorted(file.name for file in folder.iterdir())
    if found := like(files, "*.safetensors"):
        problem = f"neither {SINGLE} nor {SINGLE}{_INDEX}, but {found[0]}: if these are its weights, rename the file"
        return UserError(f"model {given!r} has {problem} to {SINGLE}")
    if like(files, *PICKLES):
        return pickled_weights(given)
    problem = "no weights (*.safetensors): give the directory written by save_pretrained"
    return UserError(f"model {given!r} has {problem}")


def read_object(file: Path, given: str) -> dict[str, Any]:
    """The JSON object in a file of a model.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    with failing_as(f"model {given!r}: write {file.name} again, it cannot be read"):
        found = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise UserError(f"model {given!r}: {file.name} does not hold a JSON object: write it again")
    return found
