"""The artifact that a text names: folder, COMPONENT/PREFIX, prefix, COMPONENT of a preset, or `models:/…`."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from typing import Any

from components.artifacts import execute, inventory, store
from components.artifacts.inventory import short_name
from components.contract import registry
from components.contract.api import Artifact
from components.contract.commands import command
from components.tracking.link import Link, ServerAway, ServerRefused, tracking_uri
from vim_core.config import PipelineConfig, RunConfig
from vim_core.errors import ConfigError, DataError, VimError
from vim_core.storage import io
from vim_core.text import hint

FORMS = "a folder or URI, COMPONENT/PREFIX, a prefix, COMPONENT (of the preset), or models:/NAME/VERSION"
SHOWN = 5
"""Artifacts named at most in an error."""
MODEL = re.compile(r"models:/(?P<name>[^/@]+)(?:[/@](?P<version>[^/@]+))?")
WEIGHTS = "model.safetensors"


def resolve(text: str, config: PipelineConfig, kinds: Sequence[str] = ()) -> Artifact:
    """The artifact that `text` names, in the root of these settings.

    A folder comes first. `COMPONENT` alone is the artifact of these settings, or else the root's only one of it. A
    prefix is one of the fingerprint or of the digest.

    Args:
        text: what a user wrote, see `FORMS`.
        config: the preset's settings; with no components where there is no preset.
        kinds: components of which it may be; empty for any.

    Raises:
        ConfigError: it names no component.
        DataError: there is no such artifact, several fit, or it is of another component; the nearest are named.
        VimError: MLflow's server does not answer.
    """
    name = text.removesuffix(f"/{store.MANIFEST}").rstrip("/")
    if not name:
        raise DataError(f"name an artifact: {FORMS}")
    if name.startswith("models:"):
        artifact = _registered(name, config.run)
    else:
        artifact = store.read(name) or _by_name(name, config, kinds)
    component = artifact.manifest.component
    if kinds and component not in kinds:
        raise DataError(f"{text}: is an artifact of {component}, expected one of {' or '.join(kinds)}")
    return artifact


def model_folder(text: str, component: str, config: PipelineConfig | None = None) -> str:
    """The folder of an exported model, or of an artifact of `component` by any of its names; see `resolve`.

    Without settings the root is `VIM_ROOT`, else `artifacts`, and MLflow is at `MLFLOW_TRACKING_URI`, else in the root.
    """
    if io.exists(io.join(text, WEIGHTS)):
        return text
    if config is None:
        uri = os.environ.get("MLFLOW_TRACKING_URI", "")
        config = PipelineConfig(run=RunConfig(root=os.environ.get("VIM_ROOT") or "artifacts", tracking_uri=uri))
    return resolve(text, config, [component]).folder


def choose(artifacts: Sequence[Artifact], component: str, prefix: str) -> Artifact:
    """The only artifact whose fingerprint or digest begins so. Raises `DataError` where none or several do."""
    of_kind = [each for each in artifacts if component in ("", each.manifest.component)]
    fitting = [each for each in of_kind if each.manifest.fingerprint.startswith(prefix)]
    fitting = fitting or [each for each in of_kind if prefix and each.digest.startswith(prefix)]
    if len(fitting) == 1:
        return fitting[0]
    text = "/".join(filter(None, [component, prefix]))
    names = [short_name(each.manifest.key) for each in fitting or of_kind or artifacts]
    if fitting:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        problem = f"{len(names)} artifacts match ({', '.join(names[:SHOWN])}{more})"
        raise DataError(f"{text}: {problem}; give more digits of one" + ("" if prefix else ", or its preset"))
    near = difflib.get_close_matches(text if component else f"/{text}", names, SHOWN, cutoff=0.0)
    known = f"nearest are {', '.join(near)}" if near else "there are none"
    raise DataError(f"{text}: no such artifact; {known}; `{command('artifacts', 'list')}` lists all")


def _by_name(name: str, config: PipelineConfig, kinds: Sequence[str]) -> Artifact:
    """The artifact of a name, which may stand behind the path of another root."""
    *before, last = name.split("/")
    root, component = config.run.root, ""
    if before:
        *folders, component = before
        if component not in registry.NAMES and (folders or not component or io.exists(name)):
            raise DataError(f"{name}: no {store.MANIFEST} lies there; give {FORMS}")
        registry.component(component)
        root = "/".join(folders) or ("/" if name.startswith("/") else root)
    elif last in registry.NAMES:
        component, last = last, ""
        if component in config.components:
            try:
                made = execute.find(component, config)
            except VimError:  # its source, for instance, is not on this machine
                made = None
            if made is not None:
                return made
    elif not re.fullmatch(r"[0-9a-f]+", last):
        if io.exists(name):
            raise DataError(f"{name}: no {store.MANIFEST} lies there; give {FORMS}")
        raise ConfigError(f"{name}: names no artifact; {hint(name, registry.NAMES)}; give {FORMS}")
    artifacts = inventory.artifacts(root, component) or inventory.artifacts(root)
    if kinds and not component:
        of_kind = [each for each in artifacts if each.manifest.component in kinds]
        artifacts = of_kind if any(each.manifest.fingerprint.startswith(last) for each in of_kind) else artifacts
    return choose(artifacts, component, last)


def _registered(address: str, run: RunConfig) -> Artifact:
    """The artifact of a version of a registered model: in this root, or at the address that was recorded."""
    match, uri = MODEL.fullmatch(address), tracking_uri(run)
    if match is None:
        raise DataError(f"{address}: write models:/NAME/VERSION, models:/NAME@ALIAS or models:/NAME/latest")
    path = io.local_path((uri or "").removeprefix("sqlite:///"))
    if uri is None or (uri.startswith("sqlite:///") and not path.exists()):
        raise DataError(f"{address}: no models are registered here, {uri or 'run.tracking_uri=off'}")
    link = Link(uri)
    try:
        tags = dict(link.call(lambda client: model_version(client, match["name"], match["version"] or "latest")).tags)
    except ServerRefused as error:
        raise DataError(f"{address}: {known_models(link, match['name'])} ({str(error).splitlines()[0]})") from error
    except ServerAway as error:
        raise VimError(f"{address}: MLflow at {uri} does not answer; correct run.tracking_uri") from error
    component, fingerprint = tags.get("vim.component", ""), tags.get("vim.fingerprint", "")
    artifact = store.load(run.root, component, fingerprint) if component and fingerprint else None
    artifact = artifact or store.read(tags.get("vim.artifact", address))
    if artifact is None:
        where = tags.get("vim.artifact", "an address that its tags do not tell")
        raise DataError(f"{address}: its artifact lies neither in {run.root} nor at {where}")
    if artifact.digest != tags.get("vim.digest"):
        raise DataError(f"{address}: {artifact.folder} was made again since, with digest {artifact.digest[:12]}")
    return artifact


def model_version(client: Any, name: str, version: str) -> Any:
    """The version of a registered model by its number, by an alias, or the `latest`; raises what MLflow raises."""
    if version.isdecimal():
        return client.get_model_version(name, version)
    if version != "latest":
        return client.get_model_version_by_alias(name, version)
    client.get_registered_model(name)  # raises where there is none
    return max(client.search_model_versions(f"name = '{name}'"), key=lambda each: int(each.version))


def known_models(link: Link, name: str) -> str:
    """The part of an error that names the models or versions that the registry has."""
    models = [each.name for each in link.call(lambda client: client.search_registered_models())]
    if name not in models:
        return f"no such model; {hint(name, models)}"
    versions = link.call(lambda client: client.search_model_versions(f"name = '{name}'"))
    aliases = link.call(lambda client: client.get_registered_model(name)).aliases
    known = [*sorted((each.version for each in versions), key=int), *(f"@{alias}" for alias in aliases)]
    return f"no such version; known are {', '.join(map(str, known)) or 'none'}"
