"""A stand-in of the Hub on loopback: what huggingface_hub calls to make a repository and to commit files to it.

Repositories are in memory. Weights go as the Hub has them go without its own storage (`HF_HUB_DISABLE_XET`): to the
address that the batch call of Git LFS names. Left out: branches, pages of results, large files in parts, xet.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

WRITER, READER = "hf_writer", "hf_reader"
"""Tokens: one that may write, one that may not. Any other is none."""
LARGE = ".safetensors"


@dataclass
class Repository:
    visibility: str
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    """Messages."""


@dataclass
class Hub:
    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    """What was sent to the storage of large files, by its sha256."""
    storage_is_full: bool = False

    def created(self, body: bytes) -> tuple[int, Any]:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.repositories:
            return 409, {"error": "You already created this model repo", "url": f"{self.address}/{name}"}
        self.repositories[name] = Repository(asked.get("visibility", "public"))
        return 200, {"url": f"{self.address}/{name}"}

    def tree(self, name: str) -> list[dict[str, Any]]:
        files = self.repositories[name].files
        return [
            {"type": "file", "path": path, "size": len(data), "oid": oid(path, data)} for path, data in files.items()
        ]

    def modes(self, name: str, body: bytes) -> dict[str, Any]:
        """How each file is to be sent, and what is there under its name."""
        there = {one["path"]: one["oid"] for one in self.tree(name)}
        names = [one["path"] for one in json.loads(body)["files"]]
        return {
            "files": [
                {"path": path, "uploadMode": mode(path), "shouldIgnore": False, "oid": there.get(path)}
                for path in names
            ]
        }

    def batch(self, body: bytes) -> dict[str, Any]:
        """Where to send what is not there yet."""
        asked = [(one["oid"], one["size"]) for one in json.loads(body)["objects"]]
        actions = {sha: {"actions": {"upload": {"href": f"{self.address}/storage/{sha}"}}} for sha, _ in asked}
        return {
            "transfer": "basic",
            "objects": [
                {"oid": sha, "size": size} | ({} if sha in self.stored else actions[sha]) for sha, size in asked
            ],
        }

    def committed(self, name: str, body: bytes) -> dict[str, Any]:
        repository, entries = self.repositories[name], [json.loads(line) for line in body.splitlines()]
        for kind, value in ((one["key"], one["value"]) for one in entries):
            if kind == "header":
                repository.commits.append(value["summary"])
            elif kind == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif kind == "lfsFile":
                repository.files[value["path"]] = self.stored[value["oid"]]
            else:
                del repository.files[value["path"]]
        return {"commitUrl": f"{self.address}/{name}/commit/{self.head(name)}", "commitOid": self.head(name)}

    def head(self, name: str) -> str:
        return f"{len(self.repositories[name].commits):040x}"


def mode(path: str) -> str:
    return "lfs" if path.endswith(LARGE) else "regular"


def oid(path: str, data: bytes) -> str:
    """What names a file's content: git's hash of it, or of a large one the sha256."""
    if mode(path) == "lfs":
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


class Request(BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:
        self.allowed() and self.answer(*self.got(self.name()))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.allowed() and self.answer(*self.posted(urlsplit(self.path).path, body))

    def do_PUT(self) -> None:
        """To the storage, whose addresses are signed: no token."""
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.hub.storage_is_full:
            return self.answer(403, {"error": "Private repository storage limit reached"})
        self.hub.stored[hashlib.sha256(data).hexdigest()] = data
        return self.answer(200, {})

    def got(self, name: str) -> tuple[int, Any]:
        if name not in self.hub.repositories:
            return 404, {"error": "Repository not found"}
        return 200, self.hub.tree(name) if "/tree/" in self.path else {"id": name, "sha": self.hub.head(name)}

    def posted(self, path: str, body: bytes) -> tuple[int, Any]:
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            return self.hub.created(body)
        if path.endswith("/info/lfs/objects/batch"):
            return 200, self.hub.batch(body)
        if "/preupload/" in path:
            return 200, self.hub.modes(self.name(), body)
        return 200, self.hub.committed(self.name(), body)

    def name(self) -> str:
        """OWNER/NAME of an address such as /api/models/OWNER/NAME/tree/main."""
        return "/".join(self.path.split("/")[3:5])

    def allowed(self) -> bool:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in (WRITER, READER):
            self.answer(401, {"error": "Invalid username or password."})
        elif token == READER:
            self.answer(403, {"error": 'You don\'t have the rights to create a model under the namespace "me"'})
        return token == WRITER

    def answer(self, code: int, data: Any) -> None:
        sent = json.dumps(data).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(sent)))
        if code >= 400:
            self.send_header("X-Error-Message", data["error"])
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()
    handler = type("Own", (Request,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield hub
        server.shutdown()
        thread.join()
