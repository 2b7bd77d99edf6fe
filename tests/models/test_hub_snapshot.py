"""Hub ids, against a stand-in for the hub on the loopback interface."""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote

import pytest

from cka_tools.errors import UserError
from cka_tools.models import load_model
from cka_tools.models.snapshot import files_wanted

COMMIT = "c" * 40
CONVERTED = "d" * 40
"""Adds safetensors to COMMIT of `lab/pickled`, which has none."""

TITLE = "Adding `safetensors` variant of this model"


class StandIn(BaseHTTPRequestHandler):
    """Answers as the hub does for one repository, `lab/tiny`; `lab/gated` is gated; nothing else exists."""

    folder: ClassVar[Path]
    extra: ClassVar[list[str]] = ["pytorch_model.bin", "onnx/model.onnx", "README.md"]
    asked: ClassVar[list[str]] = []
    author: ClassVar[str] = "SFconvertbot"
    parent: ClassVar[str] = COMMIT

    def log_message(self, *arguments: Any) -> None: ...

    def do_GET(self) -> None:
        self.answer(body=True)

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def answer(self, *, body: bool) -> None:
        path = self.path.split("?")[0]
        self.asked.append(path)
        if path.startswith(("/api/models/lab/pickled", "/lab/pickled")):
            return self.answer_pickled(unquote(path), body)
        if path.startswith("/api/models/lab/gated"):
            return self.send(403, b"{}", body, {"X-Error-Code": "GatedRepo"})
        if path in {"/api/models/lab/tiny", *(f"/api/models/lab/tiny/revision/{r}" for r in ("main", "v1", COMMIT))}:
            names = [file.name for file in self.folder.iterdir()] + self.extra
            info = {"id": "lab/tiny", "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            return self.send(200, json.dumps(info).encode(), body)
        if path.startswith(f"/api/models/lab/tiny/tree/{COMMIT}"):
            tree = [
                {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0" * 40}
                for f in self.folder.iterdir()
            ]
            return self.send(200, json.dumps(tree).encode(), body)
        if path.startswith("/api/models/lab/tiny/"):
            return self.send(404, b"{}", body, {"X-Error-Code": "RevisionNotFound"})
        if path.startswith(f"/lab/tiny/resolve/{COMMIT}/"):
            content = (self.folder / path.rsplit("/", 1)[1]).read_bytes()
            digest = hashlib.sha1(content).hexdigest()
            return self.send(200, content, body, {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT})
        return self.send(404, b"{}", body, {"X-Error-Code": "RepoNotFound"})

    def answer_pickled(self, path: str, body: bool) -> None:
        """`lab/pickled` holds safetensors in a pull request alone."""
        if path.startswith("/lab/pickled/resolve/"):
            commit, name = path.removeprefix("/lab/pickled/resolve/").split("/")
            content = b"pickle" if name.endswith(".bin") else (self.folder / name).read_bytes()
            digest = hashlib.sha1(content).hexdigest()
            return self.send(200, content, body, {"ETag": f'"{digest}"', "X-Repo-Commit": commit})
        kind, _, of = path.removeprefix("/api/models/lab/pickled").strip("/").partition("/")
        if kind == "discussions":
            one = {"title": TITLE, "num": 3, "author": {"name": self.author}, "isPullRequest": True, "status": "open"}
            found = [one | {"createdAt": "2024-01-01T00:00:00.000Z", "repo": {"name": "lab/pickled", "type": "model"}}]
            return self.send(200, json.dumps({"discussions": found, "count": 1, "start": 0}).encode(), body)
        if kind == "commits":
            common = {"title": "", "message": "", "date": "2024-01-01T00:00:00.000Z", "authors": []}
            commits = [{"id": one} | common for one in (CONVERTED, self.parent)]
            return self.send(200, json.dumps(commits).encode(), body)
        commit = CONVERTED if "pr/3" in of or CONVERTED in of else COMMIT
        names = [file.name for file in self.folder.iterdir()]
        if commit == COMMIT:
            names = [name for name in names if name != "model.safetensors"] + ["pytorch_model.bin"]
        if kind == "tree":
            tree = [{"type": "file", "path": name, "size": 6, "oid": "0" * 40} for name in names]
            return self.send(200, json.dumps(tree).encode(), body)
        info = {"id": "lab/pickled", "sha": commit, "siblings": [{"rfilename": name} for name in names]}
        return self.send(200, json.dumps(info).encode(), body)

    def send(self, status: int, content: bytes, body: bool, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def hub(tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    StandIn.folder = tiny_model("modernbert")
    StandIn.asked, StandIn.author, StandIn.parent = [], "SFconvertbot", COMMIT
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    yield
    server.shutdown()
    server.server_close()


def refusal(spec: str) -> str:
    with pytest.raises(UserError) as caught:
        load_model(spec, device="cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.usefixtures("hub")
def test_a_hub_model_records_its_commit_and_downloads_no_pickle() -> None:
    loaded = load_model("lab/tiny@v1", device="cpu")
    assert loaded.name == "lab/tiny@v1"
    assert loaded.provenance["revision"] == COMMIT
    assert len(loaded.blocks) == 6
    assert not [path for path in StandIn.asked if path.endswith((".bin", ".onnx", ".md"))]


@pytest.mark.usefixtures("hub")
def test_without_a_connection_the_cached_copy_is_used_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    load_model(f"lab/tiny@{COMMIT}", device="cpu")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    loaded = load_model(f"lab/tiny@{COMMIT}", device="cpu")
    assert loaded.provenance["revision"] == COMMIT
    assert "could not be reached" in loaded.notes[0]


@pytest.mark.usefixtures("hub")
def test_what_the_hub_does_not_have_is_named() -> None:
    assert "neither a directory here nor on the hub" in refusal("lab/other")
    assert "no revision 'v9'" in refusal("lab/tiny@v9")
    assert "gated" in refusal("lab/gated")


@pytest.mark.usefixtures("hub")
def test_of_pickles_alone_the_hubs_conversion_is_read() -> None:
    loaded = load_model("lab/pickled", device="cpu")
    assert loaded.provenance["revision"] == CONVERTED
    assert "conversion" in loaded.notes[0]
    assert "refs/pr/3" in loaded.notes[0]
    assert not [path for path in StandIn.asked if path.endswith(".bin")]


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(("author", "parent"), [("somebody", COMMIT), ("SFconvertbot", "e" * 40)])
def test_a_conversion_by_others_or_of_another_commit_is_not_read(author: str, parent: str) -> None:
    StandIn.author, StandIn.parent = author, parent
    assert "only pickled weights" in refusal("lab/pickled")
    with pytest.raises(UserError, match="cannot be loaded"):  # the stand-in's file is no pickle
        load_model("lab/pickled", device="cpu", allow_bin=True)
    assert [path for path in StandIn.asked if path.endswith(".bin")]


def test_an_unreachable_hub_is_said_at_once_with_offline_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    message = refusal("lab/never-seen")
    assert time.monotonic() - start < 10
    assert "cannot be reached" in message
    assert "local directory" in message


def test_only_needed_files_are_wanted_and_pickles_alone_are_refused() -> None:
    names = ["config.json", "model.safetensors", "model-00001-of-00002.safetensors", "a/x.json", "m.bin", "code.py"]
    assert files_wanted("m", names, python=False) == ["config.json", "model.safetensors"]
    assert "code.py" in files_wanted("m", names, python=True)
    with pytest.raises(UserError, match="safetensors"):
        files_wanted("m", ["config.json", "pytorch_model.bin"], python=False)
