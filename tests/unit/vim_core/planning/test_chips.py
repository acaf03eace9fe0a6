"""The table of chips: found by the names that torch reports, and never a wrong one."""

from __future__ import annotations

import pytest

from vim_core.errors import ConfigError
from vim_core.planning.chips import CHIPS, chip_of_device, count_chips, find_chip

REPORTED = {
    "NVIDIA H100 80GB HBM3": "H100",
    "NVIDIA H100 PCIe": "H100-PCIE",
    "NVIDIA H100 NVL": "H100-NVL",
    "NVIDIA H200": "H200",
    "NVIDIA H200 NVL": "H200-NVL",
    "NVIDIA B200": "B200",
    "NVIDIA GB200": "GB200",
    "NVIDIA A100-SXM4-40GB": "A100-40G",
    "NVIDIA A100-PCIE-40GB": "A100-40G",
    "NVIDIA A100-SXM4-80GB": "A100-80G",
    "NVIDIA A100 80GB PCIe": "A100-80G",
    "A100-SXM4-40GB": "A100-40G",
    "NVIDIA A10": "A10",
    "NVIDIA A10G": "A10G",
    "NVIDIA L4": "L4",
    "NVIDIA L40": "L40",
    "NVIDIA L40S": "L40S",
    "NVIDIA GeForce RTX 4090": "RTX-4090",
    "Tesla V100-SXM2-16GB": "V100-16G",
    "Tesla V100-SXM3-32GB": "V100-32G",
    "Tesla T4": "T4",
    "TPU v4-32": "TPU-V4",
    "TPU v5litepod-16": "TPU-V5E",
    "TPU v5p-8": "TPU-V5P",
    "TPU v6e-8": "TPU-V6E",
}
UNKNOWN = [
    "", "TPU ", "NVIDIA H100", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA H800", "NVIDIA A100-SXM-64GB",
    "Tesla V100-PCIE-16GB",
    "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 4090 D", "NVIDIA A100X", "AMD Instinct",
]  # fmt: skip


@pytest.mark.parametrize(("device", "name"), REPORTED.items())
def test_devices_by_the_name_that_torch_reports(device: str, name: str) -> None:
    assert chip_of_device(device) is CHIPS[name]


@pytest.mark.parametrize("device", UNKNOWN)
def test_a_device_that_is_not_there_is_not_taken_for_another(device: str) -> None:
    assert chip_of_device(device) is None


@pytest.mark.parametrize("name", CHIPS)
def test_rates_fall_with_precision(name: str) -> None:
    entry = CHIPS[name]
    rates = [rate for rate in (entry.bf16, entry.tf32, entry.fp32) if rate is not None]
    assert rates == sorted(rates, reverse=True)
    assert 1e12 < rates[-1] <= rates[0] < 3e15
    assert 1e10 < entry.memory < 2e11
    assert entry.peak("int8") is None


def test_forms_of_one_chip_differ() -> None:
    sxm, pcie, nvl = (CHIPS[name] for name in ("H100", "H100-PCIE", "H100-NVL"))
    assert [chip.peak("bf16") for chip in (sxm, pcie, nvl)] == [989.4e12, 756e12, 835.5e12]
    assert (CHIPS["A100-40G"].memory, CHIPS["A100-80G"].memory) == (40e9, 80e9)
    assert (CHIPS["T4"].peak("bf16"), CHIPS["TPU-V4"].peak("fp32")) == (None, 275e12 / 6)


def test_chips_and_their_slices() -> None:
    assert find_chip("tpu-v5e").memory == 16e9
    assert count_chips("4x8", CHIPS["TPU-V5E"]) == 32
    assert count_chips("2x2x4", CHIPS["TPU-V5P"]) == 16
    with pytest.raises(ConfigError, match="TPU-V4"):
        find_chip("TPU-V9")
    for topology, kind in (("4x4x4", "TPU-V5E"), ("4x4", "TPU-V5P"), ("4x0", "TPU-V5E"), ("8", "H200"), ("", "TPU-V4")):
        with pytest.raises(ConfigError, match=r"run\.topology"):
            count_chips(topology, CHIPS[kind])
