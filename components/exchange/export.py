"""A tokenizer or prior artifact as a folder for others: weights, config, and a model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from components.artifacts import store
from components.contract.api import Artifact
from vim_core.errors import DataError
from vim_core.storage import io

KINDS = {"quantize": "Tokenizer", "prior": "Prior"}
"""Components whose artifacts can be exported, each with the class of `vim_core.pretrained` that loads it."""
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
    """The model card: purpose, training data, figures with their protocols, lineage, licence, usage."""
    from vim_core.models.prior import PriorShape
    from vim_core.weights.saving import read_config

    manifest, kind = artifact.manifest, KINDS[artifact.manifest.component]
    figures = []
    for name, value in sorted(manifest.metrics.items()):
        protocol = [f"{key}: {item}" for key, item in manifest.protocols.get(name, {}).items() if key != "figure"]
        figures.append((name, f"{value:.6g}", "; ".join(protocol) or "held-out images at the end of training"))
    properties = artifact.properties
    if kind == "Tokenizer":
        grid, vocabulary, size = properties["grid"], properties["vocabulary"], properties["image_size"]
    else:
        shape = read_config(artifact.uri("config.json"), "image_prior", "shape", PriorShape)
        grid, vocabulary, size = shape.grid, shape.vocabulary, 0
    sizes = {"grid": " x ".join(map(str, grid)), "vocabulary": f"{vocabulary:,}", "size": size}
    classes = list(properties.get("classes") or [])
    condition = f"given one of {len(classes)} classes" if classes else "unconditional"
    sections = [
        f"# {kind}",
        PURPOSE[kind].format(**sizes, classes=condition),
        f"Loaded by `vim_core.pretrained.{kind}`; weights in fp32, `model.safetensors`, sha256 `{sha256}`.",
        "## Training",
        _training_table(artifact),
        "## Figures",
        _table(("figure", "value", "protocol"), figures) if figures else "None were taken.",
        "## Lineage",
        _table(("what", "digest"), [(name, f"`{digest}`") for name, digest in lineage.items()]),
        "## Licence",
        licence or "No licence is stated for these weights. The code that loads them is under Apache-2.0.",
        "## Usage",
        f"```python\n{USAGE[kind].format(place='path/to/this/folder')}```",
        f"Made by {manifest.component}, version {manifest.version}, at {manifest.created}.",
    ]
    return "\n\n".join(sections) + "\n"


def _training_table(artifact: Artifact) -> str:
    config, inputs = artifact.manifest.config, artifact.manifest.inputs
    rows = [(name, f"`{record.component}` artifact `{record.digest}`") for name, record in sorted(inputs.items())]
    rows += [(name, str(config[name])) for name in ("steps", "batch", "seed", "precision", "ema") if name in config]
    rows += [(name, str(value)) for name, value in sorted(artifact.manifest.numeric.items())]
    classes = list(artifact.properties.get("classes") or [])
    shown = ", ".join(map(str, classes[:20])) + (", …" if len(classes) > 20 else "")
    rows += [("classes", shown)] if classes else []
    return _table(("setting", "value"), rows)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in line) + " |" for line in lines
    )
