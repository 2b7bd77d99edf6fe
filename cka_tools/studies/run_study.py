"""Everything that a study asks for, one run after the other; what is finished is not done again."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from cka_tools import __version__
from cka_tools.comparison.readout_results import open_run
from cka_tools.comparison.results import RunResult
from cka_tools.comparison.run_directory import NotDrawn
from cka_tools.compute import sharing_draws
from cka_tools.errors import UserError, one_line
from cka_tools.models.folder import hash_json
from cka_tools.processes import this_process
from cka_tools.report import write_report
from cka_tools.store.directory import cache_in
from cka_tools.store.snapshot import kept_until_saved
from cka_tools.studies.folder import (
    CACHE,
    PARTS,
    REPORT,
    RUNS,
    check_folder,
    default_folder,
    finished,
    held,
    is_reported,
    note_report,
    save,
    tell_failure,
)
from cka_tools.studies.plan import Costs, Job, plan_jobs
from cka_tools.studies.study_file import Study, read_study

State = Literal["done", "from before", "failed"]


@dataclass(frozen=True)
class Outcome:
    """How a run of a study ended.

    Attributes:
        name: of the run. analysis: its kind. folder: the run directory; None where it failed.
        reason: why it failed, or what a saved run lacks. seconds: that it took.
    """

    name: str
    analysis: str
    state: State
    folder: Path | None
    reason: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Standing:
    """Where a study stands while it runs.

    Attributes:
        name: of the run under way. number, of: its place among those that are to be made.
        share: of all that is to be done, from 0 to 1.
    """

    name: str
    number: int
    of: int
    share: float


@dataclass(frozen=True)
class StudyRun:
    """A study that has run.

    Attributes:
        outcomes: of every run, in order.
        report: of all that did not fail; None where there is nothing to report, or no report could be written:
            `problem` says why.
        left_out: default analyses that the models do not allow, and why.
    """

    folder: Path
    outcomes: list[Outcome]
    report: Path | None
    problem: str | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> list[Outcome]:
        """The runs that failed."""
        return [one for one in self.outcomes if one.state == "failed"]

    def load(self, name: str) -> RunResult:
        """The result of a run, by its name.

        Raises:
            UserError: there is none.
        """
        found = next((one.folder for one in self.outcomes if one.name == name), None)
        if found is None:
            raise UserError(f"no run of the study is called {name!r}: see {[one.name for one in self.outcomes]}")
        return open_run(found)


@dataclass(frozen=True)
class Prepared:
    """A study, all of whose checks are made.

    Attributes:
        jobs: its runs. costs: of those that are to be made. done: of each run whether it is there from before.
    """

    study: Study
    folder: Path
    jobs: list[Job]
    costs: Costs
    done: list[bool]

    @property
    def cache(self) -> Path | None:
        """Where features are kept in the study's folder; None where the usual place is used."""
        return None if self.study.settings.cache else self.folder / CACHE


def study(
    given: str | PathLike[str] | Mapping[str, Any],
    out: str | PathLike[str] | None = None,
    *,
    progress: Callable[[Standing], None] | None = None,
    told: Callable[[Outcome], None] | None = None,
) -> StudyRun:
    """Run a study: a file, or what one would hold, as `cka study` does.

    Everything is checked before anything runs. Runs that are in the folder from before, made of the same models,
    documents, settings and versions, are not made again. Features of a model over a corpus come from one pass,
    through the activation store: with cache = false one in the study's folder. A run that fails does not stop the
    others.

    Args:
        given: see `studies.study_file`.
        out: the study's folder; by default beside the file, named after it.
        progress: called while a run is made. told: called when one is finished.

    Raises:
        UserError: what does not fit, with file and line; a folder that is another study's, or in use.
    """
    with ExitStack() as stack:
        stack.enter_context(sharing_draws())
        prepared = prepare_study(given, out)
        stack.enter_context(held(prepared.folder, prepared.study))
        return run_prepared(prepared, progress=progress, told=told)


def prepare_study(
    given: str | PathLike[str] | Mapping[str, Any], out: str | PathLike[str] | None = None, *, timed: bool = False
) -> Prepared:
    """Make every check of a study, and count what it costs; nothing is written.

    Args:
        timed: keep what `estimate.measure` times models by.

    Raises:
        UserError: as `study`.
    """
    if this_process().world > 1:
        raise UserError(
            "a study runs its analyses one after the other, in one process: start it without torchrun, which a "
            "single large analysis can be shared with (cka compare …)"
        )
    read = read_study(given)
    folder = default_folder(read) if out is None else Path(out)
    check_folder(folder, read)
    done: list[bool] = []
    costs = Costs(wants_samples=timed)

    def planned(job: Job) -> None:
        done.append(finished(folder / RUNS / job.name, job.identity))
        if not done[-1]:
            costs.add(job)

    with cache_in(None if read.settings.cache else folder / CACHE):
        jobs = plan_jobs(read, planned)
    return Prepared(read, folder, jobs, costs, done)


def run_prepared(
    prepared: Prepared,
    *,
    progress: Callable[[Standing], None] | None = None,
    told: Callable[[Outcome], None] | None = None,
) -> StudyRun:
    """Make the runs that are not there."""
    told = told or (lambda outcome: None)
    standing = _Standing(prepared, progress)
    outcomes = []
    with cache_in(prepared.cache):
        for job, done in zip(prepared.jobs, prepared.done, strict=True):
            outcome = Outcome(job.name, job.entry.kind, "from before", prepared.folder / RUNS / job.name)
            if not done:
                standing.start(job)
                outcome = _run(job, prepared.folder, standing)
            outcomes.append(outcome)
            told(outcome)
        return StudyRun(prepared.folder, outcomes, *_report(prepared, outcomes), prepared.study.left_out)


def _report(prepared: Prepared, outcomes: Sequence[Outcome]) -> tuple[Path | None, str | None]:
    """The report of all runs that did not fail, written where it is not there from before; or why there is none."""
    folder, title = prepared.folder, prepared.study.title
    both = zip(prepared.jobs, outcomes, strict=True)
    runs = {place: job.identity for job, one in both if (place := one.folder) is not None}
    if not runs:
        return None, None
    content = hash_json([title, __version__, [[place.name, identity] for place, identity in runs.items()]])
    if is_reported(folder, content):
        return folder / REPORT, None
    try:
        written = write_report(list(runs), folder / REPORT, title=title)
        note_report(folder, content)
    except UserError as error:
        return None, str(error)
    except Exception as error:
        return None, _unforeseen(error, folder, REPORT)
    return written, None


def _run(job: Job, folder: Path, standing: _Standing) -> Outcome:
    began = time.monotonic()

    def ended(state: State, reason: str | None = None) -> Outcome:
        place = None if state == "failed" else folder / RUNS / job.name
        return Outcome(job.name, job.entry.kind, state, place, reason, time.monotonic() - began)

    try:
        with kept_until_saved():
            result = job.make(standing, folder / PARTS)
            lacking = None
            try:
                save(result, folder, job.name, job.identity)
            except NotDrawn as error:
                lacking = str(error)
        tell_failure(folder, job.name, None)
        return ended("done", lacking)
    except UserError as error:
        tell_failure(folder, job.name, f"{error}\n")
        return ended("failed", str(error))
    except Exception as error:  # a fault of ours: the other runs need not know
        return ended("failed", _unforeseen(error, folder, job.name))


def _unforeseen(error: Exception, folder: Path, name: str) -> str:
    """One line on what nobody made a message of; its traceback goes into a file."""
    where = tell_failure(folder, name, traceback.format_exc())
    return f"{type(error).__name__}: {one_line(error)}; this was not foreseen: the traceback is in {where}"


class _Standing:
    """Progress of the runs that are to be made, by the passes of each."""

    def __init__(self, prepared: Prepared, progress: Callable[[Standing], None] | None) -> None:
        self._progress = progress
        todo = [job.name for job, done in zip(prepared.jobs, prepared.done, strict=True) if not done]
        costs = dict.fromkeys(todo, 1.0)  # statistics and figures too
        for one in prepared.costs.passes:
            costs[one.job] += 0.0 if one.there else one.passes * one.tokens
        self._costs, self._all = costs, sum(costs.values())
        self._before = self._own = self._share = 0.0
        self._name = ""
        self._number = 0

    def start(self, job: Job) -> None:
        """A run begins."""
        self._before += self._own
        self._name, self._own = job.name, self._costs[job.name]
        self._number += 1
        self(0, 0, 1)

    def __call__(self, documents: int, tokens: int, total: int) -> None:
        """As analyses tell of their documents."""
        if self._progress is not None:
            share = (self._before + self._own * min(1.0, documents / max(1, total))) / self._all
            self._share = max(self._share, share)  # a run may read its documents several times
            self._progress(Standing(self._name, self._number, len(self._costs), self._share))
