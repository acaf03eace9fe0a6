"""Benchmarks run at toy size, keep rows of the agreed form, and compare things that compute the same."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.benchmarks import __main__ as command
from tests.benchmarks import sampling, stage1, stage2
from tests.benchmarks.harness import NOT_MEASURED, RESULTS, Bench, Row
from tests.benchmarks.plain import PlainStep
from tests.benchmarks.shapes import TOY, VIM_BASE, Stage2, toy_stage1, toy_stage2
from tests.support import tiny
from vim_core.models.prior import ImagePrior

FIELDS = ["name", "value", "unit", "peer", "peer_value", "ratio", "device", "dtype", "shape", "torch"]


def bench(folder: Path) -> Bench:
    return Bench(tiny.runtime(), toy=True, repeats=1, folder=folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", command.BENCHMARKS)
def test_every_benchmark_runs_at_toy_size(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its rows are whole and its ratios those of their figures."""
    assert command.main([name, "--toy", "--repeats", "1", "--threads", "1", "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / f"{name}-cpu.json").read_text())
    assert rows
    for row in rows:
        assert list(row) == FIELDS
        assert row["torch"] == torch.__version__
        assert row["name"] in capsys.readouterr().out or len(rows) > 1
        measured = {row["value"], row["peer_value"], row["ratio"]} - {NOT_MEASURED}
        assert all(isinstance(figure, float) and figure > 0 for figure in measured)
        if isinstance(row["ratio"], float):
            assert row["ratio"] == pytest.approx(row["value"] / row["peer_value"], rel=2e-3)


def test_without_a_gpu_its_figures_say_so(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert command.main(["stage2_gpt2", "--gpu", "--repeats", "1", "--threads", "1", "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "stage2_gpt2-gpu.json").read_text())
    assert {row[key] for row in rows for key in ("value", "peer_value", "ratio")} == {NOT_MEASURED}
    assert all("no GPU" in row["peer"] for row in rows)


@pytest.mark.slow
def test_shares_of_a_gpu_are_never_claimed_by_a_cpu(tmp_path: Path) -> None:
    for name in command.GPU_ONLY:
        rows = command.run(name, tiny.runtime(), toy=False, repeats=1)
        assert {row.value for row in rows} == {NOT_MEASURED}


def test_a_missing_peer_leaves_our_figure_and_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (stage1, stage2, sampling):
        monkeypatch.setattr(module, "installed", lambda name: False)
    run = bench(tmp_path)
    rows = [*stage1.stage1_parti(run), *stage2.stage2_gpt2(run), *sampling.sampling_gpt2(run)]
    for row in rows:
        assert isinstance(row.value, float)
        assert (row.peer_value, row.ratio) == (NOT_MEASURED, NOT_MEASURED)
        assert "not installed" in row.peer


@pytest.mark.parametrize("adversarial", [False, True])
def test_the_plain_step_computes_what_ours_does(adversarial: bool, tmp_path: Path) -> None:
    shape = toy_stage1(4)
    config = shape.config(adversarial)
    run = bench(tmp_path)
    task = stage1.ours(run, config)
    tiny.enlarge(task.model)
    plain = PlainStep(config, run.runtime.device, run.runtime.autocast)
    plain.model.load_state_dict(task.model.state_dict())
    if plain.discriminator is not None and task.discriminator is not None:
        plain.discriminator.load_state_dict(task.discriminator.state_dict())
    images = stage1.images_of(run, shape)
    figures = task.step(0, {"images": images})
    loss, fake = plain.generator_loss(images)
    torch.testing.assert_close(loss, figures["loss"], rtol=1e-5, atol=1e-6)
    if adversarial:
        judged = plain.discriminator_loss(images, fake.detach(), penalised=True)
        torch.testing.assert_close(judged, figures["discriminator"], rtol=1e-5, atol=1e-5)


def test_counted_operations_of_the_generator_by_hand() -> None:
    shape = toy_stage1(1)
    tokens, dim, hidden = 4, TOY.dim, TOY.mlp
    block = 2 * tokens * (4 * dim**2 + 2 * dim * hidden) + 4 * tokens**2 * dim
    heads = 2 * tokens * (dim * hidden + hidden * dim) + 2 * tokens * (dim * hidden + hidden * 4 * 4 * 6)
    # The embedding of the pixels and the lookup need no gradient towards their inputs or at all.
    middle = 2 * tokens * (dim * shape.code_dim) * 2
    embed, lookup = 2 * tokens * 4 * 4 * 3 * dim, 2 * tokens * shape.codes * shape.code_dim
    expected = 3 * (2 * block + heads + middle) + 2 * embed + lookup
    assert stage1.step_flops(shape.config(adversarial=False)) == expected


def test_r1_costs_its_share_of_the_steps() -> None:
    assert stage1.amortised(1.0, 17.0, 16) == 2.0
    shape = toy_stage1(4)
    assert stage1.step_flops(shape.config(adversarial=True)) > stage1.step_flops(shape.config(adversarial=False))


def test_operations_of_a_prior_are_six_a_weight_and_token_and_attention() -> None:
    shape = Stage2("VIM-Base", VIM_BASE, 1)
    model = 24 * (4 * 1536**2 + 2 * 1536 * 6144) + 1536 * 8192
    assert stage2.step_flops(shape) == 6 * 1024 * model + 12 * 24 * 1024**2 * 1536


def test_bytes_of_a_decoding_step_are_weights_and_half_a_cache() -> None:
    shape = Stage2("VIM-Base", VIM_BASE, 64)
    products = sum(m.weight.numel() for m in stage2_linears(shape))
    assert sampling.step_bytes(shape, 0) == 2 * products
    whole = 64 * 24 * 2 * 1536 * 1024 * 2
    assert sampling.step_bytes(shape, 64) - 2 * products == pytest.approx(whole / 2, rel=2e-3)


def stage2_linears(shape: Stage2) -> list[torch.nn.Linear]:
    with torch.device("meta"):
        model = ImagePrior(shape.shape())
    return [module for module in model.modules() if isinstance(module, torch.nn.Linear)]


def test_generate_draws_as_many_codes_of_the_vocabulary() -> None:
    shape = toy_stage2()
    for cache in ("default", "static"):
        codes: Any = sampling.theirs(shape, torch.float32, torch.device("cpu"), cache)()
        assert codes.shape == (shape.batch, 1 + shape.side**2)
    ours: Any = sampling.ours(shape, torch.float32, torch.device("cpu"))()
    assert ours.shape == (shape.batch, shape.side**2)


def test_sides_take_turns(tmp_path: Path) -> None:
    calls: list[str] = []
    run = dataclasses.replace(bench(tmp_path), repeats=2)
    seconds = run.medians({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")})
    assert calls == ["a", "b", "a", "b", "a", "b"]
    assert all(math.isfinite(value) for value in seconds.values())


def test_kept_results_have_the_agreed_form() -> None:
    kept = sorted(RESULTS.glob("stage*.json"))
    for path in kept:
        rows = [Row(**row) for row in json.loads(path.read_text())]
        assert rows, path
        assert all(row.name and row.shape for row in rows)
