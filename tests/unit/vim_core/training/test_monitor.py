"""Watching a training: evaluations and pictures enter the spool at their step and change no bit of the weights."""

from __future__ import annotations

import math
import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.tiny import (
    Killed,
    Make,
    assert_equal_bits,
    code_data,
    image_data,
    killed_at,
    runtime,
    state_of,
    tasks_on,
    tokenizer_network,
)
from vim_core.checkpoint.checkpoints import Checkpoints
from vim_core.config import TrainConfig
from vim_core.data.images import decode
from vim_core.distributed.runtimes.base import CpuRuntime
from vim_core.models.vit_vqgan import model_config
from vim_core.tasks.base import Task
from vim_core.tasks.prior import PriorTask
from vim_core.tasks.quantizer import QuantizerTask
from vim_core.training.evaluation import BackgroundThread, CancelCheck, Drawing, Evaluation
from vim_core.training.flops import PeakRates
from vim_core.training.loop import train
from vim_core.training.spool import Spool
from vim_core.weights.saving import to_bytes


@pytest.fixture(scope="module")
def makers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Make]:
    """Each task from fields of its settings; the prior has its tokenizer at hand."""
    folder = tmp_path_factory.mktemp("tables")
    network = tokenizer_network()
    files = str(folder / "model.safetensors"), str(folder / "config.json")
    Path(files[0]).write_bytes(to_bytes(network))
    Path(files[1]).write_bytes(model_config(network.config))
    return tasks_on(image_data(folder, test=5), replace(code_data(folder), tokenizer_files=files))


def watched(task: Task, folder: Path, **settings: Any) -> list[dict[str, Any]]:
    spool = Spool(folder / "spool.jsonl")
    train(task, Checkpoints(str(folder / "checkpoints"), {}, task.runtime), spool, **settings)
    return spool.rows()


def evaluated(rows: list[dict[str, Any]]) -> dict[int, dict[str, float]]:
    """Steps done and figures of every evaluation, in the order of the spool."""
    found = [(row["step"] + 1, row["m"]) for row in rows if "m" in row and any(n.startswith("eval/") for n in row["m"])]
    assert len({step for step, _ in found}) == len(found), "each step once"
    return dict(found)


@pytest.mark.parametrize(
    ("name", "precision", "inside", "final"),
    [
        ("quantizer", "bf16", "psnr_db", "test_psnr_db"),
        ("prior", "fp32", "nll_bits_per_token", "nll_bits_per_token"),
        ("classifier", "fp32", "accuracy", "test_accuracy"),
    ],
)
def test_watching_changes_no_bit_and_the_last_evaluation_is_that_of_the_final_weights(
    makers: dict[str, Make], name: str, precision: str, inside: str, final: str, tmp_path: Path
) -> None:
    quiet, seen = makers[name](precision=precision), makers[name](precision=precision, evaluate_every=1)
    if isinstance(quiet, PriorTask):
        quiet.tokenizer_files = None
    quiet_rows, rows = watched(quiet, tmp_path / "quiet"), watched(seen, tmp_path / "seen")
    assert evaluated(quiet_rows) == {}
    found, figures = evaluated(rows), seen.finish()
    assert found[6][f"eval/{inside}"] == pytest.approx(figures[final], rel=1e-6)
    unigram = [row["eval/unigram_bits_per_token"] for row in found.values() if "eval/unigram_bits_per_token" in row]
    assert unigram == ([figures["unigram_bits_per_token"]] if name == "prior" else []), "computed once"
    assert_equal_bits(state_of(seen), state_of(quiet))
    assert (name == "prior") == (pictures(rows) != pictures(quiet_rows))
    losses, quiet_losses = ([row["m"]["loss"] for row in r if "loss" in row.get("m", {})] for r in (rows, quiet_rows))
    assert losses == quiet_losses


def pictures(rows: list[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(row["name"], row["step"]) for row in rows if "png" in row]


def test_samples_are_drawn_at_every_checkpoint_and_decoded(makers: dict[str, Make], tmp_path: Path) -> None:
    rows = watched(makers["prior"](preview=5), tmp_path)
    assert pictures(rows) == [("samples", 1), ("samples", 3), ("samples", 5)]
    last = [row["png"] for row in rows if "png" in row][-1]
    # Three classes in columns, two rows for at least five samples, doubled; a gap of 2 around images of 8 pixels.
    assert decode(Path(last).read_bytes()).shape == (2 * (2 * 10 + 2), 2 * (3 * 10 + 2), 3)
    assert pictures(watched(makers["prior"](preview=0), tmp_path / "none")) == []


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are drawn in a thread, as on accelerators."""
    monkeypatch.setattr(CpuRuntime, "draws_beside", lambda runtime, weights: True)


@pytest.mark.parametrize("name", ["prior", "quantizer"])
def test_pictures_drawn_beside_the_training_are_those_drawn_within(
    makers: dict[str, Make], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Of the weights at their step, though training has gone on when the thread begins. No bit of them changes."""
    fields = {"steps": 4, "checkpoint_every": 2} | ({"preview": 3} if name == "prior" else {})
    within, task = makers[name](**fields), makers[name](**fields)
    released, drawing, step = threading.Event(), task.drawing, task.step

    def late(beside: bool = False) -> Drawing | None:
        draw = drawing(beside)

        def wait(check: CancelCheck) -> dict[str, bytes]:
            assert released.wait(20)
            assert draw is not None
            return draw(check)

        return wait

    def releasing(number: int, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        figures = step(number, batch)
        if number == 2:
            released.set()
        return figures

    expected = watched(within, tmp_path / "within")
    monkeypatch.setattr(CpuRuntime, "draws_beside", lambda runtime, weights: weights > 1000)
    monkeypatch.setattr(task, "drawing", late)
    monkeypatch.setattr(task, "step", releasing)
    rows = watched(task, tmp_path / "beside")
    shown = [{row["step"]: Path(row["png"]).read_bytes() for row in part if "png" in row} for part in (expected, rows)]
    assert sorted(shown[0]) == [1, 3]
    assert shown[0] == shown[1]
    assert_equal_bits(state_of(within), state_of(task))


def test_a_limit_looks_at_the_first_images_alone(makers: dict[str, Make], tmp_path: Path) -> None:
    task = makers["quantizer"](evaluate_every=6, evaluate_limit=2)
    found = evaluated(watched(task, tmp_path))[6]
    assert isinstance(task, QuantizerTask)
    tokenizer, images = task._tokenizer(), task.held_out.plain([0, 1])
    assert tokenizer is not None
    error = (tokenizer.decode(tokenizer.encode(images)) - images).double().square().flatten(1).mean(1)
    assert found["eval/psnr_db"] == pytest.approx(float((-10 * error.log10()).mean()), rel=1e-5)
    assert "eval/codebook_usage_of_2_images" in found


class Scripted(Task):
    """A task whose evaluations wait to be let go and give the figures written down."""

    modules = {"m": torch.nn.Linear(1, 1)}
    optimizers: dict[str, torch.optim.Optimizer] = {}
    headline = ("score", 1)

    def __init__(self, scores: dict[int, float], **fields: Any) -> None:
        super().__init__(TrainConfig(batch=2, log_every=100, checkpoint_every=100, **fields), runtime())
        self.scores, self.held, self.now = scores, threading.Event(), 0
        self.held.set()

    def batch(self, step: int) -> dict[str, Tensor]:
        return {"x": torch.tensor(step)}

    def step(self, step: int, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        self.now = step + 1
        return {"loss": torch.tensor(0.0), "skipped": torch.tensor(0.0)}

    def evaluation(self) -> Evaluation | None:
        done = self.now

        def job(check: CancelCheck) -> dict[str, float]:
            assert self.held.wait(20)
            return {"score": self.scores[done]}

        return job

    def finish(self) -> dict[str, float]:
        return {}

    def export(self) -> dict[str, bytes]:
        return {}


class SlowAt(Scripted):
    """Holds every evaluation back until a step begins."""

    def __init__(self, release: int, scores: dict[int, float], **fields: Any) -> None:
        super().__init__(scores, **fields)
        self.release = release
        self.held.clear()

    def step(self, step: int, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if step == self.release:
            self.held.set()
        return super().step(step, batch)


def test_a_turn_is_left_out_while_the_last_one_runs(tmp_path: Path) -> None:
    task = SlowAt(7, dict.fromkeys(range(10), 1.0), steps=9, evaluate_every=2)
    steps = list(evaluated(watched(task, tmp_path)))
    assert steps[0] == 2
    assert not {4, 6} & set(steps)
    assert steps[-1] == 9


class Painted(Scripted):
    """Draws at every step; each drawing waits for the step that lets it go, or goes wrong."""

    def __init__(self, release: int, steps: int) -> None:
        super().__init__({}, steps=steps)
        self.config.checkpoint_every = 1
        self.release = release
        self.begun = threading.Event()
        self.held.clear()

    def step(self, step: int, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if step == self.release:
            assert self.begun.wait(20)
            self.held.set()
        return super().step(step, batch)

    def drawing(self, beside: bool = False) -> Drawing | None:
        done = self.now

        def draw(check: CancelCheck) -> dict[str, bytes]:
            self.begun.set()
            while not self.held.wait(0.01):
                check()
            if done == 2:
                raise OSError("no paint")
            return {"picture": b"%d" % done}

        return draw


def notes(rows: list[dict[str, Any]]) -> str:
    return "\n".join(str(row["note"]) for row in rows if "note" in row)


def test_pictures_that_come_too_late_are_left_out_and_the_last_are_waited_for(tmp_path: Path, beside: None) -> None:
    rows = watched(Painted(4, 6), tmp_path)
    drawn = pictures(rows)
    assert drawn[0] == ("picture", 0)
    assert drawn[-1] == ("picture", 5)
    for done in (2, 3, 4):
        assert f"no pictures after {done} steps: the last ones are still being drawn" in notes(rows)
        assert ("picture", done - 1) not in drawn


def test_pictures_that_fail_are_noted_and_stop_nothing(tmp_path: Path, beside: None, prompt: None) -> None:
    task = Painted(99, 3)
    task.held.set()
    rows = watched(task, tmp_path)
    assert pictures(rows) == [("picture", 0), ("picture", 2)]
    assert "the pictures after 2 steps failed: OSError: no paint" in notes(rows)


def test_an_interrupted_training_waits_for_no_picture(tmp_path: Path, beside: None) -> None:
    task = Painted(99, 6)
    with pytest.raises(Killed):
        watched(killed_at(task, 3), tmp_path)
    assert task.begun.wait(20)
    assert not any(thread.name.startswith("drawing") for thread in threading.enumerate())
    assert pictures(Spool(tmp_path / "spool.jsonl").rows()) == []


@pytest.fixture
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every evaluation is waited for at the next look, so none is left out."""
    poll = BackgroundThread.poll
    monkeypatch.setattr(BackgroundThread, "poll", lambda evaluator, wait=False: poll(evaluator, True))


def test_the_best_step_is_recorded_and_told(tmp_path: Path, prompt: None) -> None:
    told: list[tuple[int, float]] = []
    task = Scripted({2: 1.0, 4: 3.0, 6: 2.0}, steps=6, evaluate_every=2)
    rows = watched(task, tmp_path, on_evaluated=lambda step, figures: told.append((step, figures["score"])))
    found = evaluated(rows)
    assert {step: figures["eval/best_step"] for step, figures in found.items()} == {2: 2, 4: 4, 6: 4}
    assert told == list(task.scores.items())
    summary = next(row["note"] for row in rows if row.get("summary"))
    assert "best score 3 after 4 steps" in summary


@pytest.mark.parametrize(
    ("scores", "sign", "best"),
    [({2: 1.0, 4: 2.0}, -1, [2, 2]), ({2: math.nan, 4: 1.0, 6: math.nan}, 1, [None, 4, 4])],
)
def test_the_best_follows_the_sign_and_leaves_out_nan(
    scores: dict[int, float], sign: int, best: list[int | None], tmp_path: Path, prompt: None
) -> None:
    task = Scripted(scores, steps=2 * len(scores), evaluate_every=2)
    task.headline = ("score", sign)
    assert [figures.get("eval/best_step") for figures in evaluated(watched(task, tmp_path)).values()] == best


def test_a_resumed_training_remembers_the_best(tmp_path: Path, prompt: None) -> None:
    def make() -> Scripted:
        task = Scripted({2: 5.0, 4: 3.0, 6: 4.0}, steps=6, evaluate_every=2)
        task.config.checkpoint_every = 3
        return task

    with pytest.raises(Killed):
        watched(killed_at(make(), 3), tmp_path)
    assert evaluated(watched(make(), tmp_path))[6]["eval/best_step"] == 2


def test_a_failed_evaluation_is_said_and_stops_nothing(tmp_path: Path) -> None:
    rows = watched(Scripted({}, steps=4, evaluate_every=4), tmp_path)
    assert any(re.match(r"the evaluation after 4 steps failed: KeyError", row.get("note", "")) for row in rows)
    assert [row["step"] for row in rows if "m" in row] == [3]


def test_figures_of_both_networks_are_logged_and_the_last_line_names_steps_rate_and_shares(
    makers: dict[str, Make], tmp_path: Path
) -> None:
    task = makers["quantizer"](evaluate_every=6)
    rows = watched(task, tmp_path, peaks=PeakRates(1e15, 1e12))
    summary = next(row for row in rows if row.get("summary"))
    number = r"[\d.,]+"
    shape = rf"6 steps in {number} s, {number} images/s, MFU {number}%, {number}% of the measured product rate, "
    assert re.fullmatch(shape + rf"best psnr_db {number} after 6 steps", summary["note"])
    assert summary["step"] == 5
    row = next(row["m"] for row in rows if "system/mfu" in row.get("m", {}))
    assert row["system/mfu"] == pytest.approx(row["system/flops_per_s"] / 1e15)
    expected = sum(task.flops().values()) / row["system/step_seconds"]
    assert row["system/flops_per_s"] == pytest.approx(expected)
    first = next(row["m"] for row in rows if "m" in row)
    names = {"gradient_norm", "discriminator_gradient_norm", "learning_rate", "discriminator_learning_rate"}
    names |= {"batch_usage", "codebook_usage", "codebook_perplexity", "images_per_s", "system/data_wait_share"}
    assert names <= first.keys()
    assert first["discriminator_gradient_norm"] > 0
    assert first["learning_rate"] == pytest.approx(1e-2 / 2)
    assert 0 < first["batch_usage"] <= 1
    assert 1 <= first["codebook_perplexity"] <= 16


def test_figures_lost_with_the_process_are_made_up_for(tmp_path: Path, prompt: None) -> None:
    scores = {2: 1.0, 4: 4.0, 6: 2.0}
    first = Scripted(scores, steps=6, evaluate_every=2)
    first.config.checkpoint_every = 4
    with pytest.raises(Killed):
        watched(killed_at(first, 5), tmp_path)
    spool = Spool(tmp_path / "spool.jsonl")
    assert list(evaluated(spool.rows())) == [2, 4]
    lines = spool.path.read_text().splitlines(keepends=True)
    spool.path.write_text("".join(line for line in lines if '/score": 4.0' not in line))  # not by a time with "4.0"
    assert list(evaluated(spool.rows())) == [2]
    again = Scripted(scores, steps=6, evaluate_every=2)
    again.now = 4
    assert {step: figures["eval/score"] for step, figures in evaluated(watched(again, tmp_path)).items()} == scores


def test_other_ranks_copy_their_weights_and_neither_score_nor_draw(
    makers: dict[str, Make], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = makers["prior"](evaluate_every=4)
    copies = []

    def evaluation() -> Evaluation:
        copies.append(1)
        return lambda check: pytest.fail("only the rank with the spool scores")

    task.evaluation = evaluation  # type: ignore[method-assign]
    monkeypatch.setattr(task, "drawing", lambda beside: pytest.fail("only the rank with the spool draws"))
    train(task, Checkpoints(str(tmp_path), {}, task.runtime), None)
    assert len(copies) == 2
