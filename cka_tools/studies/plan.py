"""A study → its runs, each checked up to its first pass, with what it depends on and what it costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
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
        plan: what it opened, and the passes that it makes.
    """

    name: str
    entry: Entry
    call: Call
    corpus: str | None
    identity: str = ""
    plan: Plan = field(default_factory=Plan)

    def make(self, progress: Progress | None = None) -> RunResult:
        """Run it.

        Raises:
            UserError: what the analysis refuses.
        """
        settings = dataclasses.replace(self.entry.settings, cache=True)
        corpus = {} if self.corpus is None else {"corpus": self.corpus}
        result: RunResult = self.entry.analysis.run(
            self.call, **corpus, **self.entry.options, settings=settings, progress=progress
        )
        return result


def plan_jobs(study: Study) -> list[Job]:
    """Every run of a study, in order, after all checks that can be made before a pass.

    A default analysis that the models do not allow is put among those that are left out.

    Raises:
        UserError: what does not fit, with the place in the study.
    """
    _open_models(study)
    jobs: list[Job] = []
    for entry in list(study.entries):
        found = list(_jobs_of(entry, study, {job.name.lower() for job in jobs}))
        try:
            for job in found:
                job.plan = plan_of(job.make)
                job.identity = _identity(job)
        except UserError as error:
            if entry.keys is None:
                study.entries.remove(entry)
                study.left_out[entry.kind] = str(error)
                continue
            raise UserError(f"{study.written.place(entry.keys)}: {entry.name}: {error}") from error
        jobs += found
    if not jobs:
        reasons = "; ".join(f"{kind}: {why}" for kind, why in study.left_out.items())
        raise UserError(f"{study.written.name}: these models allow none of the analyses by default: {reasons}")
    return jobs


def _open_models(study: Study) -> None:
    """Open every model once, so that what is wrong with one is told with its place."""
    options = load_options(study.settings)
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
        job: the run. at: the model's place among the distinct ones of `run`.
        passes: whole passes over the run's documents.
        documents, tokens: of one pass.
        bytes: that its features take in the store, where they go there.
        there: whether nothing runs, as the store has the features or an earlier run of the study makes them.
    """

    job: str
    run: FeatureRun
    at: int
    kind: str
    passes: float
    documents: int
    tokens: int
    bytes: int = 0
    there: bool = False

    @property
    def name(self) -> str:
        """The model."""
        return self.run.sources[self.at].name


def count_passes(jobs: list[Job]) -> list[Passes]:
    """What runs where: features that several runs of the study ask for are made once."""
    made: set[str] = set()
    found = []
    for job in jobs:
        for work in job.plan.work:
            found += [one for at in work.passes for one in _of_model(job.name, work, at, made)]
    return found


def _of_model(job: str, work: Work, at: int, made: set[str]) -> Iterator[Passes]:
    run: FeatureRun = work.run
    draws = [(len(one.kept), int(one.tables[at].lengths.sum())) for one in run.prepared]
    if work.kind != "features":
        documents, tokens = (sum(numbers) for numbers in zip(*draws, strict=True))
        yield Passes(job, run, at, work.kind, work.passes[at] / len(draws), documents, tokens)
        return
    for (documents, tokens), (key, there) in zip(draws, run.stored(at, work.layers[at]), strict=True):
        size = feature_bytes(run.outlines[at], documents * (run.settings.draws or 1), work.layers[at])
        yield Passes(job, run, at, work.kind, 1.0, documents, tokens, size, there or key in made)
        if key is not None:
            made.add(key)
