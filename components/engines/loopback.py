"""Requests to this machine pass by the proxies that the environment names."""

from __future__ import annotations

import os

HOSTS = ("localhost", "127.0.0.1", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def bypass_proxies() -> None:
    """Add this machine's names to `no_proxy`, where a proxy is set: every client and child process reads it."""
    if not any(os.environ.get(spelled) for name in PROXIES for spelled in (name, name.upper())):
        return
    for name in ("no_proxy", "NO_PROXY"):
        # One of both may be set, and clients differ in which they read.
        listed = [os.environ.get(spelled, "") for spelled in (name, name.swapcase())]
        excepted = [entry.strip() for entry in ",".join(listed).split(",") if entry.strip()]
        if "*" not in excepted:
            os.environ[name] = ",".join(dict.fromkeys([*excepted, *HOSTS]))
