"""A run's tensors divided among processes, for networks that do not fit one device with all that training adds (FSDP2).

Weights, gradients, moments and averages are cut along their first axis, and each process holds one part. A block's
weights are brought together where it is used, and its gradients are averaged and cut again. What leaves the run
(checkpoints, averages, the result) is whole, so that any number of processes, divided or not, can go on with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def divide(module: nn.Module) -> None:
    """Cut the parameters of a module, in place, among all processes of the default group, on the device where they are.

    Its blocks are brought together one by one when it is called, what is outside of them all the while.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    device = next(module.parameters()).device.type
    mesh = init_device_mesh(device, (torch.distributed.get_world_size(),))
    for block in blocks(module):
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
    module.register_forward_pre_hook(_settle, prepend=True)


def _settle(module: nn.Module, given: Any) -> None:
    """What a layer writes to weights that were brought together is lost; here each process writes to its own part."""
    if module.training:
        for part in module.modules():
            if (settle := getattr(part, "settle", None)) is not None:
                settle()


def blocks(network: nn.Module, listed: bool = False) -> list[nn.Module]:
    """The modules listed in the outermost lists of a network, or in lists of those: its blocks, as a rule."""
    found: list[nn.Module] = []
    for child in network.children():
        inner = isinstance(child, nn.ModuleList)
        found += [child] if listed and not inner else blocks(child, inner)
    return found


def is_divided(tensor: Any) -> bool:
    """Whether this process holds only a part of it (a DTensor)."""
    return hasattr(tensor, "full_tensor")


def finite(tensors: Sequence[Any]) -> Tensor:
    """Whether all numbers are finite, of what is divided those that this process holds: a boolean on their device."""
    held = [(t.to_local() if is_divided(t) else t).detach() for t in tensors]
    device = held[0].device
    found, one = torch.zeros((), device=device), torch.ones((), device=device)
    # One kernel, which multiplies by 1: what a scaler of gradients asks; a sum of squares may overflow by itself.
    torch._amp_foreach_non_finite_check_and_unscale_([t for t in held if t.numel()], found, one)  # pyright: ignore[reportPrivateImportUsage]
    return found == 0


def brought_together(tensor: Any) -> Tensor:
    """The tensor itself, or what all parts together are, on its device; all processes ask at once."""
    return tensor.full_tensor() if is_divided(tensor) else tensor


def whole(tensor: Any) -> Tensor:
    """The same, but what was divided goes to the computer's memory, as a device may not have room for all of it."""
    return brought_together(tensor).cpu() if is_divided(tensor) else tensor


def like(tensor: Tensor, wanted: Any) -> Tensor:
    """A whole tensor on the device of `wanted`, and this process's part of it where that is divided."""
    if not is_divided(wanted):
        return tensor.to(wanted.device)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(wanted.device), wanted.device_mesh, wanted.placements, src_data_rank=None)
