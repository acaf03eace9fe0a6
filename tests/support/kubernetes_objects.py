"""Kubernetes objects without a cluster: rendering overlays with kubectl, expanding variables, strict validation."""

from __future__ import annotations

import functools
import gzip
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.common import REPOSITORY

Manifest = dict[str, Any]

KUBERNETES = REPOSITORY / "infra" / "kubernetes"
EXAMPLE = KUBERNETES / "overlays" / "example"
VERSION = "1.33"
KUSTOMIZE = 5
"""The oldest major version of Kustomize that reads these files; kubectl 1.27 and later contain it."""


def render(overlay: Path) -> list[Manifest]:
    """The objects that `kubectl apply -k OVERLAY` would apply."""
    problem = _kubectl_problem()
    if problem:
        assert not os.environ.get("VIM_BROWSER_REQUIRED"), problem
        pytest.skip(problem)
    done = subprocess.run(["kubectl", "kustomize", str(overlay)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def read_base(file: str, kind: str = "Deployment") -> Manifest:
    """One object of a file of the base, as it is written there."""
    objects = yaml.safe_load_all((KUBERNETES / "base" / file).read_text())
    (found,) = [each for each in objects if each["kind"] == kind]
    return dict(found)


def pod_specs(manifest: Manifest) -> list[Manifest]:
    """The specs of all pods that come from an object."""
    spec = manifest.get("spec", {})
    if manifest["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    templates = [spec["template"]] if "template" in spec else pod_templates(manifest)
    return [template["spec"] for template in templates]


def pod_templates(manifest: Manifest) -> list[Manifest]:
    """The pod templates of a RayJob or RayCluster: submitter, head, each group of workers."""
    if manifest["kind"] not in ("RayJob", "RayCluster"):
        return []
    spec = manifest["spec"]
    cluster = spec.get("rayClusterSpec", spec)
    submitter = [spec["submitterPodTemplate"]] if "submitterPodTemplate" in spec else []
    return [
        *submitter, cluster["headGroupSpec"]["template"], *(each["template"] for each in cluster["workerGroupSpecs"])
    ]  # fmt: skip


def environment(container: Manifest, settings: Mapping[str, str], namespace: str = "vim") -> dict[str, str]:
    """A container's variables without those from Secrets, `$(NAME)` expanded as the kubelet does."""
    variables = dict(settings) if "envFrom" in container else {}
    for entry in container.get("env", []):
        if "fieldRef" in entry.get("valueFrom", {}):
            variables[entry["name"]] = namespace
        elif "value" in entry:
            variables[entry["name"]] = expand(entry["value"], variables)
    return variables


def expand(text: str, variables: Mapping[str, str]) -> str:
    """`$(NAME)` replaced where the variable is known."""
    return re.sub(r"\$\((\w+)\)", lambda match: variables.get(match[1], match[0]), text)


def nginx_files(variables: Mapping[str, str]) -> dict[str, str]:
    """The configuration by file name, `${VIM_…}` replaced as the image does; only Kubernetes has `ray.site`."""
    templates = (KUBERNETES / "base" / "config").glob("*.template")
    return {
        path.stem: re.sub(r"\$\{(VIM_\w+)\}", lambda match: variables[match[1]], path.read_text()) for path in templates
    }


def validate(manifest: Manifest, crds: Path) -> None:
    """Raise `jsonschema.ValidationError` where an object has a wrong, unknown or missing field.

    Core kinds by kubernetes-validate; those of KubeRay and Kueue by the schemas of their releases below `crds`, and
    their pod templates and metadata as core kinds too.
    """
    group, _, version = manifest["apiVersion"].rpartition("/")
    if group not in ("ray.io", "kueue.x-k8s.io"):
        _validate_core(manifest)
        return
    import jsonschema

    schema = _crd_schema(crds / f"{group}_{manifest['kind'].lower()}s.yaml.gz", version)
    jsonschema.Draft202012Validator(schema).validate(manifest)
    _validate_core({"apiVersion": "v1", "kind": "ConfigMap", "metadata": manifest["metadata"]})
    for template in pod_templates(manifest):
        _validate_core({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "t"}, "template": template})


def _validate_core(manifest: Manifest) -> None:
    import kubernetes_validate
    from kubernetes_validate import utils

    if not hasattr(utils.schema_contents, "cache_info"):
        # It would read a definition file of megabytes again for each object.
        utils.schema_contents = functools.cache(utils.schema_contents)
    kubernetes_validate.validate(manifest, VERSION, strict=True)


@functools.cache
def _crd_schema(path: Path, version: str) -> Manifest:
    """The schema of one version in a CustomResourceDefinition; fields that the API server would drop are refused."""
    definition = yaml.load(gzip.decompress(path.read_bytes()), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (served,) = [each for each in definition["spec"]["versions"] if each["name"] == version]
    schema = dict(_strict(served["schema"]["openAPIV3Schema"]))
    schema["properties"] = {**schema["properties"], "metadata": {"type": "object"}}
    return schema


def _strict(schema: Any) -> Any:
    """An OpenAPI schema as JSON schema: no unknown fields, `nullable` as a type."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {
        key: {name: _strict(value) for name, value in entry.items()} if key == "properties" else _strict(entry)
        for key, entry in schema.items()
    }
    closed = not {"additionalProperties", "x-kubernetes-preserve-unknown-fields"} & set(strict)
    if strict.get("type") == "object" and closed:
        strict["additionalProperties"] = False
    return {"anyOf": [strict, {"type": "null"}]} if strict.get("nullable") else strict


@functools.cache
def _kubectl_problem() -> str:
    if not shutil.which("kubectl"):
        return "kubectl is not installed (Debian 13: apt-get install kubernetes-client)"
    words = ["kubectl", "version", "--client", "--output=json"]
    said = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    version = said.get("kustomizeVersion", "v0")
    if int(version.removeprefix("v").split(".")[0]) < KUSTOMIZE:
        return f"kubectl is too old: its Kustomize is {version}, the overlays need v{KUSTOMIZE} (kubectl 1.27)"
    return ""
