"""Checkpoints of one training: sharded, written in the background, atomic, the newest and the best kept.

Own safetensors shards rather than torch.distributed.checkpoint, which keeps its metadata as a pickle, needs a process
group of its own for asynchronous writing, and does not tell attempts apart.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from vim_core.checkpoint.shard_files import (
    INDEX,
    CheckpointIndex,
    DamagedCheckpoint,
    SavedCheckpoint,
    ShardRecord,
    TensorShard,
    open_checkpoint,
    shard_name,
    shard_state_dict,
    step_folder,
    to_json_bytes,
    write_shard,
)
from vim_core.distributed.runtimes.base import Runtime
from vim_core.errors import ConfigError, StorageError
from vim_core.storage import io

log = logging.getLogger(__name__)
BEST = "best.json"
VISIBLE_S = 60.0
"""Seconds within which a worker's shard must become visible to rank 0 after it was written."""


class Checkpoints:
    """The checkpoints of one training in one folder (local or remote).

    `save`, `wait` and `latest` are collective: every worker calls them at the same step, `latest` first.

    Args:
        folder: below the component's leased work folder, one per numeric class.
        identity: must be equal for a training to continue, such as the fingerprint; a mismatch is refused.
        runtime: of this worker.
        keep: how many of the newest checkpoints are kept.
        best: '<max|min> <figure>': the best one by this figure of `record_evaluation` is kept too; '' for none.
        strict: a checkpoint that cannot be written ends the training; else it is only reported.
        continue_from: '' for this folder alone. 'any' or 'same' (`run.continue_from`) also looks at the folders of
            other numeric classes beside it: to continue where one of them is further, or to refuse to begin anew.
        note: called with one line for people.
        before_commit: called on rank 0 in the writing thread before the index is written, to make durable what must
            not be older than the checkpoint.
    """

    def __init__(
        self,
        folder: str,
        identity: dict[str, Any],
        runtime: Runtime,
        keep: int = 2,
        best: str = "",
        strict: bool = False,
        continue_from: str = "",
        note: Callable[[str], None] = log.warning,
        before_commit: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder = folder
        self.identity = identity
        self.runtime = runtime
        self.keep = keep
        self.best = best
        self.strict = strict
        self.continue_from = continue_from
        self.resumed_class = ""
        """The numeric class of the checkpoint that `latest` returned, where it is another one's."""
        self.note = note
        self._before_commit = before_commit
        self._writer = ""
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._pending: tuple[int, Future[ShardRecord], Future[None] | None] | None = None
        self._confirmed = threading.Event()
        self._abandoned = threading.Event()
        self._scores: dict[int, float] = {}
        # The training thread and the writing thread both update the best.
        self._lock = threading.Lock()

    def save(self, step: int, state: Mapping[str, Tensor]) -> None:
        """Copy the state after `step` steps to memory and write it while training goes on.

        Waits for the write before. Raises `StorageError` where that one failed and `strict` is set.
        """
        self.wait()
        rank, world = self.runtime.rank, self.runtime.world
        shards = dict(shard_state_dict(state, self.runtime))
        self._confirmed.clear()
        self._abandoned.clear()
        self._writer = self._writer or f"{self._from_rank_0(secrets.randbits(62)):016x}"
        folder, name = step_folder(self.folder, step), shard_name(self._writer, rank, world)
        written = self._pool.submit(_write, folder, name, shards, rank > 0)
        committed = self._pool.submit(self._commit, step, written) if rank == 0 else None
        self._pending = (step, written, committed)

    def wait(self) -> bool:
        """Wait for the last `save`; True where it is on disk or there was none, False where it failed.

        Raises:
            StorageError: it failed and `strict` is set.
        """
        if self._pending is None:
            return True
        step, written, committed = self._pending
        self._pending = None
        error = written.exception()
        all_written = not self._any_worker(error is not None)
        (self._confirmed if all_written else self._abandoned).set()
        if committed is not None:
            error = error or committed.exception()
        if not self._any_worker(error is not None):
            return True
        cause = error or "the reason is in another worker's log"
        reason = f"checkpoint of step {step} not written to {step_folder(self.folder, step)}: {cause}"
        if self.strict:
            raise StorageError(f"{reason}; set checkpoint_errors=warn to continue without it")
        self.note(f"{reason}; training continues, the previous checkpoint is kept")
        return False

    def close(self) -> None:
        """Wait for this worker's last write, but for no other worker, which may be gone."""
        self._abandoned.set()
        self._pool.shutdown()

    def latest(self) -> SavedCheckpoint | None:
        """The newest complete checkpoint, or None; a damaged one is skipped with a warning.

        Raises:
            ResumeError: it belongs to another training.
            ConfigError: there are checkpoints of other numeric classes only, and `continue_from` is 'same'.
        """
        # Rank 0's class, where nodes differ.
        self.folder = self.runtime.share_text(self.folder)
        candidates, refusal = self._candidates() if self.runtime.rank == 0 else ([], "")
        refusal = self.runtime.share_text(refusal)
        if refusal:
            raise ConfigError(refusal)
        while True:
            # Rank 0 decides: another worker may see an older listing of the same store.
            step, source = candidates.pop() if candidates else (-1, "")
            step, source = self._from_rank_0(step), self.runtime.share_text(source)
            if step < 0:
                return None
            folder = step_folder(source, step)
            saved: SavedCheckpoint | None = None
            try:
                saved = open_checkpoint(folder, self.identity, self.runtime.rank, self.runtime.world)
            except DamagedCheckpoint as error:
                log.warning("%s: %s", folder, error)
            if not self._any_worker(saved is None):
                self._note_class(step, source)
                return saved
            log.warning("%s is damaged; trying the one before", folder)

    def record_evaluation(self, step: int, figures: dict[str, float]) -> None:
        """Score the state after `step` steps by the figure of `best`; used where that step has a checkpoint.

        Does nothing on other workers than rank 0.

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
        self._update_best(self._committed())

    def _candidates(self) -> tuple[list[tuple[int, str]], str]:
        """(step, folder) of all checkpoints to try, the best last, or the reason why none may be continued."""
        own, others = [(step, self.folder) for step in self._committed()], list[tuple[int, str]]()
        parent, _, own_name = self.folder.rpartition("/")
        for name in io.list_names(parent) if self.continue_from else []:
            if name != own_name:
                same_class = self.runtime.numeric.includes(name)
                folder = io.join(parent, name)
                (own if same_class else others).extend((step, folder) for step in self._committed(folder))
        if self.continue_from != "same" or not others:
            # Of equal steps this class's own, which are listed first.
            return sorted([*others, *own], key=lambda pair: pair[0]), ""
        step, folder = max(others)
        further = f"{folder} has a checkpoint of step {step}, of another numeric class than this one's, {own_name}"
        if not own:
            return [], (
                f"run.continue_from='same': {further}; set run.continue_from=any to continue from it, or remove "
                "that folder to begin with step 0"
            )
        if step > max(own)[0]:
            self.note(f"{further}; it is left out (run.continue_from=same)")
        return sorted(own, key=lambda pair: pair[0]), ""

    def _note_class(self, step: int, folder: str) -> None:
        """Say where the checkpoint to continue from is of another numeric class."""
        (_, _, own), (_, _, name) = self.folder.rpartition("/"), folder.rpartition("/")
        if name == own or self.runtime.numeric.includes(name):
            return
        self.resumed_class = name
        if self.runtime.rank == 0:
            self.note(
                f"continues at step {step} from a checkpoint of another numeric class: {name}, here it is {own}. The "
                "result will not equal that of an uninterrupted training to the bit; run.continue_from=same refuses"
            )

    def _any_worker(self, flag: bool) -> bool:
        """True if the flag is set on any worker."""
        return bool(self.runtime.gather_host(torch.tensor([float(flag)])).sum() > 0)

    def _from_rank_0(self, number: int) -> int:
        """Rank 0's number."""
        return int(self.runtime.gather_host(torch.tensor([number]))[0])

    def _steps(self, folder: str = "") -> list[int]:
        """Steps that have a folder below this one, by default the training's own."""
        names = io.list_names(folder or self.folder)
        numbers = [name.removeprefix("step-") for name in names if name.startswith("step-")]
        return sorted(int(number) for number in numbers if number.isdigit())

    def _committed(self, folder: str = "") -> list[int]:
        """Steps that have an index."""
        folder = folder or self.folder
        return [step for step in self._steps(folder) if io.exists(io.join(step_folder(folder, step), INDEX))]

    def _commit(self, step: int, own: Future[ShardRecord]) -> None:
        """On rank 0: write the index once every worker's shard is there, then remove the checkpoints not to keep."""
        folder, world = step_folder(self.folder, step), self.runtime.world
        records = [io.join(folder, f"{shard_name(self._writer, rank, world)}.json") for rank in range(1, world)]
        own_record = own.result()
        self._wait_for_files(records)
        parts = [own_record, *(ShardRecord(**json.loads(io.read_bytes(record))) for record in records)]
        self._before_commit()
        index = CheckpointIndex(step, self.identity, {"world": world, "name": self._writer}, parts)
        io.write_bytes(io.join(folder, INDEX), to_json_bytes(index))
        for record in records:
            io.remove_tree(record)
        committed = self._committed()
        kept = {*committed[-self.keep :], *self._update_best(committed)}
        for other in self._steps():
            if other not in kept and other <= step:
                # The index first: without it the rest counts for nothing.
                io.remove_tree(io.join(step_folder(self.folder, other), INDEX))
                io.remove_tree(step_folder(self.folder, other))

    def _wait_for_files(self, uris: list[str]) -> None:
        """Poll until the files are visible; after all workers have confirmed their writes, for `VISIBLE_S` at most."""
        deadline, pause = float("inf"), 0.02
        missing = set(uris)
        while missing:
            missing -= {uri for uri in missing if io.exists(uri)}
            if self._abandoned.is_set():
                raise OSError("another worker could not write its shard")
            if self._confirmed.is_set():
                deadline = min(deadline, time.monotonic() + VISIBLE_S)
            if missing and time.monotonic() > deadline:
                raise OSError(f"{min(missing)} is not visible here; every worker must see the same folder")
            time.sleep(pause if missing else 0)
            pause = min(1.0, pause * 1.5)

    def _update_best(self, committed: list[int]) -> list[int]:
        """The best of these steps, recorded in `best.json` for a restart; none without evaluations."""
        if not self.best:
            return []
        uri = io.join(self.folder, BEST)
        with self._lock:
            record = json.loads(io.read_bytes(uri)) if io.exists(uri) else {}
            known = {int(record["step"]): float(record["score"])} if record.get("by") == self.best else {}
            known |= self._scores
            scores = {step: known[step] for step in committed if step in known}
            if not scores:
                return []
            best = max(scores, key=lambda step: (scores[step], -step))
            if (best, self.best) != (record.get("step"), record.get("by")):
                io.write_bytes(uri, json.dumps({"step": best, "score": scores[best], "by": self.best}).encode())
        return [best]


def _write(folder: str, name: str, shards: dict[str, TensorShard], publish: bool) -> ShardRecord:
    """Write this worker's shard; with `publish` also its record, for rank 0 to find."""
    try:
        record = write_shard(folder, name, shards)
        if publish:
            io.write_bytes(io.join(folder, f"{name}.json"), to_json_bytes(record))
        return record
    except BaseException:
        # Nothing refers to this file, and a full disk needs the space.
        file = io.join(folder, f"{name}.safetensors")
        try:
            io.remove_tree(file)
        except Exception as failure:
            log.warning("%s could not be removed: %s", file, failure)
        raise
