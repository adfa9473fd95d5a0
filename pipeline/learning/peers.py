"""The processes that take a step together: what each of them has, brought to all. All of them ask at once."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Peers:
    """Those that share `parallel`, a model wrapped for many processes or divided among them; None: there is one."""

    def __init__(self, parallel: nn.Module | None = None):
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.alone = parallel is None or not distributed
        self.group = getattr(parallel, "process_group", None)

    def all(self, mine: Tensor) -> Tensor:
        """What each process has (processes, *), by rank; everywhere of one shape, kind and sort of device."""
        if self.alone:
            return mine[None]
        parts = [torch.empty_like(mine) for _ in range(torch.distributed.get_world_size(self.group))]
        torch.distributed.all_gather(parts, mine.contiguous(), group=self.group)
        return torch.stack(parts)

    def union(self, numbers: Iterable[int], device: torch.device) -> list[int]:
        """Every number above 0 that any of them has, ascending."""
        mine = sorted(set(numbers))
        most = int(self.all(torch.tensor(len(mine), device=device)).max())
        padded = torch.tensor(mine + [0] * (most - len(mine)), dtype=torch.long, device=device)
        return sorted(set(self.all(padded).flatten().tolist()) - {0})
