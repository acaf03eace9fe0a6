"""Variables that engines and their clients need: exceptions from proxies, a user's name and home."""

from __future__ import annotations

import getpass
import os
import tempfile
from pathlib import Path

HOSTS = ("localhost", "127.0.0.1", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def prepare() -> None:
    """Complete the variables of this process, and so of all that it starts."""
    bypass_proxies()
    name_user()


def name_user() -> None:
    """Give a name and a home to a user without, as in containers with a number for a user: libraries ask for both."""
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        os.environ["USER"] = f"uid-{os.getuid()}"
    try:
        Path.home()
    except RuntimeError:
        home = Path(tempfile.gettempdir(), f"vim-{os.getuid()}")
        home.mkdir(mode=0o700, exist_ok=True)
        os.environ["HOME"] = str(home)


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
