"""`vimctl infra render`: every object fits its schema, nothing secret is in it, empty values are refused by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.cli import main as cli
from pipelines.deploying.rendering import PIECES
from tests.support.validating import validate

PROFILE = """\
kind: kubernetes
components:
  quantize: {device: xla, topology: 2x2x4, workers: 8}
  probe: {device: xla, topology: 2x2x1, workers: 1}
kubernetes:
  image: us-docker.pkg.dev/p/vim/cpu:1
  server_image: us-docker.pkg.dev/p/vim/server:1
  project: my-project
  bucket: my-bucket
  domain: vim.example.org
  google_service_account: vim-runs
"""
Output = pytest.CaptureFixture[str]


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(PROFILE)
    return path


@pytest.fixture
def rendered(profile: Path, tmp_path: Path) -> Path:
    assert cli.main(["infra", "render", "--cluster", str(profile), "--out", str(tmp_path / "out")]) == 0
    return tmp_path / "out"


def objects(folder: Path) -> list[dict[str, Any]]:
    return [each for path in sorted(folder.rglob("*.yaml")) for each in yaml.safe_load_all(path.read_text())]


def one(folder: Path, kind: str, name: str) -> dict[str, Any]:
    (found,) = [each for each in objects(folder) if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def test_every_object_fits_its_schema_and_is_there_once(rendered: Path) -> None:
    found = objects(rendered)
    for each in found:
        validate(each)
    names = [(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in found]
    assert len(set(names)) == len(names)
    assert {each["metadata"].get("namespace", "vim") for each in found} == {"vim"}


def test_every_piece_is_a_file_with_a_header_and_the_same_each_time(
    rendered: Path, profile: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    assert cli.main(["infra", "render", "--cluster", str(profile), "--out", str(again)]) == 0
    for piece in PIECES.values():
        text = (rendered / piece.file).read_text()
        assert text.startswith(f"# {piece.about}\n")
        assert text == (again / piece.file).read_text()
    assert len(list(rendered.rglob("*.yaml"))) == len(PIECES)


def test_only_some_pieces_can_be_written(profile: Path, tmp_path: Path, capsys: Output) -> None:
    out = tmp_path / "some"
    assert (
        cli.main(["infra", "render", "--cluster", str(profile), "--out", str(out), "--only", "mlflow", "queues"]) == 0
    )
    assert sorted(path.name for path in out.iterdir()) == ["25-queues.yaml", "40-mlflow.yaml"]
    assert cli.main(["infra", "render", "--cluster", str(profile), "--out", str(out), "--only", "mflow"]) == 2
    assert "known are namespace" in capsys.readouterr().err


def test_secrets_are_referred_to_and_never_written(rendered: Path) -> None:
    assert [each for each in objects(rendered) if each["kind"] == "Secret"] == []
    for path in rendered.rglob("*.yaml"):
        for name, value in re.findall(r"- name: (\S*PASSWORD\S*)\n\s+(\w+):", path.read_text()):
            assert value == "valueFrom", f"{path.name}: {name}"


def test_servers_have_no_privileges_and_images_are_pinned(rendered: Path) -> None:
    pods = [each["spec"]["template"]["spec"] for each in objects(rendered) if "template" in each.get("spec", {})]
    assert len(pods) == 7
    for pod in pods:
        assert pod["securityContext"]["runAsUser"] > 0
        for container in pod["containers"]:
            assert container["securityContext"]["runAsNonRoot"]
            assert not container["securityContext"]["allowPrivilegeEscalation"]
            assert re.search(r":\d[\w.-]*$", container["image"]), container["image"]


def test_jobs_and_servers_act_as_the_google_account(rendered: Path) -> None:
    for name in ("vim", "vim-servers"):
        found = one(rendered, "ServiceAccount", name)["metadata"]["annotations"]
        assert found == {"iam.gke.io/gcp-service-account": "vim-runs@my-project.iam.gserviceaccount.com"}


def test_the_queue_counts_whole_slices(rendered: Path) -> None:
    (group,) = one(rendered, "ClusterQueue", "vim")["spec"]["resourceGroups"]
    quotas = {
        flavor["name"]: {each["name"]: each["nominalQuota"] for each in flavor["resources"]}
        for flavor in group["flavors"]
    }
    # Two slices of 4 hosts for quantize, one host for probe.
    assert quotas["vim-v4-2x2x4"] == {"cpu": "1600", "memory": "2880Gi", "google.com/tpu": "32"}
    assert quotas["vim-v4-2x2x1"] == {"cpu": "200", "memory": "360Gi", "google.com/tpu": "4"}
    assert quotas["vim-cpu"]["google.com/tpu"] == "0"
    for flavor in group["flavors"]:
        assert [each["name"] for each in flavor["resources"]] == group["coveredResources"]
        one(rendered, "ResourceFlavor", flavor["name"])


def test_nothing_is_open_that_is_not_listed(rendered: Path) -> None:
    policies = {each["metadata"]["name"]: each["spec"] for each in objects(rendered) if each["kind"] == "NetworkPolicy"}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    roles = {each["metadata"]["labels"].get("vim/role") for each in objects(rendered)} - {None}
    for role in roles - {"gateway", "dagster-daemon", "backup"}:
        assert f"to-{role}" in policies, f"nobody may call {role}"
    (callers,) = policies["to-postgres"]["ingress"]
    chosen = callers["from"][0]["podSelector"]["matchExpressions"][0]["values"]
    assert "ray" not in chosen
    assert "gateway" not in chosen


def test_mlflow_answers_to_the_names_it_has(rendered: Path) -> None:
    (container,) = one(rendered, "Deployment", "mlflow")["spec"]["template"]["spec"]["containers"]
    env = {each["name"]: each.get("value") for each in container["env"]}
    hosts = str(env["MLFLOW_SERVER_ALLOWED_HOSTS"]).split(",")
    assert "mlflow.vim.example.org" in hosts
    assert "mlflow.vim.svc.cluster.local:5000" in hosts
    assert "postgresql+psycopg2://vim@postgres:5432/mlflow" in container["command"]


def test_dagster_takes_its_configuration(rendered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dagster._core.instance.config import dagster_instance_config

    data = one(rendered, "ConfigMap", "dagster")["data"]
    (tmp_path / "dagster.yaml").write_text(data["dagster.yaml"])
    config, _ = dagster_instance_config(str(tmp_path))
    assert config["storage"]["postgres"]["postgres_db"]["password"] == {"env": "VIM_POSTGRES_PASSWORD"}
    assert yaml.safe_load(data["workspace.yaml"])["load_from"][0]["grpc_server"]["host"] == "dagster-code"


@pytest.mark.parametrize("name", ["image", "project", "bucket", "domain"])
def test_an_empty_value_is_refused_by_name(profile: Path, tmp_path: Path, capsys: Output, name: str) -> None:
    profile.write_text(re.sub(rf"^  {name}: .*\n", "", PROFILE, flags=re.MULTILINE))
    assert cli.main(["infra", "render", "--cluster", str(profile), "--out", str(tmp_path / "out")]) == 2
    assert f"kubernetes.{name} (" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("domain: vim.example.org", 'domain: "x; } evil {"'),
        ("bucket: my-bucket", 'bucket: "b\\nc"'),
        ("image: us-docker", "image: ../us-docker"),
        ("google_service_account: vim-runs", "google_service_account: a b"),
    ],
)
def test_values_cannot_say_something_else(profile: Path, tmp_path: Path, capsys: Output, old: str, new: str) -> None:
    profile.write_text(PROFILE.replace(old, new))
    assert cli.main(["infra", "render", "--cluster", str(profile), "--out", str(tmp_path / "out")]) == 2
    assert "not of the form" in capsys.readouterr().err


def test_other_clusters_and_folders_are_refused(tmp_path: Path, profile: Path, capsys: Output) -> None:
    assert cli.main(["infra", "render", "--cluster", "ray", "--out", str(tmp_path)]) == 2
    assert "kind='jobs'" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert cli.main(["infra", "render", "--cluster", str(profile), "--out", str(tmp_path / "file")]) == 1
    assert "--out" in capsys.readouterr().err
