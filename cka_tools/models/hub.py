"""A hub id → a local snapshot of its config, tokenizer and safetensors files, at a known commit."""

import os
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from cka_tools.errors import UserError
from cka_tools.models.spec import ModelSpec, offline_choices

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


def pickled_weights(given: str) -> UserError:
    """The error for a checkpoint without safetensors (loading a pickle can run any code)."""
    return UserError(
        f"model {given!r} has only pickled weights, which are never loaded: convert them to safetensors "
        "(load it where you trust it, then model.save_pretrained(DIR))"
    )
