"""A model's files on this machine: its directory, or what a comparison needs of its repository on the hub."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from cka_tools.errors import UserError
from cka_tools.models.folder import (
    BIN,
    BIN_SHARDS,
    PICKLES,
    SHARDS,
    SINGLE,
    ModelSpec,
    demo_models,
    like,
    pickled_weights,
)

_TEXT_FILES = ("*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja")

#: Seconds for the first answer of the hub. Past it the hub counts as unreachable.
HUB_TIMEOUT = 5.0

_BOT, _CONVERSION = "SFconvertbot", "Adding `safetensors` variant of this model"


@dataclass
class Snapshot:
    """A model's files on this machine, the hub's commit they are of, and what the user should know."""

    folder: Path
    commit: str | None = None
    notes: list[str] = field(default_factory=list)


def fetch_snapshot(spec: ModelSpec, *, trust_remote_code: bool = False, allow_bin: bool = False) -> Snapshot:
    """Find a directory, or download what a comparison needs of a repository.

    Of one with pickles alone the hub's own conversion to safetensors is taken, where there is one of this commit,
    with a note; the pickles themselves only with `allow_bin`. Without a connection a copy that is already in the
    hub's cache is used, and a note says so.

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
        notes: list[str] = []
        if not like(_top(info), "*.safetensors") and like(_top(info), *PICKLES):
            converted = _conversion(api, spec.repo, str(info.sha))
            if converted is not None:
                info = api.model_info(spec.repo, revision=converted, timeout=HUB_TIMEOUT)
                notes.append(
                    f"{spec.given} holds pickles: its conversion to safetensors by the hub, {converted}, is read."
                )
        names = [sibling.rfilename for sibling in info.siblings or []]
        wanted = files_wanted(spec.given, names, python=trust_remote_code, allow_bin=allow_bin)
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
    return Snapshot(Path(folder), commit, notes)


def _top(info: Any) -> list[str]:
    """Names of a repository's files outside its folders."""
    return [sibling.rfilename for sibling in info.siblings or [] if "/" not in sibling.rfilename]


def _conversion(api: HfApi, repo: str, commit: str) -> str | None:
    """The revision of the hub's pull request that adds safetensors to a commit, as transformers finds it.

    Anybody may open one of that title: it counts only if the hub's bot made it, on top of this commit.
    """
    try:
        for one in api.get_repo_discussions(
            repo, author=_BOT, discussion_type="pull_request", discussion_status="open"
        ):
            if one.title == _CONVERSION and one.author == _BOT and one.git_reference is not None:
                commits = api.list_repo_commits(repo, revision=one.git_reference)
                if len(commits) > 1 and commits[1].commit_id == commit:
                    return str(one.git_reference)
    except HfHubHTTPError:  # discussions may be closed: the pickles are then refused, or read
        return None
    return None


def _cached(api: HfApi, spec: ModelSpec, error: Exception) -> Snapshot:
    try:
        folder = Path(api.snapshot_download(str(spec.repo), revision=spec.revision, local_files_only=True))
    except Exception:
        choices = " or ".join(["a local directory", *(f"demo:{name}" for name in demo_models())])
        problem = f"the hub cannot be reached ({type(error).__name__}) and its cache has no copy"
        raise UserError(f"model {spec.given!r} is not a directory here, {problem}: offline, give {choices}") from None
    note = f"The hub could not be reached: {spec.given} is the cached copy of commit {folder.name}."
    return Snapshot(folder, folder.name, [note])


def files_wanted(given: str, names: list[str], *, python: bool, allow_bin: bool = False) -> list[str]:
    """Of a repository's files, those a comparison needs: top level, one set of weights, pickles only if allowed.

    Raises:
        UserError: the weights are pickles only.
    """
    top = [name for name in names if "/" not in name]
    weights = like(top, SINGLE) or like(top, SHARDS) or like(top, "*.safetensors")
    if not weights and allow_bin:
        weights = like(top, BIN) or like(top, BIN_SHARDS) or like(top, "adapter_model.bin")
    if not weights and like(top, *PICKLES):
        raise pickled_weights(given)
    return like(top, *_TEXT_FILES) + weights + (like(names, "*.py") if python else [])
