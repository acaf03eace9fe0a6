"""Google Cloud Storage emulated in memory on a port of this machine, and a proxy in front of it that fails on demand.

Both are threads of this process; other processes reach them by their addresses.
"""

from __future__ import annotations

import contextlib
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

from tests.support.common import PRIVATE, free_port

Handle = Callable[..., None]


@contextlib.contextmanager
def emulated_gcs(bucket: str) -> Iterator[str]:
    """gcp-storage-emulator with what it lacks of the real service where VIM relies on it; gives its address.

    Added are the precondition that an object must not exist yet (`ifGenerationMatch=0`), cancelling an upload, and the
    bucket `PRIVATE` that wants a login. It answers one request at a time, so looking and writing are one act.
    """
    port = free_port()
    original, server.HANDLERS = server.HANDLERS, tuple(_complete(*route) for route in server.HANDLERS)
    try:
        with server.create_server("127.0.0.1", port, in_memory=True, default_bucket=bucket):
            yield f"http://127.0.0.1:{port}"
    finally:
        server.HANDLERS = original


def _complete(pattern: str, methods: dict[str, Handle]) -> tuple[str, dict[str, Handle]]:
    """A route of the emulator with the additions."""
    if methods.get(server.POST) is objects.insert:
        methods = {**methods, server.POST: _insert_new, server.DELETE: _cancel_upload}
    return pattern, {method: _with_login(handle) for method, handle in methods.items()}


def _insert_new(request: Any, response: Any, storage: Any, *rest: Any) -> None:
    """Store an object; 412 for one that exists under the precondition that it must not."""
    if request.query.get("ifGenerationMatch") == ["0"] and "upload_id" not in request.query:
        described = request.query.get("name") or [(request.data.get("meta") or request.data)["name"]]
        with contextlib.suppress(NotFound):
            storage.get_file_obj(request.params["bucket_name"], str(described[0]))
            response.status = HTTPStatus.PRECONDITION_FAILED
            return
    objects.insert(request, response, storage, *rest)


def _cancel_upload(request: Any, response: Any, storage: Any, *_: Any) -> None:
    storage.delete_resumable_file_obj(request.query["upload_id"][0])
    response.status = HTTPStatus.NO_CONTENT


def _with_login(handle: Handle) -> Handle:
    """The handler for all buckets except `PRIVATE`, which refuses: nobody logs in here."""

    def check(request: Any, response: Any, storage: Any, *rest: Any) -> None:
        if (request.params or {}).get("bucket_name") != PRIVATE:
            return handle(request, response, storage, *rest)
        response.status = HTTPStatus.UNAUTHORIZED
        message = "Anonymous caller does not have storage.objects.get access to the Google Cloud Storage object."
        response.json({"error": {"code": 401, "message": message}})

    return check


@dataclass
class Fault:
    """The next `times` requests of this method whose address or body holds `match` are answered with `status`.

    after: the store does the work first, so that only the answer is lost; else the request does not reach it.
    retry_after: seconds, sent along unless 0.
    """

    status: int
    method: str = "POST"
    match: str = ""
    times: int = 1
    after: bool = False
    retry_after: int = 0


class FailingStore(ThreadingHTTPServer):
    """A proxy in front of the store at `target`; `seen` has the requests since `fail` as `METHOD address -> status`."""

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _ProxyHandler)
        self.target = target
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.faults: list[Fault] = []
        self.seen: list[str] = []
        self.lock = threading.Lock()

    def fail(self, *faults: Fault) -> None:
        """Set the next faults and clear the record of requests."""
        with self.lock:
            self.faults = list(faults)
            self.seen = []

    def left(self) -> int:
        """The number of faults that did not happen."""
        return sum(fault.times for fault in self.faults)

    def next_fault(self, method: str, text: str) -> Fault | None:
        """The fault that this request meets, one fewer of it left."""
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.method == method and fault.match in text:
                    fault.times -= 1
                    return fault
        return None


@contextlib.contextmanager
def failing(store: str) -> Iterator[FailingStore]:
    """A proxy in front of an object store that fails on demand."""
    with FailingStore(store) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()


class _ProxyHandler(BaseHTTPRequestHandler):
    """Forwards a request, or answers it with an error."""

    protocol_version = "HTTP/1.1"
    server: FailingStore
    connection_headers = frozenset({"host", "connection", "content-length", "transfer-encoding", "accept-encoding"})

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.next_fault(self.command, unquote(self.path) + body[:4096].decode(errors="replace"))
        if fault is None or fault.after:
            status, headers, answer = self._forward(body)
        if fault is not None:
            status, headers = fault.status, [("Content-Type", "application/json")]
            headers += [("Retry-After", str(fault.retry_after))] if fault.retry_after else []
            answer = json.dumps({"error": {"code": status, "message": "made up for a test"}}).encode()
        with self.server.lock:
            self.server.seen.append(f"{self.command} {unquote(self.path)} -> {status}")
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value.replace(self.server.target, f"http://{self.headers['Host']}"))
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _handle

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """The store's own status, headers and body."""
        request = urllib.request.Request(
            self.server.target + self.path, body or None, dict(self._kept(self.headers)), method=self.command
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, self._kept(response.headers), response.read()
        except urllib.error.HTTPError as error:
            return error.code, self._kept(error.headers), error.read()

    def _kept(self, headers: Any) -> list[tuple[str, str]]:
        """Headers that do not belong to one connection alone."""
        return [(name, value) for name, value in headers.items() if name.lower() not in self.connection_headers]

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: `seen` has the requests."""
