"""The averages that a run writes down, and those that are made of them afterwards (see posthoc.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from pipeline.learning.divide import whole
from pipeline.learning.posthoc import Power, shares
from pipeline.learning.state import State

FOLDER = "averages/"
FAR, NEAR = 0.5, 0.1  # how far off a profile may be at all, and without a word


def written(state: State) -> tuple[str, bytes]:
    """The name of a file for the profiles of this moment, and its bytes: tensors by width and name."""
    import safetensors.torch

    tensors = {
        f"{rule.sigma_rel!r}|{name}": whole(parameter.detach()).cpu().contiguous()
        for rule, module in state.profiles
        for name, parameter in module.named_parameters()
    }
    return f"{FOLDER}{state.images:012d}.safetensors", safetensors.torch.save(tensors)


@torch.no_grad()
def average(model: nn.Module, names: Iterable[str], read: Callable[[str], bytes], wanted: Power) -> float:
    """Give `model` the average of width `wanted.sigma_rel` over a run, from what that run wrote.

    `names` are the run's files and `read` gives the bytes of one. Returns how far the average's profile is from the one
    wanted, relative to its norm. Raises ValueError when there is nothing to make the average of, when that is further
    from it than `FAR`, or when it does not fit the model.
    """
    import safetensors.torch

    files = sorted(name for name in names if name.startswith(FOLDER))
    if not files:
        raise ValueError("this model kept no averages: train with posthoc, as in `--set fit.posthoc={}`")
    times = {name: int(name.removeprefix(FOLDER).removesuffix(".safetensors")) for name in files}
    weights = dict(model.named_parameters())
    widths = sorted({name.partition("|")[0] for name in safetensors.torch.load(read(files[-1]))})
    kept = [(times[name], float(width)) for name in files for width in widths]
    each, off = shares(kept, wanted, max(times.values()))
    if off > FAR:
        raise ValueError(
            f"what was kept, of widths {', '.join(widths)} at {len(files)} times, says too little of width "
            f"{wanted.sigma_rel:g} (its profile would be off by {off:.0%}): ask for one nearer to those, or train with "
            "fit.posthoc of such a width"
        )
    found = iter(each)
    sums = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in weights.items()}
    for name in files:
        tensors = safetensors.torch.load(read(name))
        for width in widths:
            _add(sums, tensors, width, float(next(found)))
    for name, parameter in weights.items():
        parameter.copy_(sums[name])
    return off


def _add(sums: dict[str, Tensor], tensors: dict[str, Tensor], width: str, share: float) -> None:
    for name, total in sums.items():
        part = tensors.get(f"{width}|{name}")
        if part is None or part.shape != total.shape:
            raise ValueError(f"the averages of width {width} do not fit this model at {name}: they are of another one")
        total += share * part.double()
