"""A Hugging Face hub on loopback: as much of its HTTP interface as its own client asks for, over a folder.

python hub.py FOLDER      prints its address and serves FOLDER/datasets/OWNER/NAME until it is ended
"""

from __future__ import annotations

import http.server
import json
import re
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
API = re.compile(r"/api/(datasets/[\w-]+/[\w-]+)(?:/(revision|tree|paths-info)/[\w-]+(?:/(.*))?)?$")
FILE = re.compile(r"/(datasets/[\w-]+/[\w-]+)/resolve/[\w-]+/(.*)$")


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers about one folder."""

    protocol_version = "HTTP/1.1"
    root = Path()

    def do_GET(self) -> None:
        """Facts as JSON, and files, of which a range may be asked for."""
        path = unquote(urlsplit(self.path).path)
        if found := API.match(path):
            home, what, below = self.root / found[1], found[2], found[3] or ""
            if home.is_dir():
                return self._facts(home, what, below, "recursive=true" in self.path.lower())
        elif (found := FILE.match(path)) and (file := self.root / found[1] / found[2]).is_file():
            return self._file(file.read_bytes())
        self._send(404, b"{}", {"X-Error-Code": "EntryNotFound" if FILE.match(path) else "RepoNotFound"})

    do_HEAD = do_POST = do_GET

    def _facts(self, home: Path, what: str | None, below: str, deep: bool) -> None:
        if what == "tree":
            paths = (home / below).rglob("*") if deep else (home / below).glob("*")
        elif what == "paths-info":
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["paths"]
            paths = [home / name for name in asked if (home / name).exists()]
        else:
            self._send(200, json.dumps({"id": home.name, "sha": COMMIT, "siblings": []}).encode())
            return
        entries = [self._entry(home, path) for path in sorted(paths)]
        self._send(200, json.dumps(entries).encode())

    def _entry(self, home: Path, path: Path) -> dict[str, object]:
        name = path.relative_to(home).as_posix()
        if path.is_dir():
            return {"type": "directory", "path": name, "oid": COMMIT, "size": 0}
        return {"type": "file", "path": name, "oid": COMMIT, "size": path.stat().st_size}

    def _file(self, data: bytes) -> None:
        more = {"ETag": f'"{COMMIT}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(wanted[1]), int(wanted[2] or len(data) - 1)
            more["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            self._send(206, data[first : last + 1], more)
        else:
            self._send(200, data, more)

    def _send(self, status: int, body: bytes, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **(more or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *given: object) -> None:
        """Nothing."""


if __name__ == "__main__":
    Hub.root = Path(sys.argv[1])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
