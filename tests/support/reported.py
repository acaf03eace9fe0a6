"""Made-up artifacts of everything that the report can show, and its page made from them."""

from __future__ import annotations

import functools
import json
import shutil
from itertools import product
from pathlib import Path
from typing import Any

from components.contract.api import Artifact
from components.report import component as report
from tests.support.synthetic import CLASSES, artifact, context_of, everything, image_files, pictures, rows, with_fields
from vim_core.config import ReportConfig
from vim_core.data.images import encode_png

NEIGHBOURS: dict[str, Any] = {
    "samples": {"count": 9, "mean": 2.6, "least": 0.5, "quantiles": {"0.01": 0.5, "0.5": 2.5, "0.95": 3.5}},
    "held_out": {"count": 12, "mean": 2.4, "least": 0.75, "quantiles": {"0.01": 0.75, "0.5": 2.25, "0.95": 3.25}},
    "threshold": 0.75,
    "ratio": 1.1,
    "near": 2,
    "copies": 0,
    "nearest": [{"key": "sample-000", "train_key": "image-000", "distance": 0.5}],
    "protocol": {"compares": "the distance of a sample", "split": "samples", "count": 9},
}


def selected(root: Path, rates: tuple[str, ...] = ("1.0", "0.25", "0.05")) -> Artifact:
    """An artifact of `select`: three images a rate, one of each class."""
    files: dict[str, Any] = {}
    for place, rate in enumerate(rates):
        table = rows([f"{rate}-{i}" for i in range(3)], [0, 1, 2], pictures(3, place))
        files |= {name.replace("/x-", f"/accepted-{rate}-"): w for name, w in image_files("x", table, 1).items()}
    return artifact(root, "select", files, properties={"classes": list(CLASSES), "rates": [float(r) for r in rates]})


def scored(root: Path) -> Artifact:
    """An artifact of `score` with intervals, a figure that the report's list does not name, and nearest images."""
    png = encode_png(pictures(1, 0)[0])
    protocol = {"compares": "samples with real images", "split": "samples", "count": 9, "network": "classifier"}
    metrics = {
        "conditional_accuracy": 0.9,
        "conditional_accuracy_low": 0.85,
        "conditional_accuracy_high": 0.94,
        "kd_classifier": 0.02,
        "kd_classifier_low": 0.01,
        "kd_classifier_high": 0.03,
        "fd_classifier_accepted_0.25": 1.5,
        "fd_classifier_accepted_0.05": 1.25,
        "unexplained": 1.0,
    }
    files = {
        "neighbours.json": lambda uri: Path(uri).write_text(json.dumps(NEIGHBOURS)),
        "pictures/neighbours.png": lambda uri: Path(uri).write_bytes(png),
    }
    protocols = {name: {"figure": name, **protocol} for name in metrics if name != "unexplained"}
    return artifact(root, "score", files, metrics=metrics, protocols=protocols)


def swept(root: Path) -> Artifact:
    """An artifact of `tradeoff` over three guidances and two rates, in the agreed form."""
    points = []
    for guidance, acceptance in product((1.0, 2.0, 3.0), (1.0, 0.25)):
        accuracy, fd = 0.5 + guidance / 10, 1 + (guidance - 2) ** 2
        bounds = {
            "accuracy_low": accuracy - 0.05,
            "accuracy_high": accuracy + 0.05,
            "fd_low": fd - 0.2,
            "fd_high": fd + 0.2,
        }
        place = {"temperature": 1.0, "guidance": guidance, "acceptance": acceptance, "count": 9}
        points.append({**place, "accuracy": accuracy, "fd": fd, **bounds})
    record = {"points": points, "best": 2, "judge": "judge", "selector": "", "protocol": {"count_per_class": 3}}
    return artifact(root, "tradeoff", {"tradeoff.json": lambda uri: Path(uri).write_text(json.dumps(record))})


def whole(root: Path) -> dict[str, Artifact]:
    """All artifacts by component."""
    artifacts = everything(root)
    artifacts |= {"select": selected(root), "score": scored(root), "tradeoff": swept(root)}
    per_block = {"accuracy_per_block": [0.5, 0.75, 0.625], "ridge_accuracy_per_block": [0.5, 0.7, 0.65]}
    artifacts["probe"] = artifact(
        root, "probe", {}, metrics={"top1": 0.75, "pixel_baseline_top1": 0.6}, properties=per_block,
        protocols={"top1": {"figure": "top1", "split": "test", "count": 12}},
    )  # fmt: skip
    stack = {"blocks": 2, "heads": 2, "dim": 8, "mlp": 16}
    config = {"image_size": 16, "encoder": stack, "decoder": stack, "codebook": {"codes": 8, "dim": 4, "l2": True},
              "steps": 10, "batch": 4}  # fmt: skip
    properties = {"grid": [2, 2], "perceptual": False}
    artifacts["quantize"] = with_fields(artifacts["quantize"], config=config, properties=properties)
    return artifacts


def published(root: Path) -> Path:
    """The page of all these artifacts, published below `root`."""
    ctx = context_of(root, "report")
    report.run(ReportConfig(title="Made up", samples_per_class=3, reconstructions=4), whole(root / "made"), ctx)
    files = {name: functools.partial(shutil.copy, ctx.path(name)) for name in ("report.html", "results.json")}
    page = artifact(root / "made", "report", files)
    record = {"preset": "made-up", "seconds": {"prior": 75.0}, "reused": {"prior": False}, "mlflow": {"run_id": "r"}}
    return Path(report.publish(page, record, str(root / "reports")))
