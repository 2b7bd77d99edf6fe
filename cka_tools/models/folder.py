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
from cka_tools.errors import UserError

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


def offline_choices() -> str:
    """What a user can still compare without the hub, as words for the end of an error message."""
    demos = ", ".join(f"demo:{name}" for name in demo_models())
    return f"offline, give a local directory or {demos}" if demos else "offline, give a local directory"


def parse_spec(given: str | PathLike[str]) -> ModelSpec:
    """Parse what a user wrote for a model.

    A directory that exists wins over a hub id of the same spelling.

    Raises:
        UserError: an unknown demo name, a directory that is not there, or no spec at all.
    """
    text = fspath(given)
    if text.startswith("demo:"):
        return _parse_demo(text)
    path = Path(text).expanduser()
    if path.is_dir():
        return ModelSpec(text, "local", folder=path)
    if path.is_file():
        raise UserError(
            f"model {text!r} is a file: give the directory that holds config.json and the weights"
        )
    if isinstance(given, str) and (match := _HUB.fullmatch(text)):
        return ModelSpec(text, "hub", repo=match["repo"], revision=match["revision"])
    if not isinstance(given, str) or "/" in text or text.startswith("."):
        raise UserError(f"model directory {text!r} does not exist: {_GRAMMAR}")
    raise UserError(
        f"model {text!r} is neither a directory nor a hub id (which has an organisation): {_GRAMMAR}"
    )


def _parse_demo(text: str) -> ModelSpec:
    name = text.removeprefix("demo:")
    names = demo_models()
    if name not in names:
        known = ", ".join(f"demo:{known}" for known in names) or "none in this installation"
        raise UserError(f"unknown demo model {text!r}: the bundled models are {known}")
    return ModelSpec(text, "demo", folder=bundled_data() / "models" / name)


def hash_file(path: Path) -> str:
    """sha256 of one file, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_weight_files(files: Iterable[Path]) -> str:
    """sha256 of a checkpoint: the file's own, or of `digest  name` lines where it is in shards."""
    hashes = [(path.name, hash_file(path)) for path in files]
    if len(hashes) == 1:
        return hashes[0][1]
    listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes))
    return hashlib.sha256(listing.encode()).hexdigest()


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

_TEXT_FILES = ("*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass
class Snapshot:
    """A hub repository's files on this machine, the commit they are of, and what the user should know."""

    folder: Path
    commit: str
    notes: list[str] = field(default_factory=list)


def fetch_snapshot(spec: ModelSpec, *, trust_remote_code: bool = False) -> Snapshot:
    """Download what a comparison needs of `spec.repo` (never pickles) and return where it lies.

    Without a connection a copy that is already in the hub's cache is used, and a note says so.

    Raises:
        UserError: not found, gated, unreachable and not cached, or only pickled weights.
    """
    assert spec.repo is not None
    # The variable is read here, not at import, so that one process can serve several endpoints.
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
    try:
        info = api.model_info(spec.repo, revision=spec.revision, timeout=HUB_TIMEOUT)
        names = [sibling.rfilename for sibling in info.siblings or []]
        wanted = files_wanted(spec.given, names, python=trust_remote_code)
        commit = str(info.sha)
        folder = api.snapshot_download(spec.repo, revision=commit, allow_patterns=wanted)
    except GatedRepoError:
        raise UserError(
            f"model {spec.given!r} is gated: accept its terms on its page and log in with `hf auth login`"
        ) from None
    except RevisionNotFoundError:
        raise UserError(
            f"model {spec.given!r}: the hub has no revision {spec.revision!r} of {spec.repo}"
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(
            f"model {spec.given!r} is neither a directory here nor on the hub (or it is private: log in with "
            "`hf auth login`): check its name"
        ) from None
    except UserError:
        raise
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "?")
        raise UserError(
            f"model {spec.given!r}: the hub answered with status {status}: try again later"
        ) from None
    except Exception as error:
        # Which class means "no connection" depends on the hub client's version; the cache answers for all.
        return _cached(api, spec, error)
    return Snapshot(Path(folder), commit)


def _cached(api: HfApi, spec: ModelSpec, error: Exception) -> Snapshot:
    try:
        folder = Path(api.snapshot_download(str(spec.repo), revision=spec.revision, local_files_only=True))
    except Exception:
        raise UserError(
            f"model {spec.given!r} is no directory here, the hub cannot be reached "
            f"({type(error).__name__}) and its "
            f"cache has no copy: {offline_choices()}"
        ) from None
    return Snapshot(
        folder,
        folder.name,
        [f"The hub could not be reached: {spec.given} is the cached copy of commit {folder.name}."],
    )


def files_wanted(given: str, names: list[str], *, python: bool) -> list[str]:
    """Of a repository's files, those a comparison needs: top level, no pickles, one set of weights.

    Raises:
        UserError: the weights are pickles only.
    """
    top = [name for name in names if "/" not in name]
    weights = [name for name in top if name == "model.safetensors"] or [
        name for name in top if fnmatch(name, "model-*-of-*.safetensors")
    ]
    weights = weights or [name for name in top if name.endswith(".safetensors")]
    if not weights and any(fnmatch(name, pattern) for name in top for pattern in _PICKLES):
        raise pickled_weights(given)
    kept = [name for name in top if any(fnmatch(name, pattern) for pattern in _TEXT_FILES)]
    return kept + weights + ([name for name in names if name.endswith(".py")] if python else [])


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


_SINGLE = "model.safetensors"
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
        single, shards = (folder / _SINGLE).is_file(), sorted(folder.glob("model-*-of-*.safetensors"))
        if single and (shards or (folder / index).is_file()):
            other = index if (folder / index).is_file() else shards[0].name
            raise UserError(
                f"model {name!r} has two sets of weights, {_SINGLE} and {other}: remove the one that is not "
                "meant"
            )
        if not single and not (folder / index).is_file():
            raise _no_weights(name, folder)
        source = _SINGLE if single else index
    files = [_weight_file(source, "config.json", folder, name)]
    if files[0].name.endswith(_INDEX):
        named = _read_object(files[0], name).get("weight_map")
        if not isinstance(named, dict) or not named:
            raise UserError(
                f"model {name!r}: {files[0].name} names no weights: write it again with save_pretrained"
            )
        files = sorted(
            _weight_file(shard, files[0].name, folder, name) for shard in set(map(str, named.values()))
        )
    if wrong := [file.name for file in files if file.suffix != ".safetensors"]:
        raise pickled_weights(name, f"weights in {wrong[0]}, which is not safetensors")
    return files


def _weight_file(source: object, named_by: str, folder: Path, given: str) -> Path:
    """A file of weights that config or index names: it must lie in the folder itself."""
    if not isinstance(source, str) or Path(source).name != source:
        raise UserError(
            f"model {given!r}: {named_by} names weights in {source!r}, which is not a file of its directory: "
            "put the file there and correct the name"
        )
    if not (folder / source).is_file():
        raise UserError(
            f"model {given!r}: {named_by} names weights in {source!r}, which is missing: copy it there"
        )
    return folder / source


def _no_weights(given: str, folder: Path) -> UserError:
    files = sorted(file.name for file in folder.iterdir())
    if found := [name for name in files if name.endswith(".safetensors")]:
        return UserError(
            f"model {given!r} has neither {_SINGLE} nor model{_INDEX} beside {found[0]}: write it again with "
            "save_pretrained"
        )
    if any(fnmatch(name, pattern) for name in files for pattern in _PICKLES):
        return pickled_weights(given)
    return UserError(
        f"model {given!r} has no weights (*.safetensors): give the directory written by save_pretrained"
    )


def _read_object(file: Path, given: str) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(
            f"model {given!r}: {file.name} cannot be read ({one_line(error)}): write it again"
        ) from None
    if not isinstance(found, dict):
        raise UserError(f"model {given!r}: {file.name} does not hold a JSON object: write it again")
    return found


def one_line(error: BaseException, limit: int = 160) -> str:
    """The first line of an exception's text, cut to `limit` characters, or its class name."""
    text = " ".join(str(error).split())
    return text if 0 < len(text) <= limit else (text[: limit - 1] + "…" if text else type(error).__name__)
