"""Checkpoints of one training: sharded, written beside the training, whole or not there, kept by age and by score.

Own safetensors shards rather than torch.distributed.checkpoint: that one keeps its metadata as a pickle, wants a
process group of its own for asynchronous writing, and has no notion of an attempt; an index in JSON over files
that any safetensors reader opens does the same in few lines, and is read by rows from local disks and buckets.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from vim_core.checkpoint.files import (
    INDEX,
    Damaged,
    Index,
    Part,
    Saved,
    part_name,
    read_index,
    read_part,
    step_folder,
    to_json,
    verify,
    write_part,
)
from vim_core.checkpoint.state import Piece, State, flatten, pieces, restore
from vim_core.distributed.runtimes.base import Runtime
from vim_core.errors import ConfigError, ResumeError, StorageError
from vim_core.storage import io

__all__ = ["Checkpoints", "flatten", "restore"]

log = logging.getLogger(__name__)
BEST = "best.json"
VISIBLE_S = 60.0
"""How long a worker's shard may take to appear to another one after it was written."""


class Checkpoints:
    """The checkpoints of one training in one folder (local or remote).

    `save`, `settle` and `latest` are collective: every worker calls them at the same step.

    Args:
        folder: below the component's leased work folder, one per numeric class.
        identity: what must match to continue, such as the fingerprint; a mismatch is refused.
        runtime: of this worker.
        keep: how many of the newest stay.
        best: '<max|min> <figure>': the best by this figure of `evaluated` stays as well; '' for none.
        strict: whether a checkpoint that cannot be written stops the training, or is only said.
        note: takes a line for people.
        before: called on rank 0 before a checkpoint counts, in the writing thread: what must not lie behind it.
    """

    def __init__(
        self,
        folder: str,
        identity: dict[str, Any],
        runtime: Runtime,
        keep: int = 2,
        best: str = "",
        strict: bool = False,
        note: Callable[[str], None] = log.warning,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder = folder
        self.identity = identity
        self.runtime = runtime
        self.keep = keep
        self.best = best
        self.strict = strict
        self.note = note
        self._before = before
        self._writer = ""
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._running: tuple[int, Future[None], Future[None] | None] | None = None
        self._confirmed = threading.Event()
        self._abandoned = threading.Event()
        self._scores: dict[int, float] = {}
        # Both the training's thread and the writing one look for the best.
        self._lock = threading.Lock()

    def save(self, step: int, state: State) -> None:
        """Copy the state after `step` steps to memory and write it while training goes on.

        Waits for the write before. Raises `StorageError` where that one failed and `strict` is set.
        """
        self.settle()
        rank, world = self.runtime.rank, self.runtime.world
        if self.runtime.device.type == "xla":
            # Put together from the devices' parts, by all hosts together.
            state = {name: self.runtime.to_host(value) for name, value in state.items()}
        copied = dict(pieces(state, rank, world))
        self._confirmed.clear()
        self._abandoned.clear()
        name = part_name(self._attempt(), rank, world)
        folder = step_folder(self.folder, step)
        part: Future[Part] = Future()
        written = self._pool.submit(_write, folder, name, copied, rank > 0, part)
        committed = self._pool.submit(self._commit, step, part) if rank == 0 else None
        self._running = (step, written, committed)

    def settle(self) -> bool:
        """Wait until the last `save` is on disk, or failed; True for the former, or where there was none.

        Raises:
            StorageError: it failed and `strict` is set.
        """
        if self._running is None:
            return True
        step, written, committed = self._running
        self._running = None
        error = written.exception()
        whole = not self._any(error is not None)
        (self._confirmed if whole else self._abandoned).set()
        if committed is not None:
            error = error or committed.exception()
        if not self._any(error is not None):
            return True
        where = step_folder(self.folder, step)
        reason = f"checkpoint of step {step} not written to {where}: {error or 'another worker says why'}"
        if self.strict:
            raise StorageError(f"{reason}; checkpoint_errors=warn would go on without it")
        self.note(f"{reason}; training goes on, the checkpoint before it stays")
        return False

    def close(self) -> None:
        """End: wait for this worker's last write, but for no other worker, which may be gone."""
        self._abandoned.set()
        self._pool.shutdown()

    def latest(self) -> Saved | None:
        """The newest whole checkpoint, or None; a damaged one is passed over with a warning.

        Raises:
            ResumeError: it belongs to another training.
        """
        steps = self._committed() if self.runtime.rank == 0 else []
        while True:
            # Rank 0's view counts: another worker may see an older listing of the same store.
            step = self._agree(steps.pop() if steps else -1)
            if step < 0:
                return None
            folder = step_folder(self.folder, step)
            saved = self._checked(folder)
            if not self._any(saved is None):
                assert saved is not None
                return saved
            log.warning("%s is damaged; trying the one before", folder)

    def evaluated(self, step: int, figures: dict[str, float]) -> None:
        """Say what the state after `step` steps is worth; it counts where that step has a checkpoint. Rank 0's word.

        Raises:
            ConfigError: the figure that `best` names is not among them.
        """
        if not self.best or self.runtime.rank:
            return
        mode, figure = self.best.split()
        if figure not in figures:
            raise ConfigError(
                f"best={self.best!r}: the evaluation has no such figure, but {', '.join(sorted(figures))}"
            )
        self._scores[step] = figures[figure] if mode == "max" else -figures[figure]
        self._best_of(self._committed())

    def best_step(self) -> int | None:
        """The step of the best checkpoint so far, if evaluations were given."""
        uri = io.join(self.folder, BEST)
        return int(json.loads(io.read_bytes(uri))["step"]) if io.exists(uri) else None

    def _any(self, flag: bool) -> bool:
        """Whether it holds on any worker."""
        if self.runtime.world == 1:
            return flag
        return bool(self.runtime.control(torch.tensor([float(flag)])).sum() > 0)

    def _agree(self, number: int) -> int:
        """Rank 0's number."""
        if self.runtime.world == 1:
            return number
        return int(self.runtime.control(torch.tensor([number]))[0])

    def _attempt(self) -> str:
        if not self._writer:
            self._writer = f"{self._agree(secrets.randbits(62)):016x}"
        return self._writer

    def _steps(self) -> list[int]:
        """Steps that have a folder."""
        numbers = [name.removeprefix("step-") for name in io.list_names(self.folder) if name.startswith("step-")]
        return sorted(int(number) for number in numbers if number.isdigit())

    def _committed(self) -> list[int]:
        """Steps that have an index."""
        return [step for step in self._steps() if io.exists(io.join(step_folder(self.folder, step), INDEX))]

    def _checked(self, folder: str) -> Saved | None:
        """The checkpoint, if its index and this worker's share of its shards are as they were written."""
        try:
            index = read_index(folder)
            if index.identity != self.identity:
                raise ResumeError(f"{folder} belongs to {index.identity}, not to {self.identity}; remove it")
            for part in index.parts[self.runtime.rank :: self.runtime.world]:
                verify(folder, part)
        except Damaged as error:
            log.warning("%s: %s", folder, error)
            return None
        return Saved(folder, index)

    def _commit(self, step: int, own: Future[Part]) -> None:
        """Rank 0: once every worker's shard is there, write the index and drop what need not be kept."""
        folder = step_folder(self.folder, step)
        names = [part_name(self._writer, rank, self.runtime.world) for rank in range(1, self.runtime.world)]
        parts = [own.result(), *self._others(folder, names)]
        writer = {"world": self.runtime.world, "name": self._writer}
        self._before()
        io.write_bytes(io.join(folder, INDEX), to_json(Index(step, self.identity, writer, parts)))
        for name in names:
            io.remove_tree(io.join(folder, f"{name}.json"))
        self._prune(step)

    def _others(self, folder: str, names: list[str]) -> list[Part]:
        deadline, pause = float("inf"), 0.02
        missing = set(names)
        while missing:
            missing -= {name for name in missing if io.exists(io.join(folder, f"{name}.json"))}
            if self._abandoned.is_set():
                raise OSError("another worker could not write its shard")
            if self._confirmed.is_set():
                deadline = min(deadline, time.monotonic() + VISIBLE_S)
            if missing and time.monotonic() > deadline:
                raise OSError(f"{min(missing)} is not to be seen here; every worker must see the same folder")
            time.sleep(pause if missing else 0)
            pause = min(1.0, pause * 1.5)
        return [read_part(io.join(folder, f"{name}.json")) for name in names]

    def _prune(self, newest: int) -> None:
        whole = self._committed()
        kept = {*whole[-self.keep :], *self._best_of(whole)}
        for step in self._steps():
            if step not in kept and step <= newest:
                # The index first: half a checkpoint is none.
                io.remove_tree(io.join(step_folder(self.folder, step), INDEX))
                io.remove_tree(step_folder(self.folder, step))

    def _best_of(self, whole: list[int]) -> list[int]:
        """The best checkpoint of those there are, noted where a restart finds it."""
        if not self.best:
            return []
        uri = io.join(self.folder, BEST)
        with self._lock:
            record = json.loads(io.read_bytes(uri)) if io.exists(uri) else {}
            known = {int(record["step"]): float(record["score"])} if record.get("by") == self.best else {}
            known |= self._scores
            scores = {step: known[step] for step in whole if step in known}
            if not scores:
                return []
            best = max(scores, key=lambda step: (scores[step], -step))
            if (best, self.best) != (record.get("step"), record.get("by")):
                io.write_bytes(uri, json.dumps({"step": best, "score": scores[best], "by": self.best}).encode())
        return [best]


def _write(folder: str, name: str, copied: dict[str, Piece], announce: bool, done: Future[Part]) -> None:
    """Write this worker's shard; `announce` it to rank 0 where that is another one."""
    try:
        part = write_part(folder, name, copied)
        if announce:
            io.write_bytes(io.join(folder, f"{name}.json"), to_json(part))
        done.set_result(part)
    except BaseException as error:
        done.set_exception(error)
        # A full disk needs the room, and nothing points to this file.
        _try_remove(io.join(folder, f"{name}.safetensors"))
        raise


def _try_remove(uri: str) -> None:
    try:
        io.remove_tree(uri)
    except Exception as error:
        log.warning("%s could not be removed: %s", uri, error)
