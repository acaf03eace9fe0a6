"""A small Kubernetes API server: RayJobs, config maps, pods and their logs, as far as VIM asks for them.

It keeps objects in memory and plays no operator: tests say through `/_set` what an operator would have written. What
it answers (409 for a name that is there, 404, 401 without the token, log streams in chunks) is the real server's way.
"""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

TOKEN = "t0ken"
KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: here
clusters: [{{name: c, cluster: {{server: {address}}}}}]
users: [{{name: u, user: {{token: {token}}}}}]
contexts: [{{name: here, context: {{cluster: c, user: u}}}}]
"""
RAYJOBS = r"/apis/ray\.io/v1/namespaces/([^/]+)/(rayjobs)(?:/([^/]+))?"
CORE = r"/api/v1/namespaces/([^/]+)/(configmaps|pods)(?:/([^/]+))?(/log)?"


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class World:
    """Objects by kind and name, and log lines by pod."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.logs: dict[str, list[str]] = {}
        self.cut: set[str] = set()
        self.changed = threading.Condition()

    def set(self, order: dict[str, Any]) -> None:
        """`status` of a job, `pod` to put, `log` lines of a pod, `cut` the log connections."""
        with self.changed:
            if "job" in order:
                self.objects["rayjobs", order["job"]]["status"] = order["status"]
            if "pod" in order:
                pod = order["pod"]
                pod["metadata"].setdefault("creationTimestamp", now())
                self.objects["pods", pod["metadata"]["name"]] = pod
            for name, lines in order.get("log", {}).items():
                self.logs.setdefault(name, []).extend(f"{now()} {line}" for line in lines)
            self.cut |= set(order.get("cut", []))
            self.changed.notify_all()


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    world = World()
    namespace = "vim"

    def log_message(self, format: str, *words: Any) -> None:
        pass

    def do_GET(self) -> None:
        address = urlparse(self.path)
        if address.path == "/_ready":
            return self.answer(200, {})
        query = {key: values[0] for key, values in parse_qs(address.query).items()}
        place = self.place(address.path)
        if place is None:
            return None
        kind, name, log = place
        if log:
            return self.stream(name, query)
        if name:
            found = self.world.objects.get((kind, name))
            return self.answer(200, found) if found else self.missing(kind, name)
        chosen = [item for (each, _), item in self.world.objects.items() if each == kind and self.matches(item, query)]
        return self.answer(200, {"kind": "List", "apiVersion": "v1", "metadata": {}, "items": chosen})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/_set":
            self.world.set(body)
            return self.answer(200, {})
        place = self.place(urlparse(self.path).path)
        if place is None:
            return None
        kind, name = place[0], body["metadata"]["name"]
        with self.world.changed:
            if (kind, name) in self.world.objects:
                return self.refuse(409, "AlreadyExists", f'{kind} "{name}" already exists')
            body["metadata"].setdefault("creationTimestamp", now())
            self.world.objects[kind, name] = body
        return self.answer(201, body)

    def do_DELETE(self) -> None:
        if length := int(self.headers.get("Content-Length") or 0):
            self.rfile.read(length)
        place = self.place(urlparse(self.path).path)
        if place is None:
            return None
        kind, name, _ = place
        with self.world.changed:
            if (kind, name) not in self.world.objects:
                return self.missing(kind, name)
            del self.world.objects[kind, name]
            self.world.changed.notify_all()
        return self.answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})

    def place(self, path: str) -> tuple[str, str, bool] | None:
        """Kind, name and whether its log is meant; answers itself where there is no such place or no login."""
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.refuse(401, "Unauthorized", "no token, or a wrong one")
            return None
        found = re.fullmatch(RAYJOBS, path) or re.fullmatch(CORE, path)
        if found is None or found[1] != self.namespace:
            self.refuse(404, "NotFound", "the server could not find the requested resource")
            return None
        return found[2], found[3] or "", bool(found.re.groups > 3 and found[4])

    @staticmethod
    def matches(item: dict[str, Any], query: dict[str, str]) -> bool:
        labels = item["metadata"].get("labels", {})
        for word in filter(None, query.get("labelSelector", "").split(",")):
            key, _, value = word.partition("=")
            if key not in labels or (value and labels[key] != value):
                return False
        return True

    def stream(self, name: str, query: dict[str, str]) -> None:
        """The log so far, and with `follow` what comes until the pod is over or the connection is cut."""
        pod = self.world.objects.get(("pods", name))
        if pod is None:
            return self.missing("pods", name)
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        said = 0
        while True:
            with self.world.changed:
                lines = self.world.logs.get(name, [])[said:]
                ended = self.world.objects.get(("pods", name), {}).get("status", {}).get("phase") != "Running"
                if name in self.world.cut:
                    self.world.cut.remove(name)
                    self.close_connection = True
                    return None
                if not lines and not ended and query.get("follow") == "true":
                    self.world.changed.wait(0.2)
                    continue
            for line in lines:
                self.chunk(f"{line}\n".encode())
            said += len(lines)
            if not lines:
                self.chunk(b"")
                return None

    def chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def missing(self, kind: str, name: str) -> None:
        self.refuse(404, "NotFound", f'{kind} "{name}" not found')

    def refuse(self, status: int, reason: str, message: str) -> None:
        self.answer(status, {"kind": "Status", "status": "Failure", "reason": reason, "message": message})

    def answer(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        while True:
            time.sleep(60)
