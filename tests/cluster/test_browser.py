"""In a browser: MLflow and Dagster show the run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import SmokeRun
from tests.support import Running, started

pytestmark = [pytest.mark.cluster, pytest.mark.browser]


@pytest.fixture(scope="module")
def ui(smoke_run: SmokeRun) -> Iterator[Running]:
    """`vimctl ui` over the session's pipeline, once it has printed both addresses."""
    with started(smoke_run.root, "ui", "--preset", "smoke") as process:
        process.wait_for(lambda: len(addresses(process)) >= 2, patience=120)
        yield process


def addresses(process: Running) -> list[str]:
    """Loopback addresses printed so far."""
    return list(dict.fromkeys(re.findall(r"http://127\.0\.0\.1:\d+", process.text)))


def shows(page: Any, *texts: str) -> None:
    """The page shows every text within a minute."""
    for text in texts:
        page.get_by_text(text, exact=True).locator("visible=true").first.wait_for(timeout=60_000)


def test_vimctl_ui_shows_runs_and_assets(browser: Any, ui: Running, smoke_run: SmokeRun) -> None:
    from mlflow import MlflowClient

    experiment = MlflowClient(f"sqlite:///{smoke_run.root}/mlflow.db").get_experiment_by_name("smoke")
    assert experiment is not None
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    mlflow = next(address for address in addresses(ui) if is_mlflow(address))
    runs = f"{mlflow}/#/experiments/{experiment.experiment_id}/runs"
    page.goto(runs)
    shows(page, "smoke", "Run Name")
    page.goto(f"{runs}/{smoke_run.manifests['quantize']['mlflow_run_id']}")
    shows(page, "quantize", "train/loss", "encoder.dim")
    dagster = next(address for address in addresses(ui) if address != mlflow)
    page.goto(f"{dagster}/assets")
    shows(page, "quantize", "prior")
    page.close()


def is_mlflow(address: str) -> bool:
    """Whether an MLflow server answers at this address."""
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(f"{address}/version", timeout=20) as response:
            return bool(re.fullmatch(r"\d+\.\d+\.\d+", response.read().decode().strip()))
    except (urllib.error.HTTPError, UnicodeDecodeError):
        return False
