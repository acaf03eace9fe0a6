"""Kubernetes objects against schemas, without a cluster: core kinds by kubernetes-validate, others by `schemas/`."""

from __future__ import annotations

import functools
from typing import Any

import yaml

from tests.support.common import REPOSITORY

VERSION = "1.33"
FILES = {"ray.io/v1": "ray.yaml", "kueue.x-k8s.io/v1beta2": "kueue.yaml"}


def validate(manifest: dict[str, Any]) -> None:
    """Raise `jsonschema.ValidationError` where an object has a wrong, unknown or missing field."""
    if manifest["apiVersion"] not in FILES:
        _core(manifest)
        return
    import jsonschema

    schemas = _schemas(FILES[manifest["apiVersion"]])
    schema = {**schemas[manifest["kind"]], "$defs": schemas["$defs"]}
    jsonschema.Draft202012Validator(schema).validate(manifest)
    for template in templates(manifest):
        _core({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "t"}, "template": template})


def templates(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The pod templates of a RayJob or RayCluster: submitter, head, each kind of worker."""
    if manifest["kind"] not in ("RayJob", "RayCluster"):
        return []
    spec = manifest["spec"]
    cluster = spec.get("rayClusterSpec", spec)
    found = [spec["submitterPodTemplate"]] if "submitterPodTemplate" in spec else []
    return [*found, cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]


def _core(manifest: dict[str, Any]) -> None:
    import kubernetes_validate
    from kubernetes_validate import utils

    if not hasattr(utils.schema_contents, "cache_info"):
        # It would read a definition file of megabytes again for each object.
        utils.schema_contents = functools.cache(utils.schema_contents)
    kubernetes_validate.validate(manifest, VERSION, strict=True)


@functools.cache
def _schemas(file: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((REPOSITORY / "tests" / "support" / "schemas" / file).read_text())
    return loaded
