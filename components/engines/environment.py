"""Variables that engines and their clients need: exceptions from proxies, a user's name and home."""

from __future__ import annotations

import getpass
import os
import tempfile
from pathlib import Path

from vim_core.errors import VimError

HOSTS = ("localhost", "127.0.0.1", "::1")
TEMP_LENGTH = 35
"""A socket's path has 107 letters at most, of which Ray takes up to 72 below the temporary folder."""
SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
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
        if home.is_symlink() or home.stat().st_uid != os.getuid():  # somebody else's: settings there are not ours
            home = Path(tempfile.mkdtemp(prefix="vim-home-"))
        os.environ["HOME"] = str(home)


def temp() -> str:
    """The temporary folder that Ray would take."""
    return os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or SHORT_FOLDERS[0]


def short_temp() -> str:
    """The temporary folder, or a usual one where the paths of sockets below it would be too long.

    Raises:
        VimError: none of the usual ones can be written.
    """
    for folder in (temp(), *SHORT_FOLDERS):
        if len(os.fsencode(folder)) <= TEMP_LENGTH and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise VimError(
        f"TMPDIR={temp()!r}: is too long for the paths of sockets; set RAY_TMPDIR to a folder of at most {TEMP_LENGTH} "
        "letters"
    )


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
