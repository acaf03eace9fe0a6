"""`vimctl infra compose`: what it writes is what lies in infra/compose, mounts are there, nothing secret is written."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.cli import main as cli
from pipelines.deploying import gateway
from pipelines.deploying.deployment import Deployment
from pipelines.jobs.profile import Cluster, KubernetesPlace
from tests.support.common import REPOSITORY
from tests.support.deployed import certificate, htpasswd

SHIPPED = REPOSITORY / "infra" / "compose"
PLACE = KubernetesPlace(image="vim:1", project="my-project", bucket="my-bucket", domain="vim.example.org")
DEPLOYMENT = Deployment(Cluster("k", "kubernetes", kubernetes=PLACE), "digits")
Output = pytest.CaptureFixture[str]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    assert cli.main(["infra", "compose", "--out", str(tmp_path / "c")]) == 0
    return tmp_path / "c"


def services(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((folder / "compose.yaml").read_text())
    return found


def test_the_shipped_files_are_up_to_date(written: Path) -> None:
    shipped = {path.name for path in SHIPPED.iterdir() if path.is_file()}
    assert {path.name for path in written.iterdir()} == shipped
    for path in written.iterdir():
        assert path.read_text() == (SHIPPED / path.name).read_text(), "run `vimctl infra compose --out infra/compose`"


def test_what_is_mounted_or_referred_to_is_there(written: Path) -> None:
    tree = services(written)
    for name, service in tree["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (written / source).is_file() if source.startswith("./") else source in tree["volumes"], volume
        assert set(service.get("secrets", [])) <= set(tree["secrets"]), name
        assert set(service.get("depends_on", {})) <= set(tree["services"]), name


def test_only_nginx_is_reachable_and_only_from_this_machine(written: Path) -> None:
    tree = services(written)
    assert [name for name, service in tree["services"].items() if "ports" in service] == ["nginx"]
    assert all(port.startswith("${VIM_BIND:-127.0.0.1}:") for port in tree["services"]["nginx"]["ports"])


def test_no_password_is_written_and_none_is_in_the_environment(written: Path) -> None:
    for service in services(written)["services"].values():
        for name, value in service.get("environment", {}).items():
            assert "PASSWORD" not in name or value.startswith("/run/secrets/")
    assert all(entry["file"].startswith("./secrets/") for entry in services(written)["secrets"].values())


def test_the_shell_in_a_container_reads_the_password_and_becomes_the_server(written: Path, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("pa ss$word")
    _, _, words = services(written)["services"]["mlflow"]["entrypoint"]
    # What compose makes of $$, and a place where the secret can lie here.
    words = words.replace("$$", "$").replace("/run/secrets/postgres-password", str(tmp_path / "password"))
    words = re.sub(r"exec python.*", 'exec printf %s "$PGPASSWORD"', words)
    said = subprocess.run(["sh", "-c", words], capture_output=True, text=True, check=True)
    assert said.stdout == "pa ss$word"


def test_another_domain_and_port_go_through_everything(tmp_path: Path) -> None:
    assert cli.main(["infra", "compose", "--out", str(tmp_path), "--domain", "vim.example.org", "--port", "443"]) == 0
    text = (tmp_path / "nginx.conf").read_text()
    assert "server_name mlflow.vim.example.org;" in text
    assert "return 301 https://$host$request_uri;" in text
    env = services(tmp_path)["services"]["mlflow"]["environment"]
    assert env["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] == "https://mlflow.vim.example.org"


@pytest.mark.parametrize("words", [["--domain", "a b"], ["--domain", "x;}"], ["--preset", "a b"], ["--port", "0"]])
def test_wrong_values_are_refused(tmp_path: Path, capsys: Output, words: list[str]) -> None:
    assert cli.main(["infra", "compose", "--out", str(tmp_path / "c"), *words]) == 2
    assert words[0] in capsys.readouterr().err.replace("kubernetes.", "--")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("kind", ["compose", "kubernetes"])
def test_nginx_takes_every_configuration(written: Path, tmp_path: Path, kind: str) -> None:
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    if not Path(program).exists():
        pytest.skip("nginx is not installed (Debian: apt-get install nginx-light)")
    text = (written / "nginx.conf").read_text() if kind == "compose" else gateway.configuration(DEPLOYMENT)
    assert "resolver " in text
    made = certificate(tmp_path, "mlflow.localhost")
    for setting, value in {
        "ssl_certificate": made.certificate,
        "ssl_certificate_key": made.key,
        "auth_basic_user_file": htpasswd(tmp_path / "htpasswd", "ann", "x"),
        "access_log": tmp_path / "log",
        "pid": tmp_path / "pid",
        # Its name is known only inside the cluster.
        "resolver": "127.0.0.1",
    }.items():
        text = re.sub(rf"(?m)^(\s*{setting}) [^;]*;", rf"\1 {value};", text)
    (tmp_path / "nginx.conf").write_text(re.sub(r" /tmp/(?=\w+;)", f" {tmp_path}/", text))
    words = [program, "-t", "-c", str(tmp_path / "nginx.conf"), "-e", "stderr"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
