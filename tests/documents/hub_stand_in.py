"""A dataset hub on the loopback interface: serves folders as dataset repositories, run as a script.

    python hub_stand_in.py ROOT COMMAND…

ROOT/org/name/… are the repositories; ROOT/gated.txt lists gated ones. COMMAND runs with `HF_ENDPOINT` set:
the hub's library reads it once, on import. Requests are written to ROOT/requests.log.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """The calls that `huggingface_hub` and `datasets` make in order to stream a dataset."""

    root: Path
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.answer()

    def answer(self) -> None:
        """Find the repository and the call."""
        url = urlsplit(self.path)
        path, self.query = unquote(url.path), parse_qs(url.query)
        with (self.root / "requests.log").open("a") as log:
            log.write(f"{self.command} {self.path} {self.headers.get('Range', '')}\n")
        if match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/(.*))?", path):
            name, call = match[1], match[2] or ""
        elif match := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.*)", path):
            name, call = match[1], f"resolve/{match[3]}"
        else:
            return self.fail(404, "NotFound")
        if name == "org/broken":
            return self.fail(503, "Unavailable")
        folder = self.root / name
        if not folder.is_dir():
            return self.fail(401 if not call else 404, "RepoNotFound")
        gated = self.root / "gated.txt"
        if gated.exists() and name in gated.read_text().split() and call.startswith("resolve/"):
            return self.fail(403, "GatedRepo")
        if name == "org/refused":
            return self.fail(403, "")
        if call.startswith("resolve/") and name == "org/failing" and "Range" in self.headers:
            return self.fail(503, "Unavailable")
        if call.startswith("resolve/"):
            return self.send_file(folder / call.removeprefix("resolve/"))
        if call.startswith("tree/"):
            under = call.split("/", 2)[2] if call.count("/") > 1 else ""
            if not (folder / under).is_dir():
                return self.fail(404, "EntryNotFound")
            return self.send_json(self.tree(folder, under))
        if call.startswith("paths-info/"):
            is_json = self.body.startswith(b"{")
            fields = json.loads(self.body) if is_json else parse_qs(self.body.decode())
            return self.send_json(
                [self.entry(folder, folder / one) for one in fields["paths"] if (folder / one).exists()]
            )
        if call == "" or call.startswith("revision/"):
            files = sorted(file for file in folder.rglob("*") if file.is_file())
            siblings = [{"rfilename": str(file.relative_to(folder)), "size": file.stat().st_size} for file in files]
            return self.send_json(
                {"_id": "1", "id": name, "sha": COMMIT, "private": False, "gated": False, "tags": [],
                 "downloads": 0, "likes": 0, "siblings": siblings}
            )  # fmt: skip
        return self.fail(404, "NotFound")

    def tree(self, folder: Path, under: str) -> list[dict[str, object]]:
        """What `/tree/` lists, one level or all."""
        deep = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        top = folder / under
        return [self.entry(folder, path) for path in sorted(top.rglob("*") if deep else top.iterdir())]

    def entry(self, folder: Path, path: Path) -> dict[str, object]:
        """One file or folder of a listing."""
        name = str(path.relative_to(folder))
        oid = hashlib.sha1(name.encode()).hexdigest()
        if path.is_dir():
            return {"type": "directory", "oid": oid, "size": 0, "path": name}
        return {"type": "file", "oid": oid, "size": path.stat().st_size, "path": name}

    def send_file(self, path: Path) -> None:
        """A file of a repository, whole or the range asked for."""
        if not path.is_file():
            return self.fail(404, "EntryNotFound")
        content = path.read_bytes()
        size, status, extra = len(content), 200, {}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            begin, end = int(asked[1]), min(int(asked[2] or size - 1), size - 1)
            status, content = 206, content[begin : end + 1]
            extra = {"Content-Range": f"bytes {begin}-{end}/{size}"}
        self.send(status, content, {"ETag": f'"{hashlib.sha1(str(path).encode()).hexdigest()}"', **extra})

    def send_json(self, value: object) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def fail(self, status: int, code: str) -> None:
        self.send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code} if code else {})

    def send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        """Send an answer; for HEAD only its headers."""
        self.send_response(status)
        for name, value in {"X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def main() -> int:
    """Serve ROOT while COMMAND runs; its exit status."""
    root, command = Path(sys.argv[1]), sys.argv[2:]
    Hub.root = root
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    unset = ("HF_", "HUGGING", "TRANSFORMERS_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(unset)}
    environment |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(root / "hf_home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    return subprocess.run(command, env=environment, check=False, timeout=120).returncode


if __name__ == "__main__":
    sys.exit(main())
