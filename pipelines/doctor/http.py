"""HTTP requests to servers that may be unreachable."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from vim_core.errors import ConfigError

TIMEOUT_S = 5.0
MAX_BYTES = 8 * 2**20


class NoAnswer(Exception):
    """The server did not answer; the text is the reason."""


@dataclass(frozen=True)
class Response:
    """Status and text."""

    status: int
    text: str

    def json(self) -> Any:
        """The text as JSON, None where it is none."""
        try:
            return json.loads(self.text)
        except ValueError:
            return None


def request(
    base: str, path: str = "", headers: dict[str, str] | None = None, body: Any = None, method: str = "",
    timeout: float = TIMEOUT_S,
) -> Response:  # fmt: skip
    """The response of a server, whatever its status.

    Raises:
        NoAnswer: nothing listens there, the name is unknown, or it takes longer than `timeout` seconds.
        ConfigError: `base` is not an http or https address.
    """
    if urlsplit(base).scheme not in ("http", "https") or not urlsplit(base).hostname:
        raise ConfigError(f"{base!r} is not an address like http://host:port")
    data = None if body is None else json.dumps(body).encode()
    all_headers = {"Content-Type": "application/json", **(headers or {})}
    method = method or ("POST" if data else "GET")
    sent = urllib.request.Request(base.rstrip("/") + path, data, all_headers, method=method)
    try:
        with urllib.request.urlopen(sent, timeout=timeout) as response:
            return Response(response.status, response.read(MAX_BYTES).decode(errors="replace"))
    except urllib.error.HTTPError as error:
        return Response(error.code, error.read(MAX_BYTES).decode(errors="replace"))
    except urllib.error.URLError as error:
        raise NoAnswer(str(getattr(error.reason, "strerror", None) or error.reason)) from error
    except (OSError, ValueError) as error:
        raise NoAnswer(str(error) or type(error).__name__) from error
