"""The MLflow server: whether it answers this client, and whether the preset's experiment can be made there."""

from __future__ import annotations

import base64
import os
import sqlite3
from urllib.parse import quote, urlsplit

from components.tracking.link import tracking_uri
from pipelines.doctor.asking import Answer, Silent, ask
from pipelines.doctor.findings import Finding, Subject, fail, ok, warn

CHECK = "MLflow"
API = "/api/2.0/mlflow"
ABSENT = "RESOURCE_DOES_NOT_EXIST"


def server(subject: Subject) -> list[Finding]:
    """A server by HTTP, a local database by opening it."""
    uri = tracking_uri(subject.run)
    if uri is None:
        return [ok(CHECK, "off (run.tracking_uri=off)")]
    if uri.startswith("sqlite:///"):
        return [_database(uri.removeprefix("sqlite:///"))]
    if not uri.startswith(("http://", "https://")):
        return [warn(CHECK, f"{_hidden(uri)}: only servers (http) and SQLite files are looked at", "")]
    try:
        return _asked(uri, subject.config.preset)
    except Silent as error:
        return [_silent(uri, str(error))]


def _asked(uri: str, preset: str) -> list[Finding]:
    answer = ask(uri, f"{API}/experiments/get-by-name?experiment_name={quote(preset)}", _login())
    known = answer.json()
    absent = answer.status == 404 and isinstance(known, dict) and known.get("error_code") == ABSENT
    if answer.status != 200 and not absent:
        return [_refused(uri, answer)]
    client, its = _versions(uri)
    found = [ok(CHECK, f"{uri}: version {its}")]
    if its and its.split(".")[0] != client.split(".")[0]:
        found = [warn(CHECK, f"{uri} has version {its}, this client {client}", "use the same major version of both")]
    if absent:
        made = ask(uri, f"{API}/experiments/create", _login(), {"name": preset})
        if made.status != 200:
            return [*found, _refused(uri, made)]
        return [*found, ok("experiment", f"{preset}: made")]
    return [*found, ok("experiment", f"{preset}: there")]


def _refused(uri: str, answer: Answer) -> Finding:
    host = urlsplit(uri).netloc
    said = " ".join(answer.text.split())[:160]
    if answer.status == 403 and "Invalid Host header" in answer.text:
        advice = f"start the server with --allowed-hosts {host} (or MLFLOW_SERVER_ALLOWED_HOSTS), beside those it has"
        return fail(CHECK, f"{uri}: the server does not serve the name {host}", advice)
    if answer.status in (401, 403):
        advice = (
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, to an account of it"
        )
        return fail(CHECK, f"{uri}: refuses this account ({answer.status} {said})", advice)
    if answer.status == 404:
        return fail(CHECK, f"{uri}: something else than MLflow answers there", "correct run.tracking_uri")
    return fail(CHECK, f"{uri}: answers {answer.status} {said}", "look at the server's log")


def _silent(uri: str, why: str) -> Finding:
    host = urlsplit(uri).hostname or ""
    if ".svc" in host:
        text = f"{uri}: {why}; a name inside of Kubernetes, which this machine does not see"
        return warn(CHECK, text, "ask from a pod, or through `kubectl port-forward`")
    advice = "start it (`vimctl ui`, infra/README.md) or correct run.tracking_uri; runs go on without it"
    return fail(CHECK, f"{uri}: {why}", advice)


def _versions(uri: str) -> tuple[str, str]:
    """The client's and the server's; the latter '' where it does not say."""
    from importlib import metadata

    answer = ask(uri, "/version", _login())
    return metadata.version("mlflow"), answer.text.strip()[:20] if answer.status == 200 else ""


def _login() -> dict[str, str]:
    """The headers by which MLflow's client logs in, from the same variables."""
    token, user = os.environ.get("MLFLOW_TRACKING_TOKEN"), os.environ.get("MLFLOW_TRACKING_USERNAME")
    if token:
        return {"Authorization": f"Bearer {token}"}
    if user:
        pair = f"{user}:{os.environ.get('MLFLOW_TRACKING_PASSWORD', '')}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return {}


def _hidden(uri: str) -> str:
    """The address without a password."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://…@{parts.hostname}{parts.path}" if "@" in parts.netloc else uri


def _database(path: str) -> Finding:
    if not os.path.exists(path):
        return ok(CHECK, f"{path}: made by the first run")
    try:
        with sqlite3.connect(f"file:{quote(path)}?mode=rw", uri=True, timeout=2) as database:
            count = database.execute("SELECT count(*) FROM runs").fetchone()[0]
    except sqlite3.Error as error:
        advice = "another program may hold it, or it is no database of MLflow: move it away and run again"
        return fail(CHECK, f"{path}: {error}", advice)
    return ok(CHECK, f"{path}: {count} runs")
