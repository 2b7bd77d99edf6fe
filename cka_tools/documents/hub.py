"""The dataset hub: one quick look before anything is read, and its errors in one line."""

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cka_tools.documents.corpus import Corpus
from cka_tools.documents.document import Document
from cka_tools.errors import UserError

OFFLINE_CHOICES = "use `sample` or the path of a file, which need no hub"
FIRST_LOOK_SECONDS = 6.0
"""The first request is sent once and waits this long; the libraries' own calls try again for 23 s and
more."""

TRANSPORTS = {"httpx", "httpx2", "httpcore", "requests", "urllib3", "aiohttp"}
"""What carries the requests: it depends on the versions of `huggingface_hub` and `datasets`."""


@dataclass(frozen=True)
class HubDataset:
    """A dataset repository that was seen on the hub: its id, its commit, and the sizes of its files in
    bytes."""

    id: str
    revision: str
    files: dict[str, int]


def look_up(dataset_id: str, spec: str, sizes: bool = False) -> HubDataset:
    """Ask the hub for a dataset's commit and files; without `sizes`, each file's is 0.

    Raises:
        UserError: the hub cannot be reached, or does not give the dataset.
    """
    from huggingface_hub import HfApi

    with hub_errors(dataset_id, spec):
        info = HfApi().dataset_info(dataset_id, files_metadata=sizes, timeout=FIRST_LOOK_SECONDS)
    return HubDataset(
        dataset_id, info.sha or "main", {file.rfilename: file.size or 0 for file in info.siblings or []}
    )


@contextmanager
def hub_errors(dataset_id: str, spec: str) -> Iterator[None]:
    """Turn what goes wrong between here and the hub into a `UserError`; leave our own bugs alone.

    The hub's library logs each failed attempt, from every connection; the one line says it once.
    """
    log = logging.getLogger("huggingface_hub.utils._http")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        message = _explain(error, dataset_id)
        if message is None:
            raise
        raise UserError(f"{spec}: {message}") from error
    finally:
        log.setLevel(level)


def _explain(error: Exception, dataset_id: str) -> str | None:
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    kinds = {base.__name__ for raised in chain for base in type(raised).__mro__}
    statuses = {getattr(getattr(raised, "response", None), "status_code", None) for raised in chain}

    if "OfflineModeIsEnabled" in kinds:
        return f"the hub is off (HF_HUB_OFFLINE is set); unset it, or {OFFLINE_CHOICES}"
    if "GatedRepoError" in kinds or "gated dataset" in str(error):
        return f"{dataset_id} is gated; accept the terms on its page, log in (HF_TOKEN), or use another"
    if kinds & {"RepositoryNotFoundError", "DatasetNotFoundError"} or 404 in statuses:
        return f"no dataset {dataset_id} on the hub (if it is private, set HF_TOKEN); {OFFLINE_CHOICES}"
    if statuses & {401, 403}:
        return f"the hub refuses access to {dataset_id}; log in (HF_TOKEN), or {OFFLINE_CHOICES}"
    if "HFValidationError" in kinds:
        return f"{dataset_id!r} is no dataset id; write `org/name`"
    if found := sorted(status for status in statuses if status):
        return f"the hub answers with error {found[0]}; try again later, or {OFFLINE_CHOICES}"
    libraries = {type(raised).__module__.partition(".")[0] for raised in chain}
    if libraries & TRANSPORTS or kinds & {"ConnectionError", "TimeoutError", "gaierror"}:
        return f"the hub cannot be reached ({_reason(error)}); check the network, or {OFFLINE_CHOICES}"
    # A bad config, data of no known kind, a script of its own: `load_dataset` has no common error for them.
    if libraries & {"datasets", "pyarrow"} or isinstance(error, ValueError | RuntimeError | OSError):
        return f"{dataset_id} cannot be loaded ({_reason(error)}); use another, or {OFFLINE_CHOICES}"
    return None


def _reason(error: BaseException) -> str:
    """What an exception says, in one line of at most 200 characters."""
    said = " ".join(str(error).split()) or type(error).__name__
    return said.rstrip(".") if len(said) <= 200 else said[:199] + "…"


def guarded(documents: Iterator[Document], opened: Corpus, dataset_id: str) -> Iterator[Document]:
    """Read on, with the hub's errors in one line also when they come in the middle."""
    with hub_errors(dataset_id, opened.name):
        yield from documents


def seeded(purpose: str, seed: int) -> random.Random:
    """A generator of its own for each purpose and seed, the same on every platform."""
    return random.Random(f"{purpose} {seed}")


def row_id(row: dict[str, Any], id_name: str | None, fallback: str) -> str:
    """The id of a row, or the fallback where it has none."""
    value = row.get(id_name) if id_name else None
    return fallback if value in (None, "") else str(value)
