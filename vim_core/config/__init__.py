"""Plain dataclasses for every component's settings.

`components/contract/settings.py` merges presets and command-line overrides into them. A field changes the result and
enters the component's fingerprint, unless it is made with `execution`: then it only says where or how the work runs.
A test fails for a field that no code reads.
"""

from vim_core.config.data import IngestConfig, ReconstructConfig, TokenizeConfig
from vim_core.config.evaluation import ClassifyConfig, ProbeConfig, ReportConfig, ScoreConfig, StatisticsConfig
from vim_core.config.fields import one_of, require
from vim_core.config.pipeline import GatesConfig, PipelineConfig, RunConfig
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
