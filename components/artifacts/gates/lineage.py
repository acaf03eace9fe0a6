"""The gate on lineage: an artifact was made from the artifacts that are its inputs now (contract 3)."""

from __future__ import annotations

from components.artifacts.gates.verdict import Verdict, missing_property, remake
from components.contract import lineage
from components.contract.api import Artifact, Inputs
from vim_core.config import PipelineConfig

GATE = "lineage"
INPUT_DIGESTS = ("images", "codes", "prior", "samples")
"""Properties that hold the digest of the input of the same name."""
RECORDED = {
    "classify": ("images",), "selector": ("images",), "quantize": ("images",), "tokenize": ("images", "tokenizer"),
    "reconstruct": ("images", "tokenizer"), "prior": ("codes", "tokenizer"), "sample": ("prior", "tokenizer"),
    "select": ("samples",),
}  # fmt: skip
"""Properties that each component records of itself."""


def check_lineage(config: PipelineConfig, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Codes belong to the tokenizer, the prior to the codes, samples to the prior, and all to their images."""
    properties = artifact.properties
    lacking = [name for name in RECORDED.get(artifact.manifest.component, ()) if name not in properties]
    if lacking:
        return missing_property(GATE, artifact, f"the digest of its {', '.join(lacking)}")
    wrong = [
        f"its manifest names {name} {str(properties[name])[:12]}, its input is {inputs[name].digest[:12]}"
        for name in INPUT_DIGESTS
        if name in properties and name in inputs and properties[name] != inputs[name].digest
    ]
    own = lineage.recorded_digests(properties) if lineage.TOKENIZER in properties else None
    for name, source in sorted(inputs.items()) if own else []:
        theirs = (
            lineage.tokenizer_digests(source) if name == "tokenizer" else lineage.recorded_digests(source.properties)
        )
        if own and lineage.TOKENIZER in theirs and not lineage.same_codes(own, theirs):
            wrong.append(f"it {lineage.mismatch(own, theirs, 'was made by')} of its {name}")
    if wrong:
        return Verdict(GATE, False, "; ".join(wrong), remake(artifact))
    chain = ", ".join(f"{name} {source.digest[:12]}" for name, source in sorted(inputs.items()))
    return Verdict(GATE, True, f"made from {chain}" if chain else "made from nothing but its source")
