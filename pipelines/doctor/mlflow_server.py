"""The MLflow server: its response to this client, and the preset's experiment."""

from __future__ import annotations

import base64
import os
import sqlite3
from importlib import metadata
from urllib.parse import quote, urlsplit

from components.tracking.link import tracking_uri
from pipelines.doctor.checks import NoAnswer, Response, Result, Target, fail, ok, request, warn

CHECK = "MLflow"
API = "/api/2.0/mlflow"
ABSENT = "RESOURCE_DOES_NOT_EXIST"


def check_server(target: Target) -> list[Result]:
    """Requests to a server, or a query of a local database file."""
    uri = tracking_uri(target.run)
    if uri is None:
        return [ok(CHECK, "off (run.tracking_uri=off)")]
    if uri.startswith("sqlite:///"):
        path = uri.removeprefix("sqlite:///")
        if not os.path.exists(path):
            return [ok(CHECK, f"{path}: made by the first run")]
        try:
            with sqlite3.connect(f"file:{quote(path)}?mode=rw", uri=True, timeout=2) as database:
                count = database.execute("SELECT count(*) FROM runs").fetchone()[0]
        except sqlite3.Error as error:
            advice = "another program may hold it, or it is no database of MLflow: move it away and run again"
            return [fail(CHECK, f"{path}: {error}", advice)]
        return [ok(CHECK, f"{path}: {count} runs")]
    if not uri.startswith(("http://", "https://")):
        parts = urlsplit(uri)
        shown = f"{parts.scheme}://…@{parts.hostname}{parts.path}" if "@" in parts.netloc else uri  # no password
        return [warn(CHECK, f"{shown}: only servers (http) and SQLite files are checked", "")]
    try:
        return _check_http(uri, target.config.preset)
    except NoAnswer as error:
        host = urlsplit(uri).hostname or ""
        if ".svc" in host:
            text = f"{uri}: {error}; a name inside Kubernetes, which this machine cannot resolve"
            return [warn(CHECK, text, "check from a pod, or through `kubectl port-forward`")]
        advice = "start it (infra/README.md) or correct run.tracking_uri; runs go on without it"
        return [fail(CHECK, f"{uri}: {error}", advice)]


def _check_http(uri: str, preset: str) -> list[Result]:
    response = request(uri, f"{API}/experiments/get-by-name?experiment_name={quote(preset)}", _auth_headers())
    body = response.json()
    absent = response.status == 404 and isinstance(body, dict) and body.get("error_code") == ABSENT
    if response.status != 200 and not absent:
        return [_refusal(uri, response)]
    version = request(uri, "/version", _auth_headers())
    here, there = metadata.version("mlflow"), version.text.strip()[:20] if version.status == 200 else ""
    answered = ok(CHECK, f"{uri}: version {there}")
    if there and there.split(".")[0] != here.split(".")[0]:
        answered = warn(CHECK, f"{uri} has version {there}, this client {here}", "use the same major version of both")
    if not absent:
        return [answered, ok("experiment", f"{preset}: there")]
    created = request(uri, f"{API}/experiments/create", _auth_headers(), {"name": preset})
    return [answered, ok("experiment", f"{preset}: made") if created.status == 200 else _refusal(uri, created)]


def _refusal(uri: str, response: Response) -> Result:
    host = urlsplit(uri).netloc
    text = " ".join(response.text.split())[:160]
    if response.status == 403 and "Invalid Host header" in response.text:
        advice = f"start the server with --allowed-hosts {host} (or MLFLOW_SERVER_ALLOWED_HOSTS), beside those it has"
        return fail(CHECK, f"{uri}: the server does not serve the name {host}", advice)
    if response.status in (401, 403):
        advice = (
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, to an account of it"
        )
        return fail(CHECK, f"{uri}: refuses this account ({response.status} {text})", advice)
    if response.status == 404:
        return fail(CHECK, f"{uri}: something else than MLflow answers there", "correct run.tracking_uri")
    return fail(CHECK, f"{uri}: answers {response.status} {text}", "look at the server's log")


def _auth_headers() -> dict[str, str]:
    """The headers of a login, from the variables that MLflow's client reads."""
    token, user = os.environ.get("MLFLOW_TRACKING_TOKEN"), os.environ.get("MLFLOW_TRACKING_USERNAME")
    if token:
        return {"Authorization": f"Bearer {token}"}
    if user:
        pair = f"{user}:{os.environ.get('MLFLOW_TRACKING_PASSWORD', '')}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return {}
