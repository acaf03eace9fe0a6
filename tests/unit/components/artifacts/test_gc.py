"""Garbage collection removes only what nothing needs, and whatever happens meanwhile leaves whole artifacts."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.artifacts import execute, lease, store, usage
from components.artifacts.gc import Collection, Rules, collect
from components.contract.api import Artifact, Context, Outcome
from tests.support.archived import DAY, key, leave_work, make, own, report, there
from tests.support.fakes import Fake, files_below, reporting, run
from vim_core.checkpoint.shard_files import CheckpointIndex, TensorShard, step_folder, to_json_bytes, write_shard
from vim_core.config import PipelineConfig
from vim_core.errors import ConfigError, DataError, StorageError
from vim_core.storage import io

LATER = Rules(now=time.time() + 8 * DAY)
"""Eight days after the tests made everything."""


def names(done: Collection) -> list[str]:
    return sorted(f"{each.kind} {each.key[0]}/{int(each.key[1], 16)} {each.what}".strip() for each in done.removals)


def test_what_nothing_needs_is_removed_and_the_rest_stays(anywhere: str) -> None:
    images = make(anywhere, "ingest", 1)
    tokenizer = make(anywhere, "quantize", 2, [images])
    codes = make(anywhere, "tokenize", 3, [images, tokenizer])
    make(anywhere, "prior", 4, [codes, tokenizer])
    other = make(anywhere, "quantize", 5, [images])
    make(anywhere, "tokenize", 6, [images, other])
    report(anywhere, "digits", {"tokenize": codes})
    before = set(io.find_files(anywhere))
    planned = collect(anywhere, LATER)
    assert set(io.find_files(anywhere)) == before
    done = collect(anywhere, LATER, delete=True)
    assert [f"{each.key[0]}/{int(each.key[1], 16)}" for each in done.removals] == [
        "prior/4", "tokenize/6", "quantize/5",
    ]  # fmt: skip
    assert there(anywhere) == {"ingest/1", "quantize/2", "tokenize/3"}
    assert not [path for path in io.find_files(anywhere) if path.startswith(("prior/", f"quantize/{key(5)}"))]
    # The manifest's own bytes are the same under its other name.
    assert done.totals() == planned.totals()
    assert done.totals()["artifact"] == sum(each.bytes for each in planned.removals) > 0
    assert collect(anywhere, LATER, delete=True).removals == []


def test_empty_local_folders_go_with_their_files(tmp_path: Path) -> None:
    made = make(str(tmp_path), "ingest", 1)
    leave_work(str(tmp_path), "prior", 2, ["deep/er/spool.jsonl"])
    collect(str(tmp_path), LATER, delete=True)
    assert not Path(made.folder).exists()
    assert not (tmp_path / ".work" / "prior" / key(2)).exists()


def test_nothing_young_is_removed(root: str) -> None:
    make(root, "ingest", 1)
    leave_work(root, "prior", 2)
    io.write_bytes(io.join(root, "ingest", key(1), "data-lost", "x"), b"lost")
    assert collect(root, Rules(), delete=True).removals == []
    assert len(collect(root, Rules(older_than_s=0, now=time.time() + 1)).removals) == 3


def test_a_pinned_artifact_and_all_it_was_made_from_stay(root: str) -> None:
    images = make(root, "ingest", 1)
    tokenizer = make(root, "quantize", 2, [images])
    usage.pin(root, tokenizer.manifest, "for the paper")
    assert collect(root, LATER, delete=True).removals == []
    usage.unpin(root, tokenizer.manifest)
    assert names(collect(root, LATER)) == ["artifact ingest/1 manifest.json", "artifact quantize/2 manifest.json"]


def test_what_an_artifact_names_by_folder_stays_with_it(root: str) -> None:
    start = make(root, "quantize", 1)
    tuned = make(root, "quantize", 2, config={"init_from": start.folder})
    usage.pin(root, tuned.manifest, "")
    assert collect(root, LATER).removals == []


def test_the_report_itself_stays_with_what_it_shows(root: str) -> None:
    images = make(root, "ingest", 1)
    make(root, "report", 2, [images])
    make(root, "report", 3, [make(root, "ingest", 4)])
    report(root, "digits", {"ingest": images})
    assert names(collect(root, LATER)) == ["artifact ingest/4 manifest.json", "artifact report/3 manifest.json"]


def test_files_that_no_manifest_names_go(root: str) -> None:
    made = make(root, "ingest", 1)
    usage.pin(root, made.manifest, "")
    for name in ("data-lost/x", "data-lost/y", "data-first1/late"):
        io.write_bytes(io.join(made.folder, name), b"12345")
    done = collect(root, LATER, delete=True)
    assert names(done) == ["attempt ingest/1 data-first1", "attempt ingest/1 data-lost"]
    assert done.totals()["attempt"] == 15
    assert there(root) == {"ingest/1"}
    assert not [path for path in io.find_files(made.folder) if path.endswith(("x", "y", "late"))]


def test_a_replaced_version_stays_while_something_was_made_from_it(root: str) -> None:
    old = make(root, "quantize", 1)
    codes = make(root, "tokenize", 2, [old])
    store.retire(root, old)
    new = make(root, "quantize", 1, attempt="second")
    usage.pin(root, new.manifest, "")
    usage.pin(root, codes.manifest, "")
    assert collect(root, LATER, delete=True).removals == []
    usage.unpin(root, codes.manifest)
    assert [each.kind for each in collect(root, LATER, delete=True).removals] == ["artifact", "replaced"]
    assert there(root) == {"quantize/1"}
    assert len(files_below(Path(root, "quantize"))) == 3


def test_nothing_of_a_living_owner_is_touched_nor_what_it_uses(root: str) -> None:
    images, other = make(root, "ingest", 1), make(root, "ingest", 2)
    leave_work(root, "quantize", 3)
    io.write_bytes(io.join(root, "quantize", key(3), "data-now", "x"), b"written now")
    own(root, "quantize", 3, [images])
    assert names(collect(root, LATER, delete=True)) == ["artifact ingest/2 removed-first2.json"]
    assert there(root) == {"ingest/1"}
    assert other.manifest.fingerprint == key(2)
    assert io.exists(io.join(root, ".work", "quantize", key(3), "spool.jsonl"))


def test_unfinished_work_keeps_what_it_was_made_from_until_it_is_old(root: str) -> None:
    images = make(root, "ingest", 1)
    leave_work(root, "quantize", 2)
    own(root, "quantize", 2, [images], pid=2**22)
    io.write_bytes(io.join(root, ".leases", "ingest", key(1), "other"), b"")
    found = Rules(now=time.time() + 8 * DAY)
    young = time.time() + 2 * DAY
    os.utime(Path(root, ".work", "quantize", key(2), "spool.jsonl"), (young, young))
    assert collect(root, found).removals == []
    assert names(collect(root, Rules(now=young + 8 * DAY))) == ["artifact ingest/1 manifest.json", "work quantize/2"]


def test_everything_stays_while_an_owner_has_not_said_what_it_uses(root: str) -> None:
    make(root, "ingest", 1)
    own(root, "prior", 2, [])
    io.remove_tree(io.join(usage.folder(root, "prior", key(2)), usage.INPUTS))
    assert collect(root, LATER, delete=True).removals == []
    assert there(root) == {"ingest/1"}


def test_what_another_remover_has_begun_with_is_not_put_back(root: str) -> None:
    made = make(root, "ingest", 1)

    def begun() -> None:
        own(root, "quantize", 2, [made])
        own(root, "ingest", 1, [])

    done = collect(root, LATER, delete=True, between=begun)
    assert (done.restored, done.removals) == ([], [])
    assert there(root) == set()
    # Its lease is over, and it has not come to removing anything: now it is put back.
    io.remove_tree(usage.folder(root, "ingest", key(1)))
    assert collect(root, LATER, delete=True).restored == [f"ingest/{key(1)}"]
    assert there(root) == {"ingest/1"}


def test_an_owner_elsewhere_lives_for_an_hour_after_its_last_heartbeat(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leases = usage.folder(root, "prior", key(1))
    io.write_bytes(io.join(leases, "lease-000001.json"), json.dumps({"token": "t", "host": "far", "machine": "far",
                   "pid": 1, "started": ""}).encode())  # fmt: skip
    assert lease.living_owner(leases) == "process 1 on far"
    with lease.hold_if_free(leases) as held:
        assert held is None
    monkeypatch.setattr(lease, "ABANDONED_S", 0.0)
    assert lease.living_owner(leases) is None
    with lease.hold_if_free(leases) as held:
        assert held is not None
        assert held.number == 2


def test_a_use_makes_an_artifact_young_again(anywhere: str) -> None:
    make(anywhere, "ingest", 1, created="2020-01-01T00:00:00+00:00")
    make(anywhere, "ingest", 2, created="2020-01-01T00:00:00+00:00")
    usage.touch(usage.folder(anywhere, "ingest", key(1)))
    assert names(collect(anywhere, Rules())) == ["artifact ingest/2 manifest.json"]


def test_what_comes_to_be_pinned_meanwhile_is_put_back_with_all_it_was_made_from(anywhere: str) -> None:
    images = make(anywhere, "ingest", 1)
    tokenizer = make(anywhere, "quantize", 2, [images])
    make(anywhere, "quantize", 3, [images])

    def pinned() -> None:
        # As by a process that had looked just before the manifest went.
        pin = usage.Pin("me", "2026-01-01", "", tokenizer.digest, "token")
        data = json.dumps(dataclasses.asdict(pin)).encode()
        io.write_bytes(io.join(anywhere, ".pins", "quantize", f"{key(2)}.json"), data)

    done = collect(anywhere, LATER, delete=True, between=pinned)
    assert sorted(done.restored) == [f"ingest/{key(1)}", f"quantize/{key(2)}"]
    assert there(anywhere) == {"ingest/1", "quantize/2"}
    assert not [path for path in io.find_files(anywhere) if "removed-" in path]


def test_a_pin_of_what_has_just_been_set_aside_is_refused(root: str) -> None:
    made = make(root, "ingest", 1)

    def pinned() -> None:
        with pytest.raises(DataError, match=f"ingest/{key(1)}: was removed meanwhile"):
            usage.pin(root, made.manifest, "")

    collect(root, LATER, delete=True, between=pinned)
    assert there(root) == set()
    assert usage.read_pin(root, "ingest", key(1)) is None


def test_a_run_that_starts_meanwhile_is_told_or_keeps_its_input(fakes: dict[str, Fake], config: PipelineConfig) -> None:
    root = config.run.root
    run("ingest", config)
    known = run("ingest", config)
    known_inputs = {"ingest": known.artifact}

    def started() -> None:
        # It had looked its input up before the manifest was set aside.
        with pytest.raises(DataError, match=r"its input ingest/.* was removed meanwhile; run the same command again"):
            execute.execute("quantize", config, reporting(), cache=known_inputs)

    collect(root, LATER, delete=True, between=started)
    assert fakes["quantize"].runs == 0
    run("ingest", config)
    assert run("quantize", config).reused is False
    assert fakes["ingest"].runs == 2


def test_a_run_is_told_where_its_input_was_removed_and_made_again(
    fakes: dict[str, Fake], config: PipelineConfig
) -> None:
    found = {"ingest": run("ingest", config).artifact}
    run("ingest", config, force=True)
    # Replaced by force, its files stay.
    execute.execute("quantize", config, reporting(), cache=dict(found))
    # Removed and made again, they do not, though a manifest is there once more.
    collect(config.run.root, LATER, delete=True)
    run("ingest", config)
    with pytest.raises(DataError, match="was removed meanwhile"):
        execute.execute("quantize", config, reporting(), force=True, cache=dict(found))


def test_a_running_component_keeps_what_its_run_has_found(fakes: dict[str, Fake], config: PipelineConfig) -> None:
    known: dict[str, Artifact] = {}
    for name in ("ingest", "quantize", "tokenize"):
        execute.execute(name, config, reporting(), cache=known)

    def act(settings: object, inputs: object, ctx: Context) -> Outcome:
        collect(config.run.root, LATER, delete=True)
        return Outcome()

    fakes["prior"].act = act
    execute.execute("prior", config, reporting(), cache=known)
    assert {path.split("/")[0] for path in files_below(config.run.root) if path.endswith("/manifest.json")} == {
        "ingest", "quantize", "tokenize", "prior",
    }  # fmt: skip


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", range(9))
def test_a_kill_at_any_removal_leaves_whole_artifacts_and_the_next_time_goes_on(
    root: str, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    images = make(root, "ingest", 1)
    make(root, "prior", 2, [make(root, "tokenize", 3, [images])])
    usage.pin(root, images.manifest, "")
    left, real = after, io.remove_tree

    def remove(uri: str) -> None:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        real(uri)

    with monkeypatch.context() as patch:
        patch.setattr(io, "remove_tree", remove)
        with contextlib.suppress(Killed):
            collect(root, LATER, delete=True)
    for path in Path(root).glob(".leases/*/*/*"):
        # A killed process releases nothing; its leases are taken over because it is dead.
        path.unlink()
    assert "ingest/1" in there(root)
    collect(root, LATER, delete=True)
    assert there(root) == {"ingest/1"}
    assert len(files_below(Path(root, "prior")) + files_below(Path(root, "tokenize"))) == 0


def test_a_damaged_record_stops_everything_before_anything_is_removed(root: str) -> None:
    make(root, "ingest", 1)
    io.write_bytes(io.join(root, "reports", "digits", "results.json"), b"{}")
    with pytest.raises(DataError, match="does not say which artifacts it is of"):
        collect(root, LATER, delete=True)
    assert there(root) == {"ingest/1"}


def test_every_artifact_of_a_sweep_stays_while_its_results_are_there(root: str) -> None:
    prior = make(root, "prior", 1)
    drawn = [make(root, "sample", number, [prior]) for number in (2, 3)]
    make(root, "sample", 4, [prior])
    entries = [{"fingerprint": a.manifest.fingerprint, "digest": a.digest, "folder": a.folder} for a in drawn]
    uri = io.join(root, "sweeps", "trial", "results.json")
    io.write_bytes(uri, json.dumps({"artifacts": {"sample": entries}}).encode())
    collect(root, LATER, delete=True)
    assert there(root) == {"prior/1", "sample/2", "sample/3"}
    io.remove_tree(uri)
    collect(root, LATER, delete=True)
    assert there(root) == set()


def test_rules_are_checked() -> None:
    with pytest.raises(ConfigError, match="--older-than=-1s"):
        Rules(older_than_s=-1)
    with pytest.raises(ConfigError, match="at least 1"):
        Rules(checkpoints=0)


ORDER = ["ingest", "quantize", "tokenize", "prior", "sample"]
Graph = list[tuple[str, list[int]]]


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Up to eight artifacts, each made from some of the earlier ones of earlier components."""
    components = sorted(draw(st.lists(st.sampled_from(ORDER), min_size=1, max_size=8)), key=ORDER.index)
    made: Graph = []
    for i, component in enumerate(components):
        earlier = [j for j in range(i) if ORDER.index(components[j]) < ORDER.index(component)]
        made.append((component, draw(st.lists(st.sampled_from(earlier), unique=True)) if earlier else []))
    return made


def closure(graph: Graph, roots: set[int]) -> set[int]:
    """An independent one: until nothing changes."""
    found = set(roots)
    while True:
        more = found | {source for i in found for source in graph[i][1]}
        if more == found:
            return found
        found = more


@settings(max_examples=20, deadline=None)
@given(data=st.data(), graph=graphs())
def test_exactly_the_upstream_closure_of_pins_reports_and_living_owners_stays(
    data: st.DataObject, graph: Graph
) -> None:
    root = f"memory://law/{uuid.uuid4().hex}"
    indices = st.sets(st.integers(0, len(graph) - 1))
    pinned, shown, used, late = (data.draw(indices) for _ in range(4))
    made: list[Artifact] = []
    for i, (component, sources) in enumerate(graph):
        made.append(make(root, component, i, [made[j] for j in sources]))
    for i in pinned:
        usage.pin(root, made[i].manifest, "law")
    for i in shown:
        report(root, f"preset-{i}", {graph[i][0]: made[i]})
    own(root, "probe", 99, [made[i] for i in used])

    def use() -> None:
        own(root, "score", 98, [made[i] for i in late])

    done = collect(root, LATER, delete=True, between=use)
    kept = closure(graph, pinned | shown | used | late)
    assert there(root) == {f"{graph[i][0]}/{i}" for i in kept}
    assert {each.key[1] for each in done.removals} == {key(i) for i in set(range(len(graph))) - kept}
    io.remove_tree(root)


def test_what_may_not_be_read_stops_everything(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make(root, "ingest", 1)
    own(root, "probe", 2, [])
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith(f".leases/probe/{key(2)}"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(StorageError, match="Permission denied"):
        collect(root, LATER, delete=True)
    assert there(root) == {"ingest/1"}


def save(folder: str, step: int) -> None:
    """A checkpoint as a training writes it."""
    place = step_folder(folder, step)
    part = write_shard(place, "w-00000-of-00001", {"a": TensorShard(torch.full((3,), float(step)), (3,), (0, 3))})
    io.write_bytes(io.join(place, "index.json"), to_json_bytes(CheckpointIndex(step, {}, {}, [part])))


def steps(folder: Path) -> Sequence[str]:
    return sorted(path.name for path in folder.glob("step-*"))


def test_the_newest_whole_one_and_the_best_stay_per_numeric_class(root: str) -> None:
    work = io.join(root, ".work", "prior", key(1))
    for step in (10, 20, 30, 40):
        save(io.join(work, "cpu-float32"), step)
    save(io.join(work, "cuda-bfloat16"), 10)
    io.write_bytes(io.join(work, "cpu-float32", "best.json"), json.dumps({"step": 20}).encode())
    # The newest one is damaged: the one before it is what a training would go on from.
    io.write_bytes(io.join(work, "cpu-float32", "step-00000040", "w-00000-of-00001.safetensors"), b"cut")
    done = collect(root, Rules(), delete=True)
    assert [each.what for each in done.removals] == ["cpu-float32/step-00000010", "cpu-float32/step-00000040"]
    assert done.totals()["checkpoint"] > 0
    left = {path.rsplit("/", 1)[0] for path in io.find_files(work) if path.endswith("index.json")}
    assert left == {"cpu-float32/step-00000020", "cpu-float32/step-00000030", "cuda-bfloat16/step-00000010"}
    assert collect(root, Rules(), delete=True).removals == []


def test_more_stay_where_more_are_wanted(root: str) -> None:
    folder = Path(root, ".work", "prior", key(1), "cpu-float32")
    for step in (10, 20, 30):
        save(str(folder), step)
    collect(root, Rules(checkpoints=2), delete=True)
    assert steps(folder) == ["step-00000020", "step-00000030"]


def test_without_any_whole_one_and_with_an_owner_nothing_is_touched(root: str) -> None:
    damaged = Path(root, ".work", "prior", key(1), "cpu-float32")
    owned = Path(root, ".work", "prior", key(2), "cpu-float32")
    for folder in (damaged, owned):
        for step in (10, 20):
            save(str(folder), step)
    for path in damaged.glob("*/index.json"):
        path.write_text("{}")
    own(root, "prior", 2, [])
    assert collect(root, Rules(), delete=True).removals == []
    assert steps(damaged) == steps(owned) == ["step-00000010", "step-00000020"]
