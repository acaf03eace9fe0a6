"""Plain dataclasses for every component's settings; here those of a whole preset and of where it runs.

`components/contract/settings.py` merges presets and command-line overrides into them. A field changes the result and
enters the component's fingerprint, unless it is made with `execution`: then it only says where or how the work runs.
A test fails for a field that no code reads.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from vim_core.config.data import IngestConfig, ReconstructConfig, TokenizeConfig
from vim_core.config.evaluation import ClassifyConfig, ProbeConfig, ReportConfig, ScoreConfig, StatisticsConfig
from vim_core.config.fields import Amount, Count, PositiveInt, Ranged, Share, execution, one_of, require
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
from vim_core.config.selection import NetworkConfig, SelectConfig, SelectorConfig, TradeoffConfig, same_training
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
]


@dataclass
class RunConfig(Ranged):
    """Where the pipeline runs and where it stores results; never part of a fingerprint.

    `parallel` is how `workers` share a training: 'data' (each has the whole network) or 'fsdp' (each has some rows of
    every matrix). `fsdp` of them, such as those of a node, share one copy of the weights (0: all). A step longer than
    `step_timeout_s` (0: no limit; the first one may include compilation) ends its worker, which is started again at
    most `restarts` times. Workers poll for preemption every `notice_every` steps. With `device: xla`: `topology` and
    `accelerator` name the TPU slice (2x2x4 of TPU-V4 has 16 chips on 4 hosts), `workers` its hosts, `fsdp` the devices
    that share one copy of the weights (0: all), `compile_cache` a folder on each host for compiled programs.
    `code_cache` is a folder on each host for decoded code tables, which all processes there map into memory (empty:
    `vim/codes` in the user's cache folder). `beam_runner` FnApiRunner runs on this machine in `beam_processes`
    processes; `beam_options` are flags for another one, such as --job_endpoint=host:port.
    `system_metrics` logs CPU, memory and GPU of every node to MLflow, `register` registers trained networks as models.
    `rehearse` is the number of steps that each training measures (0: none); `vimctl rehearse` sets it.
    `changed` are the settings that differ from the preset's file, as key=value: loading sets it, and MLflow shows it.
    `hardware` names a file of `pipelines/conf/hardware` (or is the path of one) whose settings come between preset and
    command line: recompute, accumulation, precision, workers, but never batch or rates (empty: none).

    `continue_from` is what to do with checkpoints of a training on other hardware or in another precision (of another
    numeric class, so that the result would not be bit-equal): 'any' continues where one of them is furthest and says
    so, 'same' refuses to begin anew beside them.

    `deterministic` makes CUDA use deterministic kernels; false lets cuDNN choose the fastest by trial.

    `root` is the folder or URI of all artifacts. `tracking_uri` is MLflow's address (empty: a database in the root;
    off: none). `threads` are those of each worker (0: all of this machine; on a running cluster, and with GPUs, the
    workers of a node share its cores), `data_workers` the processes that load its images (0: itself). `ray_address` is
    a running Ray cluster to join (empty: one is started here).
    """

    root: str = execution("artifacts")
    tracking_uri: str = execution("")
    threads: Count = execution(0)
    device: str = execution("auto")
    workers: PositiveInt = execution(1)
    parallel: str = execution("data")
    step_timeout_s: Amount = execution(0.0)
    notice_every: PositiveInt = execution(10)
    topology: str = execution("")
    accelerator: str = execution("TPU-V4")
    fsdp: Count = execution(0)
    compile_cache: str = execution("")
    data_workers: Count = execution(0)
    restarts: Count = execution(3)
    continue_from: str = execution("any")
    deterministic: bool = execution(True)
    ray_address: str = execution("")
    beam_runner: str = execution("FnApiRunner")
    beam_processes: Count = execution(1)
    beam_options: list[str] = field(default_factory=list, metadata={"execution": True})
    code_cache: str = execution("")
    system_metrics: bool = execution(True)
    register: bool = execution(True)
    hardware: str = field(default="", compare=False, metadata={"execution": True})
    rehearse: Count = execution(0)
    changed: list[str] = field(default_factory=list, compare=False, metadata={"execution": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("run.device", self.device, ("auto", "cpu", "cuda", "xla"))
        one_of("run.continue_from", self.continue_from, ("any", "same"))
        one_of("run.parallel", self.parallel, ("data", "fsdp"))
        if self.parallel == "fsdp" and self.fsdp:
            require(self.workers % self.fsdp == 0, "run.fsdp", self.fsdp, f"does not divide run.workers={self.workers}")


@dataclass
class GatesConfig(Ranged):
    """Bounds of the quality gates; not part of a fingerprint, so a changed bound does not repeat any work.

    `codebook_usage` is the minimal share of codes that the tokenizer uses at the end of its training, over the last
    logged window of batches (0: any). `nonfinite_share` is the maximal share of a training's updates that were skipped
    because a loss or gradient was not finite (1: any).
    """

    codebook_usage: Share = execution(0.1)
    nonfinite_share: Share = execution(0.01)


@dataclass
class PipelineConfig:
    """A whole preset: which components run, and each one's settings under its own name.

    `preset` is its name, which experiments, reports and registered models carry. `components` are those that run; the
    order does not matter.
    """

    preset: str = "custom"
    components: list[str] = field(default_factory=list)
    run: RunConfig = field(default_factory=RunConfig)
    gates: GatesConfig = field(default_factory=GatesConfig, metadata={"execution": True})
    ingest: IngestConfig = field(default_factory=IngestConfig)
    classify: ClassifyConfig = field(default_factory=ClassifyConfig)
    selector: SelectorConfig = field(default_factory=SelectorConfig)
    statistics: StatisticsConfig = field(default_factory=StatisticsConfig)
    quantize: QuantizeConfig = field(default_factory=QuantizeConfig)
    tokenize: TokenizeConfig = field(default_factory=TokenizeConfig)
    reconstruct: ReconstructConfig = field(default_factory=ReconstructConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    tradeoff: TradeoffConfig = field(default_factory=TradeoffConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    report: ReportConfig = field(default_factory=ReportConfig)

    def __post_init__(self) -> None:
        judged = "statistics" in self.components and self.statistics.network == "classifier"
        rule = "statistics.network=classifier needs classify: add it to the components, or choose another network"
        require(not judged or "classify" in self.components, "components", self.components, rule)
        both = {"classify", "selector"} <= set(self.components)
        rule = "is that of classify, and so are all other settings: a selector must not evaluate; give it another seed"
        require(not (both and same_training(self.classify, self.selector)), "selector.seed", self.selector.seed, rule)
        if self.ingest.labelled:
            return
        for name in ("classify", "selector", "select", "tradeoff", "probe"):
            rule = f"{name} needs classes, and ingest.labelled=false"
            require(name not in self.components, "components", self.components, rule)
        rule = "needs classes, and ingest.labelled=false; set prior.conditional=false"
        require(not (self.prior.conditional and "prior" in self.components), "prior.conditional", True, rule)
