"""The probe's heads against torch and scikit-learn, what may choose among them, resuming, and bounded memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import Ridge
from torch import Tensor

from tests.support import tiny
from tests.support.live_bytes import live_bytes
from vim_core.checkpoint.state_dict import flat_state_dict, restore
from vim_core.config import ProbeConfig
from vim_core.data.code_files import CodeMeta, write_codes
from vim_core.data.probe_split import is_validation
from vim_core.errors import DataError
from vim_core.models.prior import model_config
from vim_core.tasks.probe import ProbeTask, select_heads
from vim_core.tasks.probe_data import PADDING_LABEL, CodeProbeRows, ProbeData
from vim_core.tasks.probe_heads import GramMatrices, SoftmaxHeads, append_ones, unscale
from vim_core.weights.saving import to_bytes

RATES, DECAYS = [0.05, 0.2], [0.0, 1e-2]


def clusters(count: int, spread: float, seed: int, dim: int = 5) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(3, dim)) * 3
    labels = rng.integers(0, 3, count)
    x = centres[labels] + rng.normal(size=(count, dim)) * spread
    return torch.from_numpy(x).float(), torch.from_numpy(labels)


def shares_of(mask: Tensor) -> Tensor:
    sides = torch.stack([mask.float(), torch.ones(len(mask))], dim=1)
    return sides / sides.sum(0)


@pytest.mark.parametrize("pair", range(4))
@pytest.mark.parametrize("fit", [0, 1])
def test_heads_together_equal_torch_sgd_on_each_alone(pair: int, fit: int) -> None:
    (x, y), mask = clusters(24, 2.0, 0), torch.arange(24) % 3 != 0
    heads = SoftmaxHeads(5, 3, RATES, DECAYS, 0.9)
    layer = torch.nn.Linear(5, 3)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    rate, decay = heads.pairs[pair]
    groups: list[dict[str, Any]] = [{"params": [layer.weight], "weight_decay": decay}, {"params": [layer.bias]}]
    theirs = torch.optim.SGD(groups, lr=rate, momentum=0.9)
    for step in range(5):
        rows, factor = torch.arange(step, 24, 2), 1.0 - step / 5
        kept = rows[mask[rows]] if fit == 0 else rows
        for group in theirs.param_groups:
            group["lr"] = rate * factor
        loss = F.cross_entropy(layer(x[kept]), y[kept])
        theirs.zero_grad()
        loss.backward()
        theirs.step()
        targets = F.one_hot(y[rows], 3).float()
        losses = heads.update(
            append_ones(x[rows]), targets, shares_of(mask[rows]), torch.tensor(factor), torch.tensor(1.0)
        )
        assert float(losses[fit, pair]) == pytest.approx(loss.item(), rel=1e-5)
    expected = torch.cat([layer.weight.T, layer.bias[None]]).detach().double()
    torch.testing.assert_close(heads.fitted(fit)[pair], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fit", [0, 1])
def test_ridge_from_streamed_sums_equals_scikit_learn(fit: int) -> None:
    x, y = clusters(90, 2.0, 0)
    x = x * torch.tensor([1.0, 50.0, 0.1, 3.0, 1.0]) + 100
    fits = torch.arange(90) % 4 != 0
    gram = GramMatrices(5, 3)
    for rows in torch.arange(90).split(7):
        counted = torch.stack([fits[rows].float(), torch.ones(len(rows))], dim=1)
        gram.add(append_ones(x[rows]), F.one_hot(y[rows], 3), counted)
    mean, deviation = gram.scaling()
    np.testing.assert_allclose(mean, x.double().mean(0), rtol=1e-9)
    np.testing.assert_allclose(deviation[:2], x.double().std(0, correction=0)[:2], rtol=1e-6)
    kept = fits if fit == 0 else torch.ones(90, dtype=torch.bool)
    scaled = ((x.double() - mean) / deviation)[kept].numpy()
    for penalty, head in zip((1e-3, 0.5), gram.ridge(fit, [1e-3, 0.5]), strict=True):
        theirs = Ridge(alpha=penalty * len(scaled)).fit(scaled, F.one_hot(y[kept], 3).numpy())
        np.testing.assert_allclose(head[:-1].T, theirs.coef_, atol=1e-7)
        np.testing.assert_allclose(head[-1], theirs.intercept_, atol=1e-7)
        raw = unscale(head[None], mean, deviation)[:, 0]
        expected = theirs.predict(((x.double() - mean) / deviation).numpy())
        np.testing.assert_allclose(append_ones(x) @ raw, expected, atol=1e-3)


def test_a_divided_update_is_that_of_decorrelated_features() -> None:
    x, y = clusters(40, 2.0, 0)
    x = x @ torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    targets, shares, gram = F.one_hot(y, 3).float(), shares_of(torch.ones(40)), GramMatrices(5, 3)
    gram.add(append_ones(x), targets, torch.ones(40, 2))
    mean, deviation = gram.scaling()
    scaled = ((x - mean) / deviation).float()
    root = gram.root(1e-2)
    torch.testing.assert_close(root @ root.T, torch.cov(scaled.T, correction=0) + (1e-2 + (5 / 40) ** 2) * torch.eye(5))
    plain = torch.linalg.solve_triangular(root, scaled.T, upper=False).T
    one, other = SoftmaxHeads(5, 3, RATES, [0.0], 0.9), SoftmaxHeads(5, 3, RATES, [0.0], 0.9)
    for _ in range(4):
        given = targets, shares, torch.tensor(1.0), torch.tensor(1.0)
        losses = one.update(append_ones(scaled), *given, root)
        torch.testing.assert_close(losses, other.update(append_ones(plain), *given))
    assert float(losses.max()) < 0.9 * float(torch.tensor(3.0).log())


def test_features_that_never_vary_are_not_blown_up() -> None:
    x, y = clusters(30, 1.0, 0)
    x[:, 2] = 7.0
    gram = GramMatrices(5, 3)
    gram.add(append_ones(x), F.one_hot(y, 3), torch.ones(30, 2))
    deviation = gram.scaling()[1]
    assert float(deviation[2]) > 1e-3 * float(deviation.max())
    assert bool(torch.isfinite(gram.ridge(1, [1e-3])).all())


def test_validation_chooses_and_the_test_split_does_not() -> None:
    pairs, penalties = [(0.1, 0.0), (0.2, 0.0)], [1.0, 2.0]
    best = select_heads(pairs, penalties, [0.3, 0.4, 0.9, 0.8], [0.99, 0.5, 0.1, 0.99])
    assert best.softmax.learning_rate == 0.2
    assert best.softmax.accuracy == 0.5
    assert best.ridge is not None
    assert (best.ridge.weight_decay, best.ridge.accuracy) == (1.0, 0.1)
    assert select_heads(pairs, [], [0.3, 0.4], [0.9, 0.5]).ridge is None


def table(path: Path, split: str, count: int, views: int = 1, label: int | None = None) -> str:
    """Codes whose first column tells the class."""
    rng = np.random.default_rng(len(split))
    labels = np.repeat(np.arange(count) % 3, views)
    codes = rng.integers(0, 11, (count * views, 6))
    codes[:, :3] = labels[:, None] * 3
    keys = [f"{split}-{i:05d}" for i in range(count) for _ in range(views)]
    given = labels if label is None else np.full_like(labels, label)
    meta = CodeMeta(split, (2, 3), 11, "t" * 64, views)
    write_codes(str(path), keys, given, np.tile(np.arange(views), count), codes, meta)
    return str(path)


def data(folder: Path, count: int = 60, views: int = 1, **fields: Any) -> ProbeData:
    prior = tiny.prior_network()
    (folder / "w.safetensors").write_bytes(to_bytes(prior))
    (folder / "c.json").write_bytes(model_config(prior.shape))
    train = table(folder / f"train-{count}", "train", count, views, **fields)
    test = table(folder / f"test-{count}", "test", 20)
    return ProbeData([train], [test], (str(folder / "w.safetensors"), str(folder / "c.json")), 3, cache=str(folder))


def config(**fields: Any) -> ProbeConfig:
    base: dict[str, Any] = {"steps": 30, "batch": 16, "precision": "fp32", "validation_share": 0.3}
    return ProbeConfig(**base | fields)


def stepped(task: ProbeTask, first: int, last: int) -> None:
    for step in range(first, last):
        task.step(step, task.batch(step))


def test_features_that_tell_the_class_are_found_out(tmp_path: Path) -> None:
    task = ProbeTask(config(), data(tmp_path), tiny.runtime())
    stepped(task, 0, 30)
    assert task.finish() == {"block_00": 1.0, "block_01": 1.0}
    record = json.loads(task.export()["accuracy.json"])
    assert [block["accuracy"] for block in record["blocks"]] == [1.0, 1.0]
    assert [block["ridge"]["accuracy"] for block in record["blocks"]] == [1.0, 1.0]
    lines = task.export()["accuracy.csv"].decode().splitlines()
    assert [line.split(",")[:2] for line in lines[1:]] == [
        ["block_00", "softmax"],
        ["block_00", "ridge"],
        ["block_01", "softmax"],
        ["block_01", "ridge"],
    ]


def test_sums_hold_every_row_once_whatever_the_epochs(tmp_path: Path) -> None:
    task = ProbeTask(config(steps=9), data(tmp_path), tiny.runtime())
    stepped(task, 0, 9)
    pooled = task.features(torch.from_numpy(task.sources["codes"].read(np.arange(60), False).numpy())).double()
    fits = torch.tensor([not is_validation(key, task.settings) for key in task.sources["codes"].keys])
    for index, gram in enumerate(task.grams.values()):
        x = append_ones(pooled[index])
        torch.testing.assert_close(gram.inner[1], x.T @ x, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(gram.inner[0], x[fits].T @ x[fits], rtol=1e-5, atol=1e-4)


def test_a_resumed_probe_ends_with_the_same_bits(tmp_path: Path) -> None:
    given = data(tmp_path)
    whole, first, second = (ProbeTask(config(steps=8), given, tiny.runtime()) for _ in range(3))
    stepped(whole, 0, 8)
    stepped(first, 0, 3)
    restore(tiny.InMemory(tiny.state_of(first)), second.modules, second.optimizers)
    stepped(second, 3, 8)
    tiny.assert_equal_bits(tiny.state_of(whole), tiny.state_of(second))
    assert flat_state_dict(whole.modules, {}).keys() >= {"module/heads.block_00/weight", "module/gram.block_01/inner"}


def test_all_views_of_an_image_go_the_same_way(tmp_path: Path) -> None:
    rows = CodeProbeRows(config(), data(tmp_path, 20, views=3))
    fits: dict[str, set[float]] = {}
    for step in range(4):
        names = [rows.keys[int(row)] for row in rows.order.batch(step, 16)[1]]
        for key, flag in zip(names, rows.prepare(rows.request(step, 0, 1))["fits"].tolist(), strict=True):
            fits.setdefault(key, set()).add(flag)
    assert {len(flags) for flags in fits.values()} == {1}
    chosen = [rows.keys[int(row)] for row in rows.validation()]
    assert len(chosen) == len(set(chosen))
    assert set(chosen) == {key for key, flags in fits.items() if flags == {0.0}}


def test_judged_rows_come_once_in_batches_of_one_size(tmp_path: Path) -> None:
    rows = CodeProbeRows(config(batch=8), data(tmp_path))
    parts = [list(rows.evaluation_batches(True, rank, 2)) for rank in (0, 1)]
    assert {len(labels) for part in parts for _, labels in part} == {4}
    labels = torch.cat([torch.cat([parts[0][i][1], parts[1][i][1]]) for i in range(3)])
    assert labels[:20].tolist() == (np.arange(20) % 3).tolist()
    assert labels[20:].tolist() == [PADDING_LABEL] * 4


def test_a_batch_that_is_not_finite_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = ProbeTask(config(), data(tmp_path), tiny.runtime())
    stepped(task, 0, 2)
    before, own = tiny.state_of(task), task.forward
    monkeypatch.setattr(task, "forward", lambda codes: own(codes) * torch.tensor([1.0, torch.nan])[:, None, None])
    figures = task.step(2, task.batch(2))
    after = tiny.state_of(task)
    assert float(figures["skipped"]) == 1.0
    assert [*task.nonfinite.drain().values()][-1:] == [("block_01",)]
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if "block_01" in name} == same


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    peaks = []
    for count in (64, 256):
        task = ProbeTask(config(batch=16, steps=count // 16), data(tmp_path, count), tiny.runtime())
        stepped(task, 0, 1)
        with live_bytes() as alive:
            stepped(task, 1, task.config.steps)
        peaks.append(alive.peak)
        with live_bytes() as alive:
            task.finish()
        peaks.append(alive.peak)
    # Nothing of the size of all features (256 rows of 16 in two blocks: 32 KiB) is ever there.
    assert peaks[2] <= peaks[0] + 16_384, peaks
    assert peaks[3] <= peaks[1] + 16_384, peaks


def test_microbatches_make_the_same_features(tmp_path: Path) -> None:
    given = data(tmp_path)
    one, four = (ProbeTask(config(accumulate=parts), given, tiny.runtime()) for parts in (1, 4))
    codes = one.batch(0)["codes.inputs"]
    for name, value in one.feature_sets("codes", codes).items():
        torch.testing.assert_close(four.feature_sets("codes", codes)[name], value, atol=1e-6, rtol=1e-5)


def test_unlabelled_images_and_an_empty_validation_share_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no label"):
        ProbeTask(config(), data(tmp_path, label=-1), tiny.runtime())
    (tmp_path / "b").mkdir()
    task = ProbeTask(config(validation_share=1e-4, steps=1), data(tmp_path / "b"), tiny.runtime())
    stepped(task, 0, 1)
    with pytest.raises(DataError, match=r"validation_share=0\.0001: no image"):
        task.finish()
