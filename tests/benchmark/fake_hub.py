"""The part of the Hugging Face hub's HTTP interface that uploads need, with files in memory."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class FakeHub:
    """Repositories by their address in the API, as `datasets/owner/name` or `models/owner/name`."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.commits: list[dict[str, Any]] = []
        self.downloaded: list[str] = []
        """Files that were asked for."""
        self.refuses = False
        """Answer as to somebody who may not write."""
        self.url = ""

    def head(self, repository: str) -> str:
        """The latest commit, named by the content."""
        files = sorted(self.repositories[repository].items())
        return hashlib.sha1(repr(files).encode()).hexdigest()

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        address = unquote(urlsplit(path).path).lstrip("/")
        if "/resolve/" in address:
            return self._file(address)
        if self.refuses:
            return 403, {"x-error-message": "You may not write here."}, b"{}"
        status, document = self._api(method, address.removeprefix("api/"), body)
        headers = {"x-error-code": "RepoNotFound"} if status == 404 else {}
        return status, headers, json.dumps(document).encode()

    def _file(self, address: str) -> tuple[int, dict[str, str], bytes]:
        name, _, rest = address.partition("/resolve/")
        repository = name if name.startswith("datasets/") else f"models/{name}"
        path = rest.partition("/")[2]
        self.downloaded.append(path)
        content = self.repositories.get(repository, {}).get(path)
        if content is None:
            return 404, {"x-error-code": "EntryNotFound"}, b""
        etag = hashlib.sha1(content).hexdigest()
        return 200, {"etag": f'"{etag}"', "x-repo-commit": self.head(repository)}, content

    def _api(self, method: str, address: str, body: bytes) -> tuple[int, Any]:
        if address == "repos/create":
            wanted = json.loads(body)
            repository = f"{wanted['type']}s/{wanted['organization']}/{wanted['name']}"
            url = {"url": f"{self.url}/{repository}"}
            if repository in self.repositories:
                return 409, url
            self.repositories[repository] = {}
            # Which of the two depends on the version of huggingface_hub.
            private = wanted.get("private", False) or wanted.get("visibility") == "private"
            self.private[repository] = private
            return 200, url
        if address == "validate-yaml":
            return 200, {"errors": [], "warnings": []}
        *_, action = parts = address.split("/", 3)
        repository = "/".join(parts[:3])
        if repository not in self.repositories:
            return 404, {}
        return 200, self._repository(repository, action.split("/") if parts[3:] else [], body)

    def _repository(self, repository: str, action: list[str], body: bytes) -> Any:
        files = self.repositories[repository]
        match action:
            case [] | ["revision", _]:
                return {"id": repository.split("/", 1)[1], "sha": self.head(repository)}
            case ["tree", *_]:
                return [self._entry(path, content) for path, content in files.items()]
            case ["paths-info", _]:
                wanted = parse_qs(body.decode())["paths"]
                return [self._entry(path, files[path]) for path in wanted if path in files]
            case ["preupload", _]:
                wanted = json.loads(body)["files"]
                return {
                    "files": [
                        {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for file in wanted
                    ]
                }
            case ["commit", _]:
                lines = [json.loads(line) for line in body.splitlines()]
                for line in lines[1:]:
                    assert line["key"] == "file", line
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                self.commits.append(lines[0]["value"])
                head = self.head(repository)
                return {"commitUrl": f"{self.url}/{repository}/commit/{head}", "commitOid": head}
        raise AssertionError(f"the fake hub has no {action}")

    @staticmethod
    def _entry(path: str, content: bytes) -> dict[str, Any]:
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return {"type": "file", "path": path, "size": len(content), "oid": oid}

    @contextmanager
    def serve(self) -> Iterator[str]:
        """The hub over HTTP, at the address that is yielded."""
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self._body()
                status, headers, content = fake.answer(self.command, self.path, body)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_POST = do_HEAD = do_GET  # noqa: N815

            def _body(self) -> bytes:
                if self.headers.get("transfer-encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("content-length", 0)))
                chunks = b""
                while size := int(self.rfile.readline(), 16):
                    chunks += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return chunks

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            self.url = f"http://127.0.0.1:{server.server_port}"
            yield self.url
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
