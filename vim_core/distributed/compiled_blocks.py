"""torch.compile block by block: for workers that exchange weights or gradients between the blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def compile_blocks(network: nn.Module) -> bool:
    """Compile the forward pass of every block (member of a ModuleList) in place; False where there is none that learns.

    The whole network as one program would return all gradients at its end, where none could be averaged meanwhile, and
    would hide from FSDP2 when a block needs its weights. Hooks of modules stay outside of the programs. Blocks of one
    class share a program. It is run where gradients are recorded, so that copies and evaluations, whose batches have
    other shapes, compile nothing.
    """
    blocks = [block for part in network.modules() if isinstance(part, nn.ModuleList) for block in part]
    if not any(parameter.requires_grad for block in blocks for parameter in block.parameters()):
        return False
    classes = {cls: _compiled_class(cls) for cls in {type(block) for block in blocks}}
    for block in blocks:
        # By the class, not by an attribute, which copies of the block would share with it.
        block.__class__ = classes[type(block)]
    return True


def _compiled_class(cls: type[nn.Module]) -> type[nn.Module]:
    eager = cls.forward
    compiled = torch.compile(eager, dynamic=False)

    def forward(self: nn.Module, *args: Any) -> Any:
        return compiled(self, *args) if torch.is_grad_enabled() else eager(self, *args)

    return type(cls.__name__, (cls,), {"forward": forward, "__module__": cls.__module__, "__doc__": cls.__doc__})
