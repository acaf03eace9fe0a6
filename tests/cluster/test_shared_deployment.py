"""The shared deployment with real servers: Postgres behind MLflow and Dagster, backup and restore, nginx in front."""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import re
import socket
import ssl
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import deployed
from tests.support.common import REPOSITORY, answers, free_port, running
from tests.support.kubernetes_objects import KUBERNETES, environment, nginx_files, read_base

pytestmark = pytest.mark.cluster

SCRIPTS = REPOSITORY / "infra" / "postgres"
DATABASES = ("mlflow", "dagster")
USER, PASSWORD = "ann", "pass of Ann"
DOMAIN = "example.test"
SITE = f"mlflow.{DOMAIN}"


@pytest.fixture(scope="module")
def database() -> Iterator[deployed.Postgres]:
    with deployed.postgres() as server:
        server.fresh(*DATABASES)
        yield server


@contextlib.contextmanager
def mlflow_server(database: deployed.Postgres, folder: Path, port: int) -> Iterator[str]:
    """MLflow as it is deployed, but on loopback and with one worker."""
    (server,) = read_base("mlflow.yaml")["spec"]["template"]["spec"]["containers"]
    variables = environment(server, {"VIM_DOMAIN": DOMAIN})
    options = dict(word.split("=", 1) for word in server["command"] if word.startswith("--"))
    options |= {
        "--host": "127.0.0.1",
        "--port": str(port),
        "--workers": "1",
        "--backend-store-uri": options["--backend-store-uri"].replace("postgres:5432", f"127.0.0.1:{database.port}"),
        "--artifacts-destination": str(folder / "artifacts"),
    }
    words = [sys.executable, "-m", "mlflow", "server", *(f"{name}={value}" for name, value in options.items())]
    address = f"http://127.0.0.1:{port}"
    variables["MLFLOW_SERVER_ALLOWED_HOSTS"] += f",127.0.0.1:{port}"
    variables["PGPASSWORD"] = database.environment["PGPASSWORD"]
    with running(words, folder / "mlflow", **variables) as process:
        process.wait_for(lambda: answers(f"{address}/health"), 240)
        yield address


@contextlib.contextmanager
def dagster_instance(database: deployed.Postgres, home: Path) -> Iterator[Any]:
    """Dagster's history with the deployed dagster.yaml."""
    from dagster import DagsterInstance

    home.mkdir(exist_ok=True)
    text = (KUBERNETES / "base" / "config" / "dagster.yaml").read_text()
    text = text.replace("hostname: postgres", "hostname: 127.0.0.1").replace("port: 5432", f"port: {database.port}")
    (home / "dagster.yaml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIM_POSTGRES_PASSWORD", database.environment["PGPASSWORD"])
        with DagsterInstance.from_config(str(home)) as instance:
            yield instance


@pytest.fixture(params=["folder", "gs"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where backups go."""
    if request.param == "folder":
        return str(tmp_path / "backups")
    return f"{request.getfixturevalue('gcs')}/backups/postgres"


def script(database: deployed.Postgres, name: str, *words: str, check: bool = True) -> Any:
    """One of the scripts of infra/postgres, with this environment's Python."""
    made = deployed.Postgres(
        database.port, {**database.environment, "PYTHON": sys.executable, "PYTHONPATH": str(REPOSITORY)}
    )
    return made.run("bash", str(SCRIPTS / name), *words, check=check)


@dataclass(frozen=True)
class Restored:
    """What was made before the backup, and MLflow's server after the restore."""

    address: str
    mlflow_run: str
    dagster_run: str


@pytest.fixture(scope="module")
def restored(database: deployed.Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Restored]:
    """A run in MLflow and one in Dagster; both databases backed up, dropped and restored."""
    import dagster
    from mlflow import MlflowClient

    @dagster.op
    def two() -> int:
        return 2

    @dagster.job
    def counting() -> None:
        two()

    folder = tmp_path_factory.mktemp("shared")
    backups, port = str(folder / "backups"), free_port()
    with mlflow_server(database, folder, port) as address:
        client = MlflowClient(address)
        run = client.create_run(client.create_experiment("kept"), tags={"who": "ann"})
        client.log_metric(run.info.run_id, "loss", 0.25, step=3)
        with dagster_instance(database, folder / "home") as instance:
            finished = counting.execute_in_process(instance=instance)
        script(database, "backup.sh", backups, *DATABASES)
    refused = script(database, "restore.sh", f"{backups}/latest", *DATABASES, check=False)
    assert refused.returncode == 3
    assert "the database mlflow is not empty" in refused.stderr
    database.fresh(*DATABASES)
    script(database, "restore.sh", f"{backups}/latest", *DATABASES)
    with mlflow_server(database, folder, port) as address:
        yield Restored(address, run.info.run_id, finished.run_id)


def test_mlflow_has_its_run_again(restored: Restored) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(restored.address)
    found = client.get_run(restored.mlflow_run)
    assert (found.data.tags["who"], found.data.metrics) == ("ann", {"loss": 0.25})
    assert [point.step for point in client.get_metric_history(restored.mlflow_run, "loss")] == [3]


def test_dagster_has_its_run_again(restored: Restored, database: deployed.Postgres, tmp_path: Path) -> None:
    with dagster_instance(database, tmp_path / "home") as instance:
        kept = instance.get_run_by_id(restored.dagster_run)
        assert kept is not None
        assert kept.is_success
        events = instance.all_logs(restored.dagster_run)
        assert any(event.is_dagster_event and event.get_dagster_event().is_step_success for event in events)


def test_backups_go_anywhere_and_are_whole(database: deployed.Postgres, target: str, tmp_path: Path) -> None:
    databases = ("first", "second")
    database.fresh(*databases)
    for name in databases:
        database.run("psql", "--dbname", name, "--command", f"CREATE TABLE t AS SELECT '{name}' AS v")
    for _ in range(2):
        script(database, "backup.sh", target, *databases)
        database.run("psql", "--dbname", "first", "--command", "UPDATE t SET v = v || '!'")
    database.fresh(*databases)
    database.run("psql", "--dbname", "second", "--command", "CREATE TABLE mine (v int)")
    assert script(database, "restore.sh", f"{target}/latest", *databases, check=False).returncode == 3
    left = database.run("psql", "--dbname", "first", "--tuples-only", "--command", "\\dt").stdout
    assert left.strip() == "", "one filled database stops the whole restore"
    database.fresh("second")
    script(database, "restore.sh", f"{target}/latest", *databases)
    for name, value in (("first", "first!"), ("second", "second")):
        said = database.run("psql", "--dbname", name, "--tuples-only", "--no-align", "--command", "SELECT v FROM t")
        assert said.stdout.strip() == value


def test_a_failed_backup_changes_nothing(database: deployed.Postgres, tmp_path: Path) -> None:
    database.fresh("first")
    script(database, "backup.sh", str(tmp_path / "b"), "first")
    before = sorted(path.name for path in (tmp_path / "b").iterdir())
    failed = script(database, "backup.sh", str(tmp_path / "b"), "first", "nowhere", check=False)
    assert failed.returncode != 0
    assert "nowhere" in failed.stderr
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == before


@dataclass(frozen=True)
class Gateway:
    """nginx on loopback, with the certificate that its clients trust."""

    http_port: int
    https_port: int
    tls: ssl.SSLContext

    def configuration(self, folder: Path, mlflow: str) -> str:
        """The deployed nginx.conf, with other ports, files in `folder`, and MLflow at this address."""
        (server,) = read_base("gateway.yaml")["spec"]["template"]["spec"]["containers"]
        variables = environment(server, {"VIM_DOMAIN": DOMAIN})
        files = {"VIM_SECRETS": str(folder), "VIM_RESOLVER": "127.0.0.1"}
        text = nginx_files({**variables, **files})["nginx.conf"]
        text = text.replace("listen 8080", f"listen 127.0.0.1:{self.http_port}")
        text = text.replace("listen 8443", f"listen 127.0.0.1:{self.https_port}")
        text, count = re.subn(r"proxy_pass http://mlflow[^;]*;", f"proxy_pass {mlflow};", text)
        assert count == 1
        return re.sub(r" /(tmp|dev)/(?=[\w*.]+;)", f" {folder}/", text)

    def list_experiments(self, password: str | None, site: str = SITE) -> tuple[int, bytes]:
        """Status and body of MLflow's list of experiments, requested by the site's name."""
        login = base64.b64encode(f"{USER}:{password}".encode()).decode()
        headers = {"Host": site, **({"Authorization": f"Basic {login}"} if password is not None else {})}
        connection = http.client.HTTPSConnection(site, self.https_port, context=self.tls, timeout=30)
        raw = socket.create_connection(("127.0.0.1", self.https_port), timeout=30)
        connection.sock = self.tls.wrap_socket(raw, server_hostname=site)
        with contextlib.closing(connection):
            connection.request("GET", "/api/2.0/mlflow/experiments/search?max_results=5", headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()


def test_nginx_lets_in_who_knows_the_password_and_nobody_else(restored: Restored, tmp_path: Path) -> None:
    folder = tmp_path / "gate"
    folder.mkdir()
    certificate = deployed.certificate(folder, SITE)
    deployed.htpasswd(folder / "htpasswd", USER, PASSWORD)
    gateway = Gateway(free_port(), free_port(), ssl.create_default_context(cafile=str(certificate)))
    if os.geteuid() == 0:
        # nginx' workers give up root, and have to reach the file with the passwords.
        for path in [folder, *folder.parents]:
            if path.stat().st_uid == 0 and "pytest" in str(path):
                path.chmod(path.stat().st_mode | 0o011)
        (folder / "htpasswd").chmod(0o644)
    with deployed.nginx(gateway.configuration(folder, restored.address), folder, gateway.https_port):
        assert gateway.list_experiments(None)[0] == 401
        assert gateway.list_experiments("wrong")[0] == 401
        status, body = gateway.list_experiments(PASSWORD)
        assert (status, b'"experiments"' in body) == (200, True)
        plain = http.client.HTTPConnection("127.0.0.1", gateway.http_port, timeout=30)
        plain.request("GET", "/api/2.0/x?y=1", headers={"Host": SITE})
        answer = plain.getresponse()
        assert (answer.status, answer.headers["Location"]) == (301, f"https://{SITE}/api/2.0/x?y=1")
        with pytest.raises(ssl.SSLError):
            gateway.list_experiments(PASSWORD, "other.example.test")
    assert PASSWORD not in (folder / "stdout").read_text()
