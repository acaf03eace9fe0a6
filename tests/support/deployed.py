"""Real servers of a shared deployment for tests: Postgres as a user of its own, nginx, throwaway certificates."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.common import free_port

PASSWORD = "s3cret-of-the-test"
USER = "vim"


def programs() -> Path:
    """Where Postgres' programs lie (Debian keeps them by version)."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    if programs:
        return programs[-1].parent
    path = shutil.which("initdb")
    assert path is not None, "Postgres is not installed (Debian: apt-get install postgresql)"
    return Path(path).parent


@dataclass(frozen=True)
class Postgres:
    """A server on loopback; `environment` is what its clients read."""

    port: int
    environment: dict[str, str]

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A client program of Postgres, or a script that uses them."""
        done = subprocess.run(
            words, env={**os.environ, **self.environment}, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0 or not check, f"{' '.join(words)}: {done.stdout}{done.stderr}"
        return done

    def fresh(self, *databases: str) -> None:
        """Empty databases, whatever was in them."""
        for name in databases:
            self.run("dropdb", "--if-exists", "--force", name)
            self.run("createdb", name)


@contextlib.contextmanager
def postgres() -> Iterator[Postgres]:
    """A server with a password; as root it runs as `nobody`, because Postgres refuses root."""
    tools, port = programs(), free_port()
    # Not below pytest's folders: those are closed to other users.
    with tempfile.TemporaryDirectory(prefix="vim-pg-") as name:
        folder = Path(name)
        secret, log = folder / "password", folder / "log"
        secret.write_text(PASSWORD)
        # libpq's programs pick the version of Debian's wrapper by themselves otherwise.
        clients = {
            "PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": USER, "PGPASSWORD": PASSWORD,
            "PGDATABASE": "postgres", "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        }  # fmt: skip
        if os.geteuid() == 0:
            for path in (folder, secret):
                shutil.chown(path, "nobody", "nogroup")
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder} -c fsync=off"
        data = str(folder / "data")
        init = [str(tools / "initdb"), "-D", data, "-U", USER, f"--pwfile={secret}", "--auth=scram-sha-256", "-N"]
        start = [str(tools / "pg_ctl"), "-D", data, "-l", str(log), "-o", options, "-w", "-t", "60"]
        _as_nobody([*init, "-E", "UTF8", "--no-locale"])
        _as_nobody([*start, "start"])
        try:
            yield Postgres(port, clients)
        finally:
            _as_nobody([*start, "-m", "immediate", "stop"])


def _as_nobody(words: list[str]) -> None:
    user: Any = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
    # A file, not a pipe: the server inherits it and would keep a pipe open for ever.
    with tempfile.TemporaryFile() as said:
        done = subprocess.run(
            words, cwd="/", stdin=subprocess.DEVNULL, stdout=said, stderr=said, check=False, timeout=120, **user
        )
        said.seek(0)
        assert done.returncode == 0, f"{' '.join(words)}: {said.read().decode(errors='replace')}"


def certificate(folder: Path, name: str) -> Path:
    """A self-signed certificate for this name, tls.crt; its key is tls.key beside it."""
    path = folder / "tls.crt"
    options = [
        "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1", "-subj", f"/CN={name}",
        "-addext", f"subjectAltName=DNS:{name}", "-keyout", str(folder / "tls.key"), "-out", str(path),
    ]  # fmt: skip
    subprocess.run(["openssl", "req", "-x509", *options], check=True, capture_output=True)
    return path


def htpasswd(path: Path, user: str, password: str) -> Path:
    """One user's line, made as infra/README.md says."""
    words = ["openssl", "passwd", "-6", "-stdin"]
    hashed = subprocess.run(words, input=password, check=True, capture_output=True, text=True).stdout.strip()
    path.write_text(f"{user}:{hashed}\n")
    return path


@contextlib.contextmanager
def nginx(configuration: str, folder: Path, port: int) -> Iterator[None]:
    """nginx with this configuration, ready when it listens on `port`."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program is not None, "nginx is not installed (Debian: apt-get install nginx-light)"
    path = folder / "nginx.conf"
    path.write_text(configuration)
    with open(folder / "nginx.log", "wb") as log:
        words = [program, "-c", str(path), "-e", "stderr", "-g", "daemon off;"]
        process = subprocess.Popen(words, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 30
        while not _listens(port):
            said = (folder / "nginx.log").read_text()
            assert process.poll() is None, f"nginx ended: {said}"
            assert time.monotonic() < end, f"nginx does not listen: {said}"
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(20)


def _listens(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
