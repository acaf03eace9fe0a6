"""What a component's MLflow run says of its data: input artifacts as MLflow datasets."""

from __future__ import annotations

import json
from typing import Any

from components.artifacts import store
from components.contract.api import Artifact

DIGEST_LENGTH = 36
"""MLflow's limit; the whole digest is in the dataset's profile."""


def datasets(root: str, artifact: Artifact) -> list[dict[str, str]]:
    """Name, digest, source and profile of every input of `artifact`, with the name the component knows it by."""
    return [
        {
            "context": key,
            "name": record.component,
            "digest": record.digest[:DIGEST_LENGTH],
            "source": json.dumps({"uri": store.folder(root, record.component, record.fingerprint)}),
            "profile": json.dumps({"digest": record.digest, "fingerprint": record.fingerprint}),
        }
        for key, record in sorted(artifact.manifest.inputs.items())
    ]


def log_inputs(client: Any, run_id: str, inputs: list[dict[str, str]]) -> None:
    """Log the inputs of a run."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    client.log_inputs(
        run_id,
        [
            DatasetInput(
                Dataset(item["name"], item["digest"], "local", item["source"], None, item["profile"]),
                [InputTag("mlflow.data.context", item["context"])],
            )
            for item in inputs
        ],
    )
