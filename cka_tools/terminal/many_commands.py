"""`cka trajectory` and `cka matrix`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from cka_tools.terminal.ablate_command import numbers
from cka_tools.terminal.compare_command import Dtype, Pooling, RunDirectory, Sites, free_directory, slug
from cka_tools.terminal.options import Device, Json, NoCache, Quiet, RemoteCode
from cka_tools.terminal.progress import document_progress

if TYPE_CHECKING:
    from cka_tools.comparison.many_result import ManyResult

Corpus = Annotated[str, typer.Option(help="As `cka compare` takes it.")]
Documents = Annotated[
    int | None,
    typer.Option(help="Documents to draw.  [default: 500, or what the corpus holds]", show_default=False),
]
MaxLength = Annotated[
    int | None,
    typer.Option(
        help="Tokens a document is cut to.  [default: 512, or what the models take]", show_default=False
    ),
]
PoolingGiven = Annotated[Pooling, typer.Option(help="How a document's hidden states become one row.")]
SitesGiven = Annotated[Sites, typer.Option(help="The residual stream, or a branch's addition to it.")]
Layers = Annotated[
    str | None, typer.Option(help="Layers to compare, as 0-7 or 0,3,8-11.", show_default="all")
]
Early = Annotated[
    str | None, typer.Option(help="Layers that count as early, as 0-7.", show_default="the first third")
]
DtypeGiven = Annotated[
    Dtype | None, typer.Option(help="Number format of the forward passes.", show_default="float32")
]
Seed = Annotated[int, typer.Option(help="Of the draw of documents.")]
BatchTokens = Annotated[
    int | None,
    typer.Option(help="Padded tokens a batch holds.  [default: by device]", show_default=False),
]
TokensPerDocument = Annotated[
    int | None,
    typer.Option(help="Draws a document with --pooling token.  [default: 8]", show_default=False),
]


def trajectory_command(
    reference: Annotated[
        str, typer.Argument(help="What all are compared with: demo:NAME, a directory, org/name[@revision].")
    ],
    checkpoints: Annotated[
        list[str] | None,
        typer.Argument(help="Checkpoints, or the folder of a training run, which stands for all of its own."),
    ] = None,
    control: Annotated[
        str | None,
        typer.Option(help="A model that differs from the reference by its seed: the noise floor."),
    ] = None,
    x: Annotated[
        str | None,
        typer.Option(
            "--x",
            help="The x-axis, a number a checkpoint, as 0.5,1,1.5.  [default: tokens of the manifests, "
            "or the position]",
            show_default=False,
        ),
    ] = None,
    corpus: Corpus = "sample",
    documents: Documents = None,
    max_length: MaxLength = None,
    pooling: PoolingGiven = Pooling.mean,
    sites: SitesGiven = Sites.residual,
    layers: Layers = None,
    early: Early = None,
    dtype: DtypeGiven = None,
    device: Device = "auto",
    seed: Seed = 42,
    batch_tokens: BatchTokens = None,
    tokens_per_document: TokensPerDocument = None,
    trust_remote_code: RemoteCode = False,
    no_cache: NoCache = False,
    out: RunDirectory = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Follow the divergence of checkpoints from a reference along a training, one pass a model.

    Example: cka trajectory runs/baseline/final runs/detour --control runs/baseline-2/final --out runs/along
    """
    from cka_tools.comparison import trajectory
    from cka_tools.terminal.many_report import print_trajectory

    places = None if x is None else numbers(x, "--x")
    read = _options(
        documents, max_length, pooling, sites, layers, early, dtype, device, seed, batch_tokens,
        tokens_per_document, trust_remote_code, no_cache,
    )  # fmt: skip
    run_many(
        lambda progress: trajectory(
            reference, checkpoints or [], corpus, control=control, x=places, progress=progress, **read
        ),
        print_trajectory,
        out or free_directory(f"cka-trajectory-{slug(reference)}"),
        quiet=quiet,
        as_json=as_json,
    )


def matrix_command(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="Two or more: demo:NAME, a directory, org/name or org/name@revision."),
    ] = None,
    corpus: Corpus = "sample",
    documents: Documents = None,
    max_length: MaxLength = None,
    pooling: PoolingGiven = Pooling.mean,
    sites: SitesGiven = Sites.residual,
    layers: Layers = None,
    early: Early = None,
    dtype: DtypeGiven = None,
    device: Device = "auto",
    seed: Seed = 42,
    batch_tokens: BatchTokens = None,
    tokens_per_document: TokensPerDocument = None,
    trust_remote_code: RemoteCode = False,
    no_cache: NoCache = False,
    out: RunDirectory = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Compare every pair of models, one pass a model: a matrix, a dendrogram and a saved run.

    Example: cka matrix demo:clm-detour demo:mlm-baseline demo:mlm-baseline-2 --documents 200
    """
    from cka_tools.comparison import matrix
    from cka_tools.terminal.many_report import print_matrix

    read = _options(
        documents, max_length, pooling, sites, layers, early, dtype, device, seed, batch_tokens,
        tokens_per_document, trust_remote_code, no_cache,
    )  # fmt: skip
    run_many(
        lambda progress: matrix(models or [], corpus, progress=progress, **read),
        print_matrix,
        out or free_directory("cka-matrix"),
        quiet=quiet,
        as_json=as_json,
    )


def run_many(
    read: Callable[[Any], ManyResult],
    show: Callable[[Any, Console], None],
    run_dir: Path,
    *,
    quiet: bool,
    as_json: bool,
) -> None:
    """Read models, save, print."""
    from cka_tools.comparison.run_directory import check_free

    check_free(run_dir)
    with document_progress(Console(stderr=True), hidden=quiet) as progress:
        result = read(progress)
    result.save(run_dir)
    if as_json:
        typer.echo(json.dumps(result.record, ensure_ascii=False, allow_nan=False))
    elif not quiet:
        console = Console()
        show(result, console)
        written = f"Saved in {run_dir} (result.json, {result.table}, figure.pdf, figure.png)"
        console.print(written, markup=False, highlight=False, soft_wrap=True)


def _options(
    documents: int | None,
    max_length: int | None,
    pooling: Pooling,
    sites: Sites,
    layers: str | None,
    early: str | None,
    dtype: Dtype | None,
    device: str,
    seed: int,
    batch_tokens: int | None,
    tokens_per_document: int | None,
    trust_remote_code: bool,
    no_cache: bool,
) -> dict[str, Any]:
    """The flags as keyword arguments."""
    from cka_tools.comparison.pairing import parse_layers

    return {
        "documents": documents,
        "max_length": max_length,
        "pooling": pooling.value,
        "sites": sites.value,
        "layers": None if layers is None else parse_layers(layers),
        "early": None if early is None else parse_layers(early, "early"),
        "dtype": None if dtype is None else dtype.value,
        "device": device,
        "seed": seed,
        "batch_tokens": batch_tokens,
        **({} if tokens_per_document is None else {"tokens_per_document": tokens_per_document}),
        "trust_remote_code": trust_remote_code,
        "cache": not no_cache,
    }
