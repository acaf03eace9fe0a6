"""Settings of different components that contradict each other: found before anything runs, not hours later."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from vim_core.config import PipelineConfig
from vim_core.errors import ConfigError
from vim_core.metrics.conventions import CONVENTIONS

NULL_CLASS = "needs a class-conditional prior trained with prior.label_dropout > 0"


def check(config: PipelineConfig, names: Collection[str]) -> None:
    """Raise `ConfigError` with every contradiction that one of these components would meet."""
    found = list(problems(config, names))
    if found:
        raise ConfigError("; ".join(found))


def problems(config: PipelineConfig, names: Collection[str]) -> Iterator[str]:
    """Reasons for which these components would refuse the settings, each with the setting, its value and the remedy."""
    prior, sample = config.prior, config.sample
    if "sample" in names:
        yield from _sampling_problems(config)
    if "select" in names and not prior.conditional:
        yield "select: the samples have no classes to select by (prior.conditional=false); leave it out"
    if "tradeoff" in names:
        guided = [value for value in config.tradeoff.guidances if value != 1]
        if not prior.conditional:
            yield "tradeoff: measures accuracy by class (prior.conditional=false); leave it out"
        elif guided and prior.label_dropout == 0:
            yield f"tradeoff.guidances={config.tradeoff.guidances}: {NULL_CLASS}; set tradeoff.guidances=[1.0]"
    if "probe" in names and prior.conditional and prior.label_dropout == 0:
        yield (
            "prior.label_dropout=0.0: the probe needs a null class, because the true one must not reach it; set "
            "prior.label_dropout > 0 or prior.conditional=false"
        )
    protocol, kept = CONVENTIONS.get(config.score.protocol), config.statistics.features
    scored = "score" in names and {"statistics", "sample"} <= set(config.components)
    if scored and protocol is not None and protocol.every and 0 < kept < sample.count:
        yield (
            f"score.protocol={config.score.protocol}: precision and recall look at all {sample.count} samples, and "
            f"statistics.features={kept} keeps fewer; raise it, or set 0 to leave these figures out"
        )


def _sampling_problems(config: PipelineConfig) -> Iterator[str]:
    prior, sample = config.prior, config.sample
    if sample.guidance != 1 and not (prior.conditional and prior.label_dropout > 0):
        yield f"sample.guidance={sample.guidance}: {NULL_CLASS}; set sample.guidance=1"
    if sample.classes and not prior.conditional:
        yield f"sample.classes={sample.classes}: the prior learns no classes (prior.conditional=false); leave it empty"
    if sample.prefix:
        height = config.quantize.image_size // config.quantize.patch
        rows = round(sample.prefix * height)
        if "tokenize" not in config.components:
            yield f"sample.prefix={sample.prefix}: completes held-out images; add tokenize to the components"
        elif not 0 < rows < height:
            rule = "at least one must be given and one be left to draw"
            yield f"sample.prefix={sample.prefix}: gives {rows} of {height} rows of codes; {rule}"
