"""`cka compare` and `cka demo`."""

from __future__ import annotations

import json
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from cka_tools.processes import from_first, joined
from cka_tools.terminal.options import Device, Json, NoCache, Quiet, RemoteCode
from cka_tools.terminal.progress import document_progress

DEMO_PAIR = ("demo:clm-detour", "demo:mlm-baseline")


class Pooling(StrEnum):
    """How the hidden states of a document become one row."""

    mean = "mean"
    cls = "cls"
    last = "last"
    token = "token"


class Sites(StrEnum):
    """What is hooked in every block."""

    residual = "residual"
    attention = "attention"
    mlp = "mlp"


class Pairs(StrEnum):
    """Which layers of A are compared with which of B."""

    all = "all"
    diagonal = "diagonal"


class Dtype(StrEnum):
    """Number format of the forward passes."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"
    float64 = "float64"


class Protocol(StrEnum):
    """Published settings."""

    paper = "paper"


RunDirectory = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Run directory to make; by default one named after the models."),
]


def compare_command(
    model_a: Annotated[str, typer.Argument(help="demo:NAME, a directory, org/name or org/name@revision.")],
    model_b: Annotated[str, typer.Argument(help="The model to compare it with.")],
    control: Annotated[
        str | None,
        typer.Option(
            help="Model B trained with another seed: its distance from B is the seed noise to divide by.",
            show_default=False,
        ),
    ] = None,
    corpus: Annotated[
        str,
        typer.Option(
            help="sample, pubmed, biomed-enriched, hf:ID, or a .txt .jsonl .csv .parquet .xml file."
        ),
    ] = "sample",
    documents: Annotated[
        int | None,
        typer.Option(help="Documents to draw.  [default: 500, or what the corpus holds]", show_default=False),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            help="Tokens a document is cut to.  [default: 512, or what the models take]", show_default=False
        ),
    ] = None,
    pooling: Annotated[
        Pooling, typer.Option(help="How a document's hidden states become one row.")
    ] = Pooling.mean,
    sites: Annotated[
        Sites, typer.Option(help="The residual stream, or a branch's addition to it.")
    ] = Sites.residual,
    layers: Annotated[
        str | None, typer.Option(help="Layers to compare, as 0-7 or 0,3,8-11.", show_default="all")
    ] = None,
    early: Annotated[
        str | None, typer.Option(help="Layers that count as early, as 0-7.", show_default="the first third")
    ] = None,
    pairs: Annotated[
        Pairs, typer.Option(help="All layers of A with all of B, or the paired ones alone.")
    ] = Pairs.all,
    dtype: Annotated[
        Dtype | None, typer.Option(help="Number format of the forward passes.", show_default="float32")
    ] = None,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Of the draw of documents.")] = 42,
    rescale: Annotated[
        bool, typer.Option("--rescale", help="Also give CKA with every feature scaled to unit variance.")
    ] = False,
    protocol: Annotated[
        Protocol | None,
        typer.Option(
            help="paper: 3 draws of 500 documents, 512 tokens, batches of 16, float16.", show_default=False
        ),
    ] = None,
    batch_tokens: Annotated[
        int | None,
        typer.Option(help="Padded tokens a batch holds.  [default: by device]", show_default=False),
    ] = None,
    tokens_per_document: Annotated[
        int | None,
        typer.Option(help="Draws a document with --pooling token.  [default: 8]", show_default=False),
    ] = None,
    keep_features: Annotated[
        str, typer.Option(help="Features of both models beyond this size are streamed, not kept.")
    ] = "8GiB",
    snapshot_every: Annotated[
        int | None,
        typer.Option(
            help="Documents between snapshots of streamed statistics, in the cache.  [default: 20,000]",
            show_default=False,
        ),
    ] = None,
    trust_remote_code: RemoteCode = False,
    no_cache: NoCache = False,
    out: RunDirectory = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Compare two models layer by layer: a table, a figure and a saved run.

    Example: cka compare demo:clm-detour demo:mlm-baseline --corpus abstracts.jsonl.gz --out runs/detour
    """
    from cka_tools.comparison.pairing import parse_layers

    run_compare(
        model_a,
        model_b,
        out,
        quiet=quiet,
        as_json=as_json,
        control=control,
        corpus=corpus,
        documents=documents,
        max_length=max_length,
        pooling=pooling.value,
        sites=sites.value,
        layers=None if layers is None else parse_layers(layers),
        early=None if early is None else parse_layers(early, "early"),
        pairs=pairs.value,
        dtype=None if dtype is None else dtype.value,
        device=device,
        seed=seed,
        rescale=rescale,
        protocol=None if protocol is None else protocol.value,
        batch_tokens=batch_tokens,
        **({} if tokens_per_document is None else {"tokens_per_document": tokens_per_document}),
        keep_features=keep_features,
        **({} if snapshot_every is None else {"snapshot_every": snapshot_every}),
        trust_remote_code=trust_remote_code,
        cache=not no_cache,
    )


def demo_command(
    documents: Annotated[int, typer.Option(help="Documents to draw from the bundled corpus.")] = 500,
    out: RunDirectory = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Compare the bundled models on the bundled corpus, offline.

    Example: cka demo --out runs/demo
    """
    run_compare(
        *DEMO_PAIR, out or free_directory("cka-demo"), quiet=quiet, as_json=as_json, documents=documents
    )


def run_compare(
    model_a: str, model_b: str, out: Path | None, *, quiet: bool, as_json: bool, **settings: Any
) -> None:
    """Compare, save, print; of several processes the first one saves and prints."""
    from cka_tools.comparison.run_comparison import compare
    from cka_tools.comparison.run_directory import check_free
    from cka_tools.store.snapshot import kept_until_saved
    from cka_tools.terminal.report import print_comparison

    with joined() as team:
        name = f"cka-{slug(model_a)}-vs-{slug(model_b)}"
        run_dir = from_first(lambda: out or free_directory(name))
        from_first(lambda: check_free(run_dir))
        hidden = quiet or not team.first
        with kept_until_saved():
            with document_progress(Console(stderr=True), hidden=hidden) as progress:
                result = compare(model_a, model_b, progress=progress, **settings)
            from_first(lambda: result.save(run_dir))
    if not team.first:
        return
    if as_json:
        typer.echo(json.dumps(result.record, ensure_ascii=False, allow_nan=False))
    elif not quiet:
        console = Console()
        print_comparison(result, console)
        console.print(
            f"Saved in {run_dir} (result.json, layers.csv, figure.pdf, figure.png)",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def slug(spec: str) -> str:
    """A model spec as part of a directory's name."""
    last = spec.rstrip("/").split("/")[-1].removeprefix("demo:")
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-.") or "model"


def free_directory(name: str) -> Path:
    """The name itself, or with -2, -3, … where it is taken."""
    candidate, number = Path(name), 2
    while candidate.exists():
        candidate, number = Path(f"{name}-{number}"), number + 1
    return candidate
