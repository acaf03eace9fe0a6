"""Devices and processes: runtimes for CPU, CUDA and XLA, FSDP2, SPMD partition rules."""
