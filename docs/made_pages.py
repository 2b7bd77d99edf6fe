"""Pages of the site that are made when it is built, from the program and from files that lie elsewhere in the clone.

MkDocs calls the `on_…` functions. The command line comes from the program's own parser, the Python page from
`cka_tools.__all__`, notebooks are run; what README-like files link to is found again on the site, or left as
plain words where the site does not have it.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

REPOSITORY = Path(__file__).resolve().parents[1]

#: Page → the file of the clone that it shows.
SHOWN = {
    "gallery.md": "figures/README.md",
    "findings.md": "figures/FINDINGS.md",
    "benchmarks.md": "benchmarks/RESULTS.md",
    "bundled.md": "data/README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
}
PAGES = {source: page for page, source in SHOWN.items()} | {"README.md": "index.md"}

NOTEBOOKS = ("first_comparison", "own_features")
SECONDS = 600
"""A cell that takes longer is broken."""

LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add what is made."""
    made = {name: (REPOSITORY / source).read_text(encoding="utf-8") for name, source in SHOWN.items()}
    made |= {"command_line.md": command_line(), "python.md": python_page()}
    for name in NOTEBOOKS:
        for file, content in run_notebook(name).items():
            files.append(File.generated(config, f"notebooks/{file}", content=content))
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    for figure in sorted((REPOSITORY / "figures").glob("*.png")):
        files.append(File.generated(config, f"figures/{figure.name}", abs_src_path=str(figure)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point links into the clone at the pages that show those files."""
    name = page.file.src_uri
    return relinked(markdown, SHOWN.get(name, f"docs/{name}"), name, {file.src_uri for file in files})


def relinked(markdown: str, source: str, page: str, there: set[str]) -> str:
    """Markdown of a file of the clone as a page of the site.

    Args:
        source: the file, relative to the clone. page: its page. there: all files of the site.
    """

    def replace(found: re.Match[str]) -> str:
        image, words, target = found.groups()
        path, hash_mark, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target) or not path:
            return found[0]
        place = os.path.normpath(PurePosixPath(source).parent / path).replace(os.sep, "/")
        shown = PAGES.get(place) or (place if place in there else place.removeprefix("docs/"))
        if shown not in there:
            if not (REPOSITORY / place).exists():
                raise PluginError(f"{source}: {target!r} is not in the clone")
            return words if words.startswith("`") else f"{words} (`{place}`)"
        here = os.path.relpath(shown, PurePosixPath(page).parent).replace(os.sep, "/")
        return f"{image}[{words}]({here}{hash_mark}{anchor})"

    return LINK.sub(replace, markdown)


def command_line() -> str:
    """Every command with its arguments and options, as the program's parser has them."""
    import typer

    from cka_tools.terminal.app import app

    root = typer.main.get_command(app)
    context: Any = root.context_class(root, info_name="cka")
    lines = ["# Command line", "", root.help or "", ""]
    lines += [
        "`cka --version` prints the version, `--debug` (anywhere) the traceback behind an error. Exit codes: 0; 1"
    ]
    lines += ["for what was not foreseen, and for a study some of whose runs failed; 2 for input that does not fit;"]
    lines += ["130 for Ctrl-C.", ""]
    for command, inner in _commands(root, context):
        lines += [f"## {inner.command_path}", "", *_described(command.help or ""), ""]
        lines += ["```", " ".join([inner.command_path, *command.collect_usage_pieces(inner)]), "```", ""]
        rows = [_row(one, inner) for one in command.get_params(inner) if "--help" not in one.opts]
        if rows:
            lines += ["| | |", "|---|---|", *rows, ""]
    return "\n".join(lines)


def _commands(group: Any, context: Any) -> list[tuple[Any, Any]]:
    found = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        inner = command.context_class(command, info_name=name, parent=context)
        found += _commands(command, inner) if hasattr(command, "list_commands") else [(command, inner)]
    return found


def _described(text: str) -> list[str]:
    """A docstring's paragraphs; its example as a block of code."""
    lines = []
    for paragraph in text.split("\n\n"):
        whole = " ".join(paragraph.split())
        example = whole.removeprefix("Example: ")
        lines += [whole, ""] if example == whole else ["```text", example, "```", ""]
    return lines


def _row(parameter: Any, context: Any) -> str:
    named, told = parameter.get_help_record(context) or (parameter.name, "")
    cells = (str(cell).replace("|", "\\|").replace("<", "&lt;") for cell in (named, " ".join(told.split())))
    name, told = cells
    return f"| <code>{name}</code> | {told} |"


def python_page() -> str:
    """Every public name."""
    import cka_tools

    names = [name for name in cka_tools.__all__ if not name.startswith("__")]
    functions = [name for name in names if name[0].islower()]
    classes = [name for name in names if name not in functions]
    parts = [
        "# Python",
        "Everything is imported from `cka_tools`. Options of the commands are keywords of the same name "
        "(`--max-length` is `max_length`), and belong to [`Settings`](#cka_tools.Settings); a mistake of the caller's "
        "raises `cka_tools.errors.UserError` with one line. The package is typed.",
        "## Functions",
        *(f"::: cka_tools.{name}" for name in functions),
        "## Classes",
        *(f"::: cka_tools.{name}" for name in classes),
    ]
    return "\n\n".join(parts) + "\n"


def run_notebook(name: str) -> dict[str, str | bytes]:
    """Run a notebook and give its page and pictures.

    Raises:
        PluginError: a cell fails.
    """
    import nbformat
    from nbconvert import MarkdownExporter
    from nbconvert.preprocessors import CellExecutionError, ExecutePreprocessor

    place = REPOSITORY / "docs" / "notebooks"
    notebook = nbformat.read(place / f"{name}.ipynb", as_version=4)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    # One thread: other steps may run beside it. No notebook touches the cache of who builds the site.
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    try:
        with tempfile.TemporaryDirectory() as cache:
            os.environ["CKA_TOOLS_CACHE"] = cache
            runs = ExecutePreprocessor(timeout=SECONDS, kernel_name="python3")
            runs.preprocess(notebook, {"metadata": {"path": str(place)}})
    except CellExecutionError as error:
        raise PluginError(f"{name}.ipynb: {error}") from error
    text, resources = MarkdownExporter().from_notebook_node(notebook, {"unique_key": name})
    note = f"\n*This page is `docs/notebooks/{name}.ipynb`, run when the site was built.*\n"
    # Tables of pandas bring a style sheet that the theme's own does better.
    text = re.sub(r"<style scoped>.*?</style>", "", text, flags=re.DOTALL)
    return {f"{name}.md": text + note, **resources["outputs"]}


class _Requests(HTMLParser):
    """Addresses elsewhere that a browser fetches by itself; links that a reader follows are not."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        fetched = given.get("src") if tag != "link" else given.get("href")
        if tag == "link" and given.get("rel") in ("canonical", "prev", "next", "alternate"):
            return
        if fetched and re.match(r"(https?:)?//", fetched):
            self.found.append(fetched)


def requests_elsewhere(html: str) -> list[str]:
    """Addresses elsewhere that a page makes a browser fetch."""
    parser = _Requests()
    parser.feed(html)
    return parser.found + re.findall(r"url\(\s*['\"]?((?:https?:)?//[^)'\"]+)", html)


def on_post_build(config: Any) -> None:
    """Refuse a site that fetches anything from elsewhere."""
    for file in sorted(Path(config["site_dir"]).rglob("*")):
        if file.suffix in (".html", ".css") and (found := requests_elsewhere(file.read_text(encoding="utf-8"))):
            raise PluginError(f"{file.name} would fetch {found[0]}: keep what it needs beside it")


if str(REPOSITORY) not in sys.path:  # the clone that is documented, not one that is installed
    sys.path.insert(0, str(REPOSITORY))
