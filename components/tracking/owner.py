"""Tags of a run that name the process behind it, by which another process finds out whether it still runs."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from components.artifacts import process

GONE_S = 120.0
"""Age of a heartbeat at which a run of another host counts as abandoned."""


def owner_tags() -> dict[str, str]:
    """Host, process id and start time of this process, and the first heartbeat."""
    me = process.current()
    return {
        "vim.host": socket.gethostname(),
        "vim.pid": str(me.pid),
        "vim.pid_started": me.started,
        **heartbeat_tag(),
    }


def heartbeat_tag() -> dict[str, str]:
    """The heartbeat: now, in seconds since 1970."""
    return {"vim.beat": str(int(time.time()))}


def is_owner_gone(tags: Mapping[str, str]) -> bool:
    """True if the process behind a run has ended: looked up on this host, by heartbeat on another one."""
    if tags.get("vim.host") != socket.gethostname():
        return time.time() - float(tags.get("vim.beat", "0")) > GONE_S
    try:
        pid = int(tags.get("vim.pid", "-1"))
    except ValueError:
        return True
    return not process.ProcessId(pid, tags.get("vim.pid_started", "")).alive


def commit_tag() -> dict[str, str]:
    """The git commit of the code where it runs from a checkout."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return {}
    command = ["git", "-C", os.fspath(here), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"mlflow.source.git.commit": done.stdout.strip()}
