"""A study → its runs, each checked up to its first pass, with what it depends on and what it costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cka_tools import __version__
from cka_tools.comparison.record import JsonObject
from cka_tools.comparison.results import RunResult
from cka_tools.compute import FeatureRun, Progress, load_options
from cka_tools.errors import UserError
from cka_tools.extraction.extract import feature_bytes
from cka_tools.manifest import read_manifest
from cka_tools.models import ModelSource
from cka_tools.models.folder import hash_file, hash_json
from cka_tools.planning import Plan, Work, plan_of
from cka_tools.studies.analyses import Call
from cka_tools.studies.models import StudyModel
from cka_tools.studies.study_file import Entry, Study

NOT_IN_IDENTITY = ("cache", "memory_limit", "spill_folder", "snapshot_every")
"""Settings that change no number."""


@dataclass
class Job:
    """One run of a study.

    Attributes:
        name: of its directory. corpus: its spec; None where the analysis takes none.
        identity: hash of all that its result depends on.
        documents: of each run of the engine's that it opened, how many.
        plan: what it opened, and the passes that it makes: tokens and all, so not for long.
    """

    name: str
    entry: Entry
    call: Call
    corpus: str | None
    identity: str = ""
    documents: list[int] = field(default_factory=list)
    plan: Plan = field(default_factory=Plan)

    def make(self, progress: Progress | None = None, parts: Path | None = None) -> RunResult:
        """Run it.

        Args:
            parts: where an analysis that goes on with what is finished of it keeps that.

        Raises:
            UserError: what the analysis refuses.
        """
        settings = dataclasses.replace(self.entry.settings, cache=True)
        more: dict[str, Any] = {} if self.corpus is None else {"corpus": self.corpus}
        if self.entry.analysis.keeps_parts and parts is not None:
            more["parts"] = parts
        result: RunResult = self.entry.analysis.run(
            self.call, **more, **self.entry.options, settings=settings, progress=progress
        )
        return result


def plan_jobs(study: Study, planned: Callable[[Job], None]) -> list[Job]:
    """Every run of a study, in order, after all checks that can be made before a pass.

    A default analysis that the models do not allow is put among those that are left out.

    Args:
        planned: called with each run while its plan is there.

    Raises:
        UserError: what does not fit, with the place in the study.
    """
    _open_models(study)
    known = len(study.left_out)
    jobs: list[Job] = []
    for entry in list(study.entries):
        found = list(_jobs_of(entry, study, {job.name.lower() for job in jobs}))
        try:
            for job in found:
                job.plan = plan_of(job.make)
                job.identity = _identity(job)
                job.documents = [len(one.kept) for run in job.plan.runs for one in run.prepared]
        except UserError as error:
            if entry.keys is None:
                study.entries.remove(entry)
                study.left_out[entry.kind] = str(error)
                continue
            raise UserError(f"{study.written.place(entry.keys)}: {entry.name}: {error}") from error
        for job in found:
            planned(job)
            job.plan = Plan()
        jobs += found
    if not jobs:
        kind, why = list(study.left_out.items())[known]
        raise UserError(f"{study.written.name}: no analysis fits by default; {kind}: {why}")
    return jobs


def _open_models(study: Study) -> None:
    """Open every model once, so that what is wrong with one is told with its place."""
    try:
        options = load_options(study.settings)
    except UserError as error:
        raise UserError(f"{study.written.place(('settings', 'device'))}: {error}") from error
    for model in study.all_models:
        try:
            model.source.outline(options)
        except UserError as error:
            raise UserError(f"{study.written.place(('models', model.role), model.given)}: {error}") from error


def _jobs_of(entry: Entry, study: Study, taken: set[str]) -> Iterator[Job]:
    """A run for each call and corpus; a name tells what there are several of."""
    corpora = {name: study.corpora[name] for name in entry.corpora} if entry.analysis.corpus else {"": None}
    for call in entry.calls:
        for corpus, spec in corpora.items():
            parts = [entry.name]
            parts += [call.label] if len(entry.calls) > 1 else []
            parts += [corpus] if len(study.corpora) > 1 and corpus else []
            name = free = "-".join(parts)
            number = 2
            while free.lower() in taken:
                free, number = f"{name}-{number}", number + 1
            taken.add(free.lower())
            yield Job(free, entry, call, spec)


def _identity(job: Job) -> str:
    settings = {
        one.name: getattr(job.entry.settings, one.name)
        for one in dataclasses.fields(job.entry.settings)
        if one.name not in NOT_IN_IDENTITY
    }
    arguments = {key: _told(value, job.plan) for key, value in job.call.arguments.items()}
    draws = [
        [draw.fingerprint, draw.seed, hash_json(list(run.ids(at)))] for run in job.plan.runs
        for at, draw in enumerate(run.draws)
    ]  # fmt: skip
    packages = {name: version(name) for name in ("torch", "transformers")}
    inputs = sorted(job.plan.inputs.values())
    return hash_json([job.entry.kind, job.entry.given, settings, arguments, draws, inputs, packages, __version__])


def _told(value: Any, plan: Plan) -> Any:
    """What an argument depends on: of a model its name, its content and its training's manifest."""
    if isinstance(value, StudyModel):
        return [value.given, _told(value.source, plan)]
    if isinstance(value, dict):
        return {key: _told(one, plan) for key, one in value.items()}
    if isinstance(value, list):
        return [_told(one, plan) for one in value]
    if isinstance(value, ModelSource):
        return [_content(value, plan), read_manifest(value.folder)]
    return value


def _content(source: ModelSource, plan: Plan) -> JsonObject:
    found = source.fingerprint()
    if found is not None:
        return found
    # It brings code: what its outline tells, and the code beside it.
    outlines = [run.outlines[run.sources.index(source)] for run in plan.runs if source in run.sources]
    told = {k: v for one in outlines for k, v in one.provenance.items() if k.endswith("_sha256") or k == "revision"}
    folder = source.folder
    return told | ({path.name: hash_file(path) for path in sorted(folder.glob("*.py"))} if folder else {})


@dataclass(frozen=True)
class Passes:
    """Passes of one model in one run of a study.

    Attributes:
        job: the run. source: the model.
        passes: whole passes over the run's documents. tokens: of one pass.
        bytes: that its features take in the store, where they go there.
        there: whether nothing runs, as the store has the features or an earlier run of the study makes them.
    """

    job: str
    source: ModelSource
    kind: str
    passes: float
    tokens: int
    bytes: int = 0
    there: bool = False


@dataclass
class Costs:
    """What runs where: features that several runs of the study ask for are made once.

    Attributes:
        samples: of each model that is to run a run of the engine's, and its place there, to time it by; none where
            they are not wanted.
    """

    wants_samples: bool = False
    passes: list[Passes] = field(default_factory=list)
    samples: dict[ModelSource, tuple[FeatureRun, int]] = field(default_factory=dict)
    _made: set[str] = field(default_factory=set)

    def add(self, job: Job) -> None:
        """Count the passes of one more run, whose plan is there."""
        for work in job.plan.work:
            for at in work.passes:
                found = list(self._of_model(job.name, work, at))
                self.passes += found
                if self.wants_samples and not all(one.there for one in found):
                    self.samples.setdefault(work.run.sources[at], (work.run, at))

    def _of_model(self, job: str, work: Work, at: int) -> Iterator[Passes]:
        run: FeatureRun = work.run
        source = run.sources[at]
        draws = [(len(one.kept), int(one.tables[at].lengths.sum())) for one in run.prepared]
        if work.kind != "features":
            yield Passes(job, source, work.kind, work.passes[at] / len(draws), sum(tokens for _, tokens in draws))
            return
        for (documents, tokens), (key, there) in zip(draws, run.stored(at, work.layers[at]), strict=True):
            size = feature_bytes(run.outlines[at], documents * (run.settings.draws or 1), work.layers[at])
            yield Passes(job, source, work.kind, 1.0, tokens, size, there or key in self._made)
            if key is not None:
                self._made.add(key)
