"""v4 slices against Ray's own table and arithmetic; every refusal names its values."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.engines.topology import check_divisible, cpu_scaling, parse, resolve_slices, tpu_scaling
from vim_core.config import RunConfig
from vim_core.errors import ConfigError

RUN = RunConfig(device="xla", topology="2x2x4", workers=4)

sides = st.integers(0, 24)


@given(sides, sides, sides)
def test_accepted_are_exactly_the_topologies_that_ray_accepts(x: int, y: int, z: int) -> None:
    from ray._private.accelerators.tpu import VALID_TPU_TOPOLOGY

    text = f"{x}x{y}x{z}"
    if text in VALID_TPU_TOPOLOGY["v4"]:
        assert parse(text).dimensions == (x, y, z)
    else:
        with pytest.raises(ConfigError, match=r"no such slice|takes three numbers"):
            parse(text)


def test_hosts_hold_four_chips_each_and_names_count_cores() -> None:
    from ray._private.accelerators.tpu import VALID_TPU_TOPOLOGY, infer_tpu_pod_type_from_topology
    from ray.util.tpu import get_tpu_worker_resources

    for text in VALID_TPU_TOPOLOGY["v4"]:
        tpu_slice = parse(text)
        assert tpu_slice.hosts * 4 == tpu_slice.chips
        assert tpu_slice.hosts == get_tpu_worker_resources(text, "TPU-V4")[0]
        assert tpu_slice.pod_type == infer_tpu_pod_type_from_topology(text, "TPU-V4")
    assert parse("2X4X4").pod_type == "v4-64"


@pytest.mark.parametrize("text", ["", "2x2", "2x2x", "2x2x4x1", "axbxc", "2x2x-4", "02x2x4", "2x2x²", "v4-32"])
def test_malformed_topologies_are_named(text: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.topology=.*takes three numbers such as 2x2x4"):
        parse(text)


@given(st.integers(1, 40))
def test_workers_fill_whole_slices_or_are_refused(workers: int) -> None:
    run = replace(RUN, workers=workers)
    if workers % 4 == 0:
        assert resolve_slices(run)[1] * 4 == workers
    else:
        with pytest.raises(ConfigError, match=rf"run\.workers={workers}: a 2x2x4 slice \(v4-32\) has 16 chips on 4"):
            resolve_slices(run)


def test_the_arguments_pass_rays_own_check_and_take_whole_hosts() -> None:
    from ray.train import ScalingConfig

    arguments = tpu_scaling(replace(RUN, workers=8, topology="2X2X4"), batch=256, threads=3)
    assert arguments == {
        "num_workers": 8,
        "use_tpu": True,
        "topology": "2x2x4",
        "accelerator_type": "TPU-V4",
        "resources_per_worker": {"CPU": 3, "TPU": 4},
    }
    scaling = ScalingConfig(**arguments)
    assert (scaling.total_resources["CPU"], scaling.total_resources["TPU"]) == (24, 32)


def test_a_batch_must_divide_over_all_chips_and_a_sharding_too() -> None:
    tpu_scaling(replace(RUN, fsdp=8), batch=32, threads=1)
    with pytest.raises(ConfigError, match=r"batch=40: not divisible by the 16 XLA devices .*run\.topology='2x2x4'"):
        tpu_scaling(RUN, batch=40, threads=1)
    with pytest.raises(ConfigError, match=r"batch=16: not divisible by the 32 XLA devices of run\.workers=8"):
        tpu_scaling(replace(RUN, workers=8), batch=16, threads=1)
    with pytest.raises(ConfigError, match=r"run\.fsdp=3: does not divide the 16 XLA devices"):
        check_divisible(replace(RUN, fsdp=3), 16, 32)


def test_missing_and_other_accelerators_are_named() -> None:
    # Without a topology Ray would ask for one chip of the four.
    with pytest.raises(ConfigError, match=r"run\.topology='': .*2x2x1 for one host with 4 chips"):
        resolve_slices(replace(RUN, topology=""))
    with pytest.raises(ConfigError, match=r"run\.accelerator='TPU-V6E': only TPU-V4"):
        resolve_slices(replace(RUN, accelerator="TPU-V6E"))


def test_on_cpu_there_is_one_process_without_a_topology() -> None:
    run = RunConfig(device="xla")
    assert cpu_scaling(run, 8, 2, devices=4) == {"num_workers": 1, "resources_per_worker": {"CPU": 2}}
    with pytest.raises(ConfigError, match=r"run\.workers=2: XLA on CPU works in one process"):
        cpu_scaling(replace(run, workers=2), 8, 2, devices=4)
    with pytest.raises(ConfigError, match=r"run\.topology='2x2x1': PJRT_DEVICE=CPU has no slices"):
        cpu_scaling(replace(run, topology="2x2x1"), 8, 2, devices=4)
    with pytest.raises(ConfigError, match="batch=6: not divisible by the 4 XLA devices"):
        cpu_scaling(run, 6, 2, devices=4)
