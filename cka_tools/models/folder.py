"""A model's files: what a user writes for it, its directory checked, hashed, or fetched from the hub."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from cka_tools.bundled import bundled_data
from cka_tools.errors import UserError, failing_as

_HUB = re.compile(r"(?P<repo>[A-Za-z0-9][\w.\-]*/[\w.\-]+)(?:@(?P<revision>[\w.\-/]+))?")
_GRAMMAR = "write demo:NAME, a directory, org/name or org/name@revision"


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


#: Seconds for the first answer of the hub. Past it the hub counts as unreachable.
HUB_TIMEOUT = 5.0

_SINGLE = "model.safetensors"
_SHARDS = "model-*-of-*.safetensors"
_TEXT_FILES = ("*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass
class Snapshot:
    """A model's files on this machine, the hub's commit they are of, and what the user should know."""

    folder: Path
    commit: str | None = None
    notes: list[str] = field(default_factory=list)


def fetch_snapshot(spec: ModelSpec, *, trust_remote_code: bool = False) -> Snapshot:
    """Find a directory, or download what a comparison needs of a repository (never pickles).

    Without a connection a copy that is already in the hub's cache is used, and a note says so.

    Raises:
        UserError: not found, gated, unreachable and not cached, or only pickled weights.
    """
    if spec.folder is not None:
        return Snapshot(spec.folder)
    assert spec.repo is not None
    # The variable is read here, not at import, so that one process can serve several endpoints.
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
    try:
        info = api.model_info(spec.repo, revision=spec.revision, timeout=HUB_TIMEOUT)
        names = [sibling.rfilename for sibling in info.siblings or []]
        wanted = files_wanted(spec.given, names, python=trust_remote_code)
        commit = str(info.sha)
        folder = api.snapshot_download(spec.repo, revision=commit, allow_patterns=wanted)
    except UserError:
        raise
    except (HfHubHTTPError, HFValidationError) as error:
        status = getattr(getattr(error, "response", None), "status_code", "?")
        unknown = "is neither a directory here nor on the hub (if it is private, log in with `hf auth login`)"
        problems = {
            GatedRepoError: "is gated: accept its terms on its page and log in with `hf auth login`",
            RevisionNotFoundError: f"has no revision {spec.revision!r} on the hub: check its name",
            RepositoryNotFoundError: f"{unknown}: check its name",
            HFValidationError: f"{unknown}: check its name",
        }
        problem = problems.get(type(error), f"cannot be fetched, the hub answers {status}: try again later")
        raise UserError(f"model {spec.given!r} {problem}") from None
    except Exception as error:
        # Which class means "no connection" depends on the hub client's version; the cache answers for all.
        return _cached(api, spec, error)
    return Snapshot(Path(folder), commit)


def _cached(api: HfApi, spec: ModelSpec, error: Exception) -> Snapshot:
    try:
        folder = Path(api.snapshot_download(str(spec.repo), revision=spec.revision, local_files_only=True))
    except Exception:
        choices = " or ".join(["a local directory", *(f"demo:{name}" for name in demo_models())])
        problem = f"the hub cannot be reached ({type(error).__name__}) and its cache has no copy"
        raise UserError(f"model {spec.given!r} is not a directory here, {problem}: offline, give {choices}") from None
    note = f"The hub could not be reached: {spec.given} is the cached copy of commit {folder.name}."
    return Snapshot(folder, folder.name, [note])


def files_wanted(given: str, names: list[str], *, python: bool) -> list[str]:
    """Of a repository's files, those a comparison needs: top level, no pickles, one set of weights.

    Raises:
        UserError: the weights are pickles only.
    """
    top = [name for name in names if "/" not in name]
    weights = _like(top, _SINGLE) or _like(top, _SHARDS) or _like(top, "*.safetensors")
    if not weights and _like(top, *_PICKLES):
        raise pickled_weights(given)
    return _like(top, *_TEXT_FILES) + weights + (_like(names, "*.py") if python else [])


def _like(names: list[str], *patterns: str) -> list[str]:
    return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]


def pickled_weights(given: str, found: str = "only pickled weights") -> UserError:
    """The error for a checkpoint without safetensors (loading a pickle can run any code)."""
    return UserError(
        f"model {given!r} has {found}; these are never loaded: convert them to safetensors "
        "(load it where you trust it, then model.save_pretrained(DIR))"
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


def check_folder(given: str, folder: Path) -> dict[str, Any]:
    """Return the parsed config.json of a directory that holds config, safetensors and a tokenizer.

    Raises:
        UserError: one of them is missing, the config is not JSON, or as `weight_files`.
    """
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"model {given!r} holds an adapter (adapter_config.json): merge it into its base "
            "(merge_and_unload, then save_pretrained) and give that directory"
        )
    if not (folder / "config.json").is_file():
        raise UserError(f"model {given!r} has no config.json: give the directory written by save_pretrained")
    config = _read_object(folder / "config.json", given)
    weight_files(folder, given)
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise UserError(
            f"model {given!r} has no tokenizer (tokenizer.json or a vocabulary): save it there with "
            "tokenizer.save_pretrained"
        )
    return config


_INDEX = ".safetensors.index.json"


def weight_files(folder: Path, given: str | None = None) -> list[Path]:
    """The files a checkpoint's weights are in, sorted by name: those that are loaded, hashed and recorded.

    As transformers chooses them: what `transformers_weights` in config.json names, else model.safetensors,
    else what model.safetensors.index.json names.

    Args:
        given: the model as the user named it, for errors; the folder by default.

    Raises:
        UserError: no weights, two sets of them, pickles, a file that is missing or lies elsewhere.
    """
    name = given or str(folder)
    config = _read_object(folder / "config.json", name) if (folder / "config.json").is_file() else {}
    source, index = config.get("transformers_weights"), f"model{_INDEX}"
    if source is None:
        present = [one for one in (_SINGLE, index) if (folder / one).is_file()]
        if not present:
            raise _no_weights(name, folder)
        source, *others = [*present, *sorted(file.name for file in folder.glob(_SHARDS))]
        if source == _SINGLE and others:
            sets = f"{_SINGLE} and {others[0]}"
            raise UserError(f"model {name!r} has two sets of weights, {sets}: remove the one not meant")
    files = [_weight_file(source, "config.json", folder, name)]
    if files[0].name.endswith(_INDEX):
        named = _read_object(files[0], name).get("weight_map")
        if not isinstance(named, dict) or not named:
            raise UserError(f"model {name!r}: {files[0].name} names no weights: write it again")
        shards = set(map(str, named.values()))
        files = sorted(_weight_file(shard, files[0].name, folder, name) for shard in shards)
    if wrong := [file.name for file in files if file.suffix != ".safetensors"]:
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
    if found := _like(files, "*.safetensors"):
        problem = f"neither {_SINGLE} nor model{_INDEX} beside {found[0]}: write it with save_pretrained"
        return UserError(f"model {given!r} has {problem}")
    if _like(files, *_PICKLES):
        return pickled_weights(given)
    problem = "no weights (*.safetensors): give the directory written by save_pretrained"
    return UserError(f"model {given!r} has {problem}")


def _read_object(file: Path, given: str) -> dict[str, Any]:
    with failing_as(f"model {given!r}: write {file.name} again, it cannot be read"):
        found = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise UserError(f"model {given!r}: {file.name} does not hold a JSON object: write it again")
    return found
