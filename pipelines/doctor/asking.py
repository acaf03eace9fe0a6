"""Questions to servers over HTTP, with what their silence means."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from vim_core.errors import ConfigError

TIMEOUT_S = 5.0
MOST_BYTES = 8 * 2**20


class Silent(Exception):
    """Nobody answered; the text says how that showed."""


@dataclass(frozen=True)
class Answer:
    """Status and text of an answer."""

    status: int
    text: str

    def json(self) -> Any:
        """The text as JSON, None where it is none."""
        try:
            return json.loads(self.text)
        except ValueError:
            return None


def ask(
    base: str, path: str = "", headers: dict[str, str] | None = None, body: Any = None, method: str = "",
    timeout: float = TIMEOUT_S,
) -> Answer:  # fmt: skip
    """Ask a server; any status is an answer.

    Raises:
        Silent: nothing listens there, the name is unknown, or it takes longer than `timeout` seconds.
        ConfigError: the address is none of HTTP.
    """
    if urlsplit(base).scheme not in ("http", "https") or not urlsplit(base).hostname:
        raise ConfigError(f"{base!r} is no address of the form http://host:port")
    data = None if body is None else json.dumps(body).encode()
    sent = {"Content-Type": "application/json", **(headers or {})}
    request = urllib.request.Request(base.rstrip("/") + path, data, sent, method=method or ("POST" if data else "GET"))
    try:
        with urllib.request.urlopen(request, timeout=timeout) as found:
            return Answer(found.status, found.read(MOST_BYTES).decode(errors="replace"))
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.read(MOST_BYTES).decode(errors="replace"))
    except urllib.error.URLError as error:
        raise Silent(str(getattr(error.reason, "strerror", None) or error.reason)) from error
    except (OSError, ValueError) as error:
        raise Silent(str(error) or type(error).__name__) from error
