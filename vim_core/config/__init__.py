"""Plain dataclasses for every component's settings.

`components/contract/settings.py` merges presets and command-line overrides into them. Every field changes the
result and enters the component's fingerprint, except those made with `execution`: they only say where or
how the work runs. A field that nothing reads fails a test.
"""

from vim_core.config.data import IngestConfig, ReconstructConfig, StatisticsConfig, TokenizeConfig
from vim_core.config.evaluation import ClassifyConfig, ProbeConfig, ReportConfig, ScoreConfig
from vim_core.config.fields import one_of, require
from vim_core.config.gates import GatesConfig
from vim_core.config.pipeline import PipelineConfig, RunConfig
from vim_core.config.prior import PriorConfig, SampleConfig
from vim_core.config.quantize import (
    CodebookConfig,
    DiscriminatorConfig,
    EntropyConfig,
    LeCamConfig,
    LossConfig,
    QuantizeConfig,
    RestartConfig,
)
from vim_core.config.selection import NetworkConfig, SelectConfig, SelectorConfig, TradeoffConfig
from vim_core.config.training import AugmentConfig, OptimConfig, StackConfig, TrainConfig

__all__ = [
    "AugmentConfig",
    "ClassifyConfig",
    "CodebookConfig",
    "DiscriminatorConfig",
    "EntropyConfig",
    "GatesConfig",
    "IngestConfig",
    "LeCamConfig",
    "LossConfig",
    "NetworkConfig",
    "OptimConfig",
    "PipelineConfig",
    "PriorConfig",
    "ProbeConfig",
    "QuantizeConfig",
    "ReconstructConfig",
    "ReportConfig",
    "RestartConfig",
    "RunConfig",
    "SampleConfig",
    "ScoreConfig",
    "SelectConfig",
    "SelectorConfig",
    "StackConfig",
    "StatisticsConfig",
    "TokenizeConfig",
    "TradeoffConfig",
    "TrainConfig",
    "one_of",
    "require",
]
