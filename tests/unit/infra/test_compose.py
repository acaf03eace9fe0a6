"""infra/compose: mounts exist, only nginx is reachable, no password is written, nginx reads its configuration."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.common import REPOSITORY
from tests.support.deployed import certificate, htpasswd
from tests.support.kubernetes_objects import environment, nginx_files, read_base

FOLDER = REPOSITORY / "infra" / "compose"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]


def interpolate(text: str, **variables: str) -> str:
    """`${NAME:-default}` as compose fills it in."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda match: variables.get(match[1], match[2]), text)


def test_what_is_mounted_or_referred_to_is_there() -> None:
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (FOLDER / source).is_file() if source.startswith(".") else source in COMPOSE["volumes"], volume
        assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"]), name
        assert set(service.get("depends_on", {})) <= set(SERVICES), name


def test_only_nginx_is_reachable_and_only_from_this_machine() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["nginx"]
    assert all(interpolate(port).startswith("127.0.0.1:") for port in SERVICES["nginx"]["ports"])


def test_no_password_is_written_and_none_is_in_the_environment() -> None:
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            assert "PASSWORD" not in name or value.startswith("/run/secrets/")
    assert all(entry["file"].startswith("./secrets/") for entry in COMPOSE["secrets"].values())


def test_the_shell_in_a_container_reads_the_password_and_becomes_the_server(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("pa ss$word")
    _, _, words = SERVICES["mlflow"]["entrypoint"]
    # What compose makes of $$, and a place where the secret can lie here.
    words = words.replace("$$", "$").replace("/run/secrets/postgres-password", str(tmp_path / "password"))
    words = re.sub(r"exec python.*", 'exec printf %s "$PGPASSWORD"', words)
    said = subprocess.run(["sh", "-c", words], capture_output=True, text=True, check=True)
    assert said.stdout == "pa ss$word"


def test_servers_are_those_of_kubernetes() -> None:
    for name, (file, kind) in {
        "postgres": ("postgres.yaml", "StatefulSet"),
        "nginx": ("gateway.yaml", "Deployment"),
    }.items():
        (container,) = read_base(file, kind)["spec"]["template"]["spec"]["containers"]
        assert SERVICES[name]["image"] == container["image"]


@pytest.mark.parametrize("kind", ["compose", "kubernetes"])
def test_nginx_reads_the_configuration(tmp_path: Path, kind: str) -> None:
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    if not Path(program).exists():
        pytest.skip("nginx is not installed (Debian: apt-get install nginx-light)")
    if kind == "compose":
        variables = {name: interpolate(value) for name, value in SERVICES["nginx"]["environment"].items()}
        expected = {"mlflow.localhost", "dagster.localhost"}
    else:
        (container,) = read_base("gateway.yaml")["spec"]["template"]["spec"]["containers"]
        variables = environment(container, {"VIM_DOMAIN": "vim.example.org"})
        expected = {f"{name}.vim.example.org" for name in ("mlflow", "dagster", "ray")}
    certificate(tmp_path, "mlflow.localhost")
    htpasswd(tmp_path / "htpasswd", "ann", "x")
    # The name of the resolver is known only inside the cluster.
    files = nginx_files({**variables, "VIM_SECRETS": str(tmp_path), "VIM_RESOLVER": "127.0.0.1"})
    if kind == "compose":
        del files["ray.site"]
    for name, text in files.items():
        (tmp_path / name).write_text(re.sub(r" /(tmp|dev)/(?=[\w*.]+;)", f" {tmp_path}/", text))
    words = [program, "-T", "-c", str(tmp_path / "nginx.conf"), "-e", "stderr"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(re.findall(r"server_name ([^_;]+);", done.stdout)) == expected
