"""A tokenizer or prior artifact as a folder for others: weights, config, and a model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from components.artifacts import store
from components.contract.api import Artifact
from vim_core.errors import DataError
from vim_core.storage import io

KINDS = {"quantize": "Tokenizer", "prior": "Prior"}
"""Components whose artifacts can be exported, each with the class of `vim_core.pretrained` that loads it."""


def export(folder: str, target: str, licence: str = "") -> list[str]:
    """Write `model.safetensors`, `config.json` and `README.md` into `target`; returns their addresses.

    Args:
        folder: the artifact's folder, path or URI.
        target: folder to write to, path or URI.
        licence: text of the card on the weights' licence; '' for a statement that there is none.

    Raises:
        DataError: there is no artifact, it is of a kind that is not exported, or a file of it was changed.
    """
    from vim_core import pretrained

    artifact = store.read(folder)
    if artifact is None:
        raise DataError(f"{folder}: no {store.MANIFEST} lies there; give the folder of a quantize or prior artifact")
    if artifact.manifest.component not in KINDS:
        raise DataError(f"{folder}: is an artifact of {artifact.manifest.component}; quantize and prior are exported")
    store.verify(artifact)
    origin = pretrained.locate(folder, artifact.manifest.component)
    config = pretrained.config_bytes(io.read_bytes(origin.config), origin.sha256, origin.lineage)
    # Weights first and the card last: a folder with a card has its model.
    written = [io.join(target, name) for name in (pretrained.WEIGHTS, pretrained.CONFIG, pretrained.CARD)]
    io.write_bytes(written[0], io.read_bytes(origin.weights))
    io.write_bytes(written[1], config)
    io.write_bytes(written[2], model_card(artifact, origin.lineage, origin.sha256, licence).encode())
    return written


def model_card(artifact: Artifact, lineage: Mapping[str, str], sha256: str, licence: str) -> str:
    """The model card by `model_card.md.jinja`: purpose, training data, figures with their protocols, lineage, usage."""
    from jinja2 import StrictUndefined, Template

    from vim_core.models.prior import PriorShape
    from vim_core.weights.saving import read_config

    manifest, kind, properties = artifact.manifest, KINDS[artifact.manifest.component], artifact.properties
    figures = []
    for name, value in sorted(manifest.metrics.items()):
        protocol = [f"{key}: {item}" for key, item in manifest.protocols.get(name, {}).items() if key != "figure"]
        figures.append((name, f"{value:.6g}", "; ".join(protocol) or "held-out images at the end of training"))
    if kind == "Tokenizer":
        grid, vocabulary, size = properties["grid"], properties["vocabulary"], properties["image_size"]
    else:
        shape = read_config(artifact.uri("config.json"), "image_prior", "shape", PriorShape)
        grid, vocabulary, size = shape.grid, shape.vocabulary, 0
    classes, config = list(properties.get("classes") or []), manifest.config
    inputs = sorted(manifest.inputs.items())
    training = [(name, f"`{record.component}` artifact `{record.digest}`") for name, record in inputs]
    training += [(name, str(config[name])) for name in ("steps", "batch", "seed", "precision", "ema") if name in config]
    training += [(name, str(value)) for name, value in sorted(manifest.numeric.items())]
    training += [("classes", ", ".join(map(str, classes[:20])) + ", …" * (len(classes) > 20))] if classes else []
    template = Path(__file__).with_name("model_card.md.jinja").read_text(encoding="utf-8")
    card: str = Template(template, undefined=StrictUndefined, keep_trailing_newline=True).render(
        kind=kind,
        size=size,
        grid=" x ".join(map(str, grid)),
        vocabulary=f"{vocabulary:,}",
        condition=f"given one of {len(classes)} classes" if classes else "unconditional",
        sha256=sha256,
        training=training,
        figures=figures,
        lineage=[(name, f"`{digest}`") for name, digest in lineage.items()],
        licence=licence,
        component=manifest.component,
        version=manifest.version,
        created=manifest.created,
    )
    return card
