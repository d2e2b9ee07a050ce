"""A Hub on this machine: what huggingface_hub asks for to list and fetch a dataset, with the ways in which networks fail."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

REPO = "jo/pets"
LARGE = (".parquet", ".tar", ".gz", ".zip", ".bin")  # what the Hub keeps as LFS
COMMIT = "a" * 40


@dataclass
class Hub:
    """Repositories in memory."""

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commits: dict[str, str] = field(default_factory=dict)  # of a repository, when it is not COMMIT
    gated: set[str] = field(default_factory=set)
    card: dict[str, Any] = field(default_factory=dict)
    hold: dict[str, int] = field(default_factory=dict)  # file -> bytes after which nothing comes until `go`
    go: threading.Event = field(default_factory=threading.Event)
    cut: dict[str, int] = field(default_factory=dict)  # file -> bytes after which the connection ends, once
    wrong: dict[str, int] = field(default_factory=dict)  # file -> how often another content is sent
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # (file, Range) of each transfer
    endpoint: str = ""


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def send(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def answer(self, content: object) -> None:
            self.send(200, json.dumps(content).encode(), Content_Type="application/json")

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            repo = "/".join(path.removeprefix("/api").removeprefix("/datasets/").split("/")[:2])
            if repo not in hub.repos:
                return self.send(404, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
            if repo in hub.gated and self.headers["Authorization"] != "Bearer hf_good":
                return self.send(403, X_Error_Code="GatedRepo", X_Error_Message="Access is restricted")
            commit, files = hub.commits.get(repo, COMMIT), hub.repos[repo]
            if re.fullmatch(rf"/api/datasets/{repo}(/revision/[^/]+)?", path):
                about = {"id": repo, "sha": commit, "siblings": [], "tags": [], "gated": repo in hub.gated, "private": False}
                return self.answer(about | {"cardData": hub.card, "disabled": False, "downloads": 0, "likes": 0})
            if path.startswith(f"/api/datasets/{repo}/tree/"):
                return self.answer([_entry(name, content) for name, content in files.items()])
            name = path.removeprefix(f"/datasets/{repo}/resolve/").partition("/")[2]
            if name not in files:
                return self.send(404, X_Error_Code="EntryNotFound")
            self.transfer(name, files[name], commit)

        def transfer(self, name: str, content: bytes, commit: str) -> None:
            asked = self.headers["Range"]
            if self.command == "GET":
                hub.asked.append((name, asked))
            if hub.wrong.get(name, 0) > 0:
                hub.wrong[name] -= 1
                content = bytes(byte ^ 1 for byte in content)
            first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", asked).groups() if asked else ("0", "")
            start, end = int(first), int(last) + 1 if last else len(content)
            body = content[start:end]
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(len(body)))
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{len(content)}")
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", commit)
            self.end_headers()
            if self.command == "HEAD":
                return
            most = hub.cut.pop(name, None)
            for at in range(0, len(body), 65536):
                if most is not None and at >= most:
                    self.close_connection = True
                    self.connection.close()
                    return
                if at >= hub.hold.get(name, len(body)):
                    hub.go.wait(600)
                try:
                    self.wfile.write(body[at : at + 65536])
                except OSError:  # whoever asked was killed
                    return

    return Handler


def _entry(name: str, content: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": blob}
    if name.endswith(LARGE):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return entry
