"""Accuracy and Fréchet distance over temperature, guidance and acceptance, with intervals: which settings are best."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from components.contract import lineage
from components.contract.api import Context, Inputs, Outcome
from vim_core.config import TradeoffConfig
from vim_core.errors import ConfigError, LineageError
from vim_core.storage import io

if TYPE_CHECKING:
    from components.tradeoff.points import Measure
    from vim_core.features.selectors import SelectorSpec

VERSION = 1
INPUTS = {
    "prior": "prior",
    "tokenizer": "quantize",
    "classifier": "classify",
    "statistics": "statistics",
    "selector": "selector?",
}
FILE = "tradeoff.json"


def source_state(config: TradeoffConfig) -> str:
    """What lies outside the pipeline: the list of a network's classes. Raises `DataError` where it cannot be read."""
    from components.select.network import state_of

    return state_of(config.network)


def run(config: TradeoffConfig, inputs: Inputs, ctx: Context) -> Outcome:
    """`tradeoff.json`: every point with its intervals, the best by distance, and the best guidance with an interval.

    Points that an earlier attempt finished are kept, and of an unfinished one the candidates drawn so far.

    Raises:
        LineageError: prior and tokenizer, or the classifiers and statistics, do not belong together; or the judge is
            the network that selects.
        ConfigError: the prior has no classes, or guidance is asked of one that never saw the null class; the selector
            is not there or has other classes.
    """
    from components.select import network
    from components.tradeoff import candidates, curves, networks, points

    check(config, inputs)
    networks.check_lineage(inputs, "tradeoff")
    selector = _selector(config, inputs, ctx)
    digest = network.described(selector)["digest"] if selector is not None else ""
    network.refuse_as_judge(inputs["classifier"], digest, "tradeoff")
    shared = _measure(config, inputs)
    cells = list(candidates.cells(config.temperatures, config.guidances, _place(config, ctx)))
    _fill(cells, shared, selector, inputs, ctx)
    records = [points.read(cell, rate) for cell in cells for rate in config.acceptances]
    resampled = [record.pop(points.RESAMPLED) for record in records]
    best = min(range(len(records)), key=lambda number: float(records[number]["fd"]))
    whole = {
        "points": records,
        "best": best,
        "best_guidance": curves.locations(config, records, resampled),
        "figures": curves.figure_names(inputs),
        "judge": inputs["classifier"].digest,
        "selector": digest,
        "protocol": curves.protocol(config, inputs, selector),
    }
    io.write_bytes(ctx.path(FILE), json.dumps(whole, sort_keys=True, indent=1).encode())
    for number, record in enumerate(records):
        ctx.tracker.metrics(number, {name: float(value) for name, value in record.items()})
    return _outcome(config, inputs, whole, ctx)


def check(config: TradeoffConfig, inputs: Inputs) -> None:
    """Refuse a prior that does not belong to the tokenizer or cannot do what is asked; see `run`."""
    prior, tokenizer = inputs["prior"], inputs["tokenizer"]
    trained_on, given = lineage.of_codes(prior.properties), lineage.of_tokenizer(tokenizer)
    if not lineage.same_codes(trained_on, given):
        raise LineageError(f"the prior {prior.digest[:12]} {lineage.difference(trained_on, given, 'belongs to')}")
    if not prior.properties["conditional"]:
        raise ConfigError("tradeoff: accuracy is of the class wanted, and the prior has no classes; leave it out")
    if any(guidance != 1.0 for guidance in config.guidances) and not prior.properties["null_trained"]:
        raise ConfigError(
            f"tradeoff.guidances={config.guidances}: needs a prior trained with prior.label_dropout > 0; set [1.0]"
        )


def _selector(config: TradeoffConfig, inputs: Inputs, ctx: Context) -> SelectorSpec | None:
    """The network that selects; none where every candidate is accepted."""
    from components.engines.devices import beam_device
    from components.select.network import spec_of

    if min(config.acceptances) == 1.0:
        return None
    classes = [str(name) for name in inputs["prior"].properties["classes"]]
    return spec_of(config.network, inputs, classes, beam_device(ctx.run), "tradeoff")


def _measure(config: TradeoffConfig, inputs: Inputs) -> Measure:
    from components.statistics.component import read
    from components.statistics.shards import whole
    from components.tradeoff.candidates import Drawing
    from components.tradeoff.points import Measure
    from vim_core.metrics.tradeoff import resamples
    from vim_core.sampling.rejection import pool

    statistics, classes = inputs["statistics"], len(inputs["prior"].properties["classes"])
    reference = read(statistics.uri(whole(str(statistics.properties["split"]))))
    drawing = Drawing(classes, pool(config.count, min(config.acceptances)) * classes, config.lanes)
    return Measure(config, drawing, reference, resamples(config.seed, config.bootstrap, classes, config.count))


def _place(config: TradeoffConfig, ctx: Context) -> str:
    """Below the work folder; unfinished work of another numeric class is not continued (contract 11)."""
    from components.engines.devices import beam_device, numeric_folder
    from vim_core.distributed.runtimes import resolve_threads

    name = numeric_folder(beam_device(ctx.run), resolve_threads(ctx.run.threads), config.lanes)
    return io.join(ctx.work, f"{name}-{config.precision}")


def _fill(cells: list[Any], shared: Measure, selector: SelectorSpec | None, inputs: Inputs, ctx: Context) -> None:
    """Draw and measure what no earlier attempt did; the candidates of a cell go once its points are there."""
    import torch

    from components.tradeoff import candidates, networks, points
    from vim_core.distributed.runtimes import resolve_threads

    torch.set_num_threads(resolve_threads(ctx.run.threads))
    config, done = shared.config, 0
    open_rates = {cell: [r for r in config.acceptances if not points.finished(cell, r)] for cell in cells}
    waiting = [cell for cell in cells if open_rates[cell]]
    ctx.progress.start(len(cells) * shared.drawing.candidates, "image")
    done = (len(cells) - len(waiting)) * shared.drawing.candidates
    if done:
        ctx.progress.note(f"{len(cells) - len(waiting)} of {len(cells)} points were finished by an earlier attempt")
    if not waiting:
        return
    eyes, decoder = networks.eyes(inputs, ctx, selector), _decoder(inputs, ctx)
    prior = _prior(inputs, ctx)

    def advance(drawn: int) -> None:
        nonlocal done
        done += drawn
        ctx.progress.advance(done)

    for cell in waiting:
        sampler = _sampler(config, prior, cell.temperature, cell.guidance)
        candidates.draw(cell, shared.drawing, sampler, decoder, eyes, advance)
        points.measure(cell, open_rates[cell], shared)
        io.remove_tree(cell.folder)


def _prior(inputs: Inputs, ctx: Context) -> Any:
    from components.engines.devices import beam_device
    from vim_core.models.prior import load_prior

    made = inputs["prior"]
    return load_prior(made.uri("model.safetensors"), made.uri("config.json"), beam_device(ctx.run))


def _decoder(inputs: Inputs, ctx: Context) -> Any:
    from components.engines.devices import beam_device
    from vim_core.models.vit_vqgan import load_tokenizer

    made = inputs["tokenizer"]
    return load_tokenizer(made.uri("model.safetensors"), made.uri("config.json"), beam_device(ctx.run))


def _sampler(config: TradeoffConfig, prior: Any, temperature: float, guidance: float) -> Any:
    import torch

    from vim_core.sampling import Sampler, Settings

    settings = Settings(config.seed, temperature, config.top_k, config.top_p, guidance)
    return Sampler(prior, settings, config.lanes, torch.bfloat16 if config.precision == "bf16" else torch.float32)


def _outcome(config: TradeoffConfig, inputs: Inputs, whole: dict[str, Any], ctx: Context) -> Outcome:
    from components.engines.devices import beam_device
    from components.tradeoff import curves
    from vim_core.distributed.runtimes import resolve_threads

    return Outcome(
        metrics=curves.metrics(config, whole),
        properties={
            "judge": whole["judge"],
            "selector": whole["selector"],
            "prior": inputs["prior"].digest,
            **lineage.of_tokenizer(inputs["tokenizer"]),
            "classes": inputs["prior"].properties["classes"],
        },
        protocols=curves.protocols(config, inputs, whole),
        numeric={
            "device": beam_device(ctx.run),
            "dtype": config.precision,
            "threads": resolve_threads(ctx.run.threads),
        },
    )
