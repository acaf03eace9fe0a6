"""The gate on lineage: what an artifact says it was made from is what lies before it (contract 3)."""

from __future__ import annotations

from components.artifacts.gates.verdict import Verdict, missing_property
from components.contract import lineage
from components.contract.api import Artifact, Inputs
from vim_core.config import PipelineConfig

GATE = "lineage"
NAMED = ("images", "codes", "prior", "samples")
"""Properties that hold the digest of the input of the same name."""
SAID = {
    "classify": ("images",), "selector": ("images",), "quantize": ("images",), "tokenize": ("images", "tokenizer"),
    "reconstruct": ("images", "tokenizer"), "prior": ("codes", "tokenizer"), "sample": ("prior", "tokenizer"),
    "select": ("samples",),
}  # fmt: skip
"""What each component records of itself."""


def check_lineage(config: PipelineConfig, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Codes belong to the tokenizer, the prior to the codes, samples to the prior, and all to their images."""
    found = artifact.properties
    lacking = [name for name in SAID.get(artifact.manifest.component, ()) if name not in found]
    if lacking:
        return missing_property(GATE, artifact, f"the digest of its {', '.join(lacking)}")
    wrong = [
        f"{name} {str(found[name])[:12]} stand in its manifest, {inputs[name].digest[:12]} lie before it"
        for name in NAMED
        if name in found and name in inputs and found[name] != inputs[name].digest
    ]
    wrong += _codes(artifact, inputs)
    chain = ", ".join(f"{name} {given.digest[:12]}" for name, given in sorted(inputs.items()))
    if not wrong:
        return Verdict(GATE, True, f"made from {chain}" if chain else "made from nothing but its source")
    remedy = f"make it again with `vimctl run {artifact.manifest.component} --force`"
    return Verdict(GATE, False, "; ".join(wrong), remedy)


def _codes(artifact: Artifact, inputs: Inputs) -> list[str]:
    """Inputs whose tokenizer has other codes than this artifact's."""
    if lineage.TOKENIZER not in artifact.properties:
        return []
    own, wrong = lineage.of_codes(artifact.properties), []
    for name, given in sorted(inputs.items()):
        theirs = lineage.of_tokenizer(given) if name == "tokenizer" else lineage.of_codes(given.properties)
        if lineage.TOKENIZER in theirs and not lineage.same_codes(own, theirs):
            wrong.append(f"it {lineage.difference(own, theirs, 'was made by')} of its {name}")
    return wrong
