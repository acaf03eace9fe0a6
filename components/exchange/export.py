"""A tokenizer or prior artifact as a folder for others: weights, config, and a model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from components.artifacts import store
from components.contract.api import Artifact
from vim_core.errors import DataError
from vim_core.storage import io

KINDS = {"quantize": "Tokenizer", "prior": "Prior"}
"""Components whose artifacts can be exported, and the class of `vim_core.pretrained` that loads each."""
PURPOSE = {
    "Tokenizer": "A ViT-VQGAN: images of {size} x {size} pixels to {grid} codes of {vocabulary}, and back.",
    "Prior": "An autoregressive Transformer over {grid} codes of {vocabulary}, {classes}.",
}
USAGE = {
    "Tokenizer": """\
from vim_core.pretrained import Tokenizer

tokenizer = Tokenizer.from_pretrained("{place}")
codes = tokenizer.encode(tokenizer.read("picture.jpg"))
tokenizer.write(tokenizer.decode(codes), "again.png")
""",
    "Prior": """\
from vim_core.pretrained import Prior, Tokenizer

prior = Prior.from_pretrained("{place}")
tokenizer = Tokenizer.from_pretrained("path/to/its/tokenizer")
prior.check(tokenizer)
images = tokenizer.decode(prior.sample([0, 0]))
""",
}


def read(folder: str) -> Artifact:
    """The artifact in a folder. Raises `DataError` where there is none, or it is of a kind that is not exported."""
    artifact = store.read(folder)
    if artifact is None:
        raise DataError(f"{folder}: no {store.MANIFEST} lies there; give the folder of a quantize or prior artifact")
    if artifact.manifest.component not in KINDS:
        raise DataError(f"{folder}: is an artifact of {artifact.manifest.component}; quantize and prior are exported")
    return artifact


def export(folder: str, target: str, licence: str = "") -> list[str]:
    """Write `model.safetensors`, `config.json` and `README.md` into `target`; gives the addresses.

    Args:
        folder: of the artifact, path or URI.
        target: folder to write to, path or URI.
        licence: what the card says of the weights' licence; empty: that none is given.

    Raises:
        DataError: there is no such artifact, or a file of it was changed.
    """
    from vim_core import pretrained

    artifact = read(folder)
    store.verify(artifact)
    found = pretrained.locate(folder, artifact.manifest.component)
    config = pretrained.config_bytes(io.read_bytes(found.config), found.sha256, found.lineage)
    # Weights first, as they are: who finds a card finds a model.
    written = [io.join(target, name) for name in (pretrained.WEIGHTS, pretrained.CONFIG, pretrained.CARD)]
    io.write_bytes(written[0], io.read_bytes(found.weights))
    io.write_bytes(written[1], config)
    io.write_bytes(written[2], card(artifact, found.lineage, found.sha256, licence).encode())
    return written


def card(artifact: Artifact, lineage: Mapping[str, str], sha256: str, licence: str) -> str:
    """The model card: what it is, what it was trained on, figures with what they mean, lineage, licence, usage."""
    manifest, kind = artifact.manifest, KINDS[artifact.manifest.component]
    sections = [
        f"# {kind}",
        PURPOSE[kind].format(**_sizes(artifact)),
        f"Loaded by `vim_core.pretrained.{kind}`; weights in fp32, `model.safetensors`, sha256 `{sha256}`.",
        "## Training",
        _training(artifact),
        "## Figures",
        _figures(artifact),
        "## Lineage",
        _table(("what", "digest"), [(name, f"`{digest}`") for name, digest in lineage.items()]),
        "## Licence",
        licence or "No licence is stated for these weights. The code that loads them is under Apache-2.0.",
        "## Usage",
        f"```python\n{USAGE[kind].format(place='path/to/this/folder')}```",
        f"Made by {manifest.component}, version {manifest.version}, at {manifest.created}.",
    ]
    return "\n\n".join(sections) + "\n"


def _sizes(artifact: Artifact) -> dict[str, Any]:
    from vim_core.models.prior import PriorShape
    from vim_core.weights.saving import read_config

    found = artifact.properties
    classes = list(found.get("classes") or [])
    given = f"given one of {len(classes)} classes" if classes else "unconditional"
    if artifact.manifest.component == "quantize":
        grid, vocabulary, size = found["grid"], found["vocabulary"], found["image_size"]
    else:
        shape = read_config(artifact.uri("config.json"), "image_prior", "shape", PriorShape)
        grid, vocabulary, size = shape.grid, shape.vocabulary, 0
    return {"grid": " x ".join(map(str, grid)), "vocabulary": f"{vocabulary:,}", "size": size, "classes": given}


def _training(artifact: Artifact) -> str:
    config, inputs = artifact.manifest.config, artifact.manifest.inputs
    rows = [(name, f"`{record.component}` artifact `{record.digest}`") for name, record in sorted(inputs.items())]
    rows += [(name, str(config[name])) for name in ("steps", "batch", "seed", "precision", "ema") if name in config]
    rows += [(name, str(value)) for name, value in sorted(artifact.manifest.numeric.items())]
    classes = list(artifact.properties.get("classes") or [])
    shown = ", ".join(map(str, classes[:20])) + (", …" if len(classes) > 20 else "")
    rows += [("classes", shown)] if classes else []
    return _table(("setting", "value"), rows)


def _figures(artifact: Artifact) -> str:
    metrics, protocols = artifact.manifest.metrics, artifact.manifest.protocols
    if not metrics:
        return "None were taken."
    rows = [(name, f"{value:.6g}", _protocol(protocols.get(name, {}))) for name, value in sorted(metrics.items())]
    return _table(("figure", "value", "protocol"), rows)


def _protocol(record: Mapping[str, Any]) -> str:
    said = [f"{key}: {value}" for key, value in record.items() if key != "figure"]
    return "; ".join(said) or "held-out images at the end of training"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in line) + " |" for line in lines
    )
