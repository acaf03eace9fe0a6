"""Proxy in front of an object store that fails on demand: `python -m tests.support.gcs_proxy PORT TARGET`.

It forwards every request to the store at TARGET, or answers it with an error, or with an error although the store did
the work. What to fail is posted to `/_faults` as a JSON list of `Fault`s; `/_seen` tells what was asked since then.
"""

from __future__ import annotations

import json
import sys
import threading
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

HOP = {"host", "connection", "content-length", "transfer-encoding", "accept-encoding"}
"""Headers of one connection, which are not passed on."""


@dataclass
class Fault:
    """The next `times` requests of this method whose address or body holds `match` are answered with `status`.

    after: the store does the work first, so the answer is what gets lost; else the store never hears of the request.
    retry_after: in seconds, sent along where it is not 0.
    """

    status: int
    method: str = "POST"
    match: str = ""
    times: int = 1
    after: bool = False
    retry_after: int = 0


@dataclass
class Book:
    """The faults to come and the requests so far, as `METHOD address -> status`."""

    faults: list[Fault] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def due(self, method: str, text: str) -> Fault | None:
        """The fault that this request meets, one fewer of it left."""
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.method == method and fault.match in text:
                    fault.times -= 1
                    return fault
        return None


@dataclass
class Answer:
    """What goes back to the client."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


def refusal(status: int, message: str, retry_after: int = 0) -> Answer:
    """An error as Google Cloud Storage words it."""
    body = json.dumps({"error": {"code": status, "message": message}}).encode()
    extra = [("Retry-After", str(retry_after))] if retry_after else []
    return Answer(status, [("Content-Type", "application/json"), *extra], body)


class Proxy(ThreadingHTTPServer):
    """The server; `target` is the address of the store, without a slash at its end."""

    daemon_threads = True

    def __init__(self, port: int, target: str) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.target = target
        self.book = Book()

    def ask(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """Pass a request on."""
        request = urllib.request.Request(self.target + path, body or None, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as found:
                return Answer(found.status, _passed_on(found.headers), found.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, _passed_on(error.headers), error.read())


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: Proxy

    def handle_any(self) -> None:
        """Control, a fault, or the store's own answer."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.startswith("/_"):
            self._control(body)
            return
        book = self.server.book
        text = unquote(self.path) + body[:4096].decode(errors="replace")
        fault = book.due(self.command, text)
        if fault is None or fault.after:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
            answer = self.server.ask(self.command, self.path, headers, body)
        if fault is not None:
            answer = refusal(fault.status, "made up for a test", fault.retry_after)
        with book.lock:
            book.seen.append(f"{self.command} {unquote(self.path)} -> {answer.status}")
        self._send(answer)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = handle_any

    def _control(self, body: bytes) -> None:
        book = self.server.book
        with book.lock:
            if self.path == "/_faults":
                book.faults = [Fault(**each) for each in json.loads(body)]
                book.seen.clear()
            said: list[Any] = book.seen if self.path == "/_seen" else [asdict(fault) for fault in book.faults]
            self._send(Answer(200, [("Content-Type", "application/json")], json.dumps(said).encode()))

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value.replace(self.server.target, f"http://{self.headers['Host']}"))
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: `/_seen` knows."""


def _passed_on(headers: Any) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers.items() if name.lower() not in HOP]


if __name__ == "__main__":
    Proxy(int(sys.argv[1]), sys.argv[2]).serve_forever()
