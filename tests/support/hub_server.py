"""A Hugging Face Hub on this machine: the endpoints that huggingface_hub needs to look up, read and write models."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Commit(NamedTuple):
    sha: str
    files: dict[str, bytes]
    message: str


class Hub:
    """Repositories in memory, served on 127.0.0.1.

    `cut[path] = n` ends the connection after n bytes of that file, each time it is asked for from its start;
    `broken` is a set of paths whose requests are refused.
    """

    def __init__(self):
        self.repos: dict[str, list[Commit]] = {}
        self.private: dict[str, Any] = {}
        self.requests: list[str] = []
        self.cut: dict[str, int] = {}
        self.broken: set[str] = set()
        self.large: dict[str, bytes] = {}
        self.token: str | None = None
        hub = self

        class Handler(_Handler):
            def __init__(self, *args):
                self.hub = hub
                super().__init__(*args)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def commit(self, repo: str, files: dict[str, bytes], message: str = "files") -> Commit:
        commits = self.repos.setdefault(repo, [])
        sha = hashlib.sha1(f"{repo} {len(commits)}".encode()).hexdigest()
        commits.append(Commit(sha, {**(commits[-1].files if commits else {}), **files}, message))
        return commits[-1]

    def find(self, repo: str, revision: str) -> Commit | None:
        commits = self.repos[repo]
        if revision == "main":
            return commits[-1] if commits else None
        return next((c for c in commits if c.sha == revision), None)

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.hub.requests.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/([^/]+)", path):
            commit = self.look_up(found[1], found[3])
            if commit is not None and found[2] == "revision":
                names = [{"rfilename": name} for name in commit.files]
                self.answer({"id": found[1], "sha": commit.sha, "private": False, "siblings": names, "tags": []})
            elif commit is not None:
                self.answer([_listed(name, data) for name, data in commit.files.items()])
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            commit = self.look_up(found[1], found[2])
            if commit is not None:
                self.file(commit, found[3])
        else:
            self.refuse(404, "", f"no such page {path}")

    do_HEAD = do_GET

    def do_POST(self):
        self.hub.requests.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.hub.token is not None and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self.refuse(401, "", "Invalid credentials")
        path = self.path.partition("?")[0]
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            wanted = json.loads(body)["objects"]
            objects = [{**o, "actions": {"upload": {"href": f"{self.hub.url}/large/{o['oid']}"}}} for o in wanted]
            return self.answer({"transfer": "basic", "objects": objects})
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path)
        if found is None:
            return self.refuse(404, "", f"no such page {path}")
        if found[2] == "preupload":
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [(name, "lfs" if name.endswith(".safetensors") else "regular") for name in names]
            return self.answer({"files": [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in modes]})
        return self.take(found[1], [json.loads(line) for line in body.splitlines()])

    def do_PUT(self):
        self.hub.requests.append(f"{self.command} {self.path}")
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b"".join(iter(self.chunk, b""))
        else:
            data = self.rfile.read(int(self.headers["Content-Length"]))
        oid = self.path.rpartition("/")[2]
        if hashlib.sha256(data).hexdigest() != oid:
            return self.refuse(400, "", "the data is not what was announced")
        self.hub.large[oid] = data
        return self.answer({})

    def chunk(self) -> bytes:
        size = int(self.rfile.readline(), 16)
        data = self.rfile.read(size)
        self.rfile.readline()
        return data

    def create(self, wanted):
        repo = f"{wanted['organization']}/{wanted['name']}"
        if repo in self.hub.repos:
            return self.answer({"error": "You already created this repo", "url": f"{self.hub.url}/{repo}"}, 409)
        self.hub.repos[repo] = []
        self.hub.private[repo] = wanted.get("private", wanted.get("visibility"))
        return self.answer({"url": f"{self.hub.url}/{repo}", "name": repo})

    def take(self, repo, lines):
        if repo not in self.hub.repos:
            return self.refuse(404, "RepoNotFound", "Repository not found")
        files, message = {}, ""
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
        commit = self.hub.commit(repo, files, message)
        url = f"{self.hub.url}/{repo}/commit/{commit.sha}"
        return self.answer({"success": True, "commitOid": commit.sha, "commitUrl": url})

    def look_up(self, repo, revision) -> Commit | None:
        if repo not in self.hub.repos:
            self.refuse(404, "RepoNotFound", "Repository not found")
            return None
        commit = self.hub.find(repo, revision)
        if commit is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def file(self, commit: Commit, name: str):
        if name not in commit.files:
            return self.refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit.sha})
        data, start = commit.files[name], 0
        if name in self.hub.broken:
            return self.refuse(403, "", "out of order")
        headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{_oid(data)}"', "Accept-Ranges": "bytes"}
        if found := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(found[1])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self.send_response(206 if start else 200)
        self.send(headers, len(data) - start)
        if self.command == "HEAD":
            return None
        if not start and name in self.hub.cut:
            self.wfile.write(data[: self.hub.cut[name]])
            self.close_connection = True
            return None
        self.wfile.write(data[start:])
        return None

    def answer(self, content, status=200):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send({"Content-Type": "application/json"}, len(body))
        self.wfile.write(body)

    def refuse(self, status, code, message, headers=()):
        body = json.dumps({"error": message}).encode()
        self.send_response(status)
        self.send(
            {"Content-Type": "application/json", "X-Error-Message": message, **dict(headers)}
            | ({"X-Error-Code": code} if code else {}),
            len(body),
        )
        if self.command != "HEAD":
            self.wfile.write(body)

    def send(self, headers, length):
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()


def _oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _listed(name: str, data: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(data), "oid": _oid(data)}
