"""A server on 127.0.0.1 that speaks as much of the hub's protocol as a download needs."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """What the server holds, how it misbehaves, and what it was asked.

    Attributes:
        files: ``owner/name/file`` -> content.
        announced: ``owner/name/file`` -> sha256 to announce in place of the true one.
        refusals: ``owner/name`` -> (status, X-Error-Code) answered for everything in that repository.
        explanation: X-Error-Message of every refusal.
        drop_after: how many bytes of a body are sent before the connection is cut, once for each number.
        requests: (method, path, Range header) of every request.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    announced: dict[str, str] = field(default_factory=dict)
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)
    explanation: str = ""
    drop_after: list[int] = field(default_factory=list)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)

    def __enter__(self) -> FakeHub:
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def gets(self) -> list[str | None]:
        """The Range header of each download, in order."""
        return [asked for method, _, asked in self.requests if method == "GET"]


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        asked = self.headers.get("Range")
        self.hub.requests.append((self.command, self.path, asked))
        repo, _, rest = self.path.lstrip("/").partition("/resolve/")
        key = f"{repo}/{rest.partition('/')[2]}"
        if repo in self.hub.refusals:
            self._refuse(*self.hub.refusals[repo])
        elif key not in self.hub.files:
            known = any(name.startswith(f"{repo}/") for name in self.hub.files)
            self._refuse(404, "EntryNotFound" if known else "RepoNotFound")
        else:
            self._send(key, self.hub.files[key], asked, body=body)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", self.hub.explanation)
        if code == "EntryNotFound":  # the hub's library notes in the cache of which commit that is so
            self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, key: str, content: bytes, asked: str | None, *, body: bool) -> None:
        sha256 = self.hub.announced.get(key, hashlib.sha256(content).hexdigest())
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{sha256}"')
        self.send_header("X-Linked-ETag", f'"{sha256}"')
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if not body:
            return
        rest = content[start:]
        if self.hub.drop_after:
            self.wfile.write(rest[: self.hub.drop_after.pop(0)])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(rest)
