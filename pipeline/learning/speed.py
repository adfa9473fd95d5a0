"""How fast the loop runs and in how much memory, not what it learns beyond the order of sums.

But for `bf16` and `tf32`, which round, and `compile`, with which dropout draws other numbers.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from pipeline.learning.divide import blocks
from pipeline.learning.state import State
from pipeline.objectives.objective import Batch

log = logging.getLogger("kintsugi")


@dataclass(frozen=True)
class Speed:
    """Options of the loop that need no other code.

    Args:
        bf16: the network alone computes in bfloat16; what surrounds it, weights and averages stay in float32.
        tf32: products of float32 matrices are rounded to 10 bits, as convolutions are by torch's own default.
        channels_last: weights of 2-D convolutions lie channels last, which tensor cores prefer.
        compile: the loss is compiled whole, from the noisy image to the gradient; where that fails it runs as it is,
            with a warning. What follows (clipping, AdamW, averages) are fused kernels over all weights anyway.
        checkpointing: the activations of each block are computed again in the backward pass instead of kept.
        deterministic: only algorithms that give the same bits every time; slower on a GPU.
    """

    bf16: bool = False
    tf32: bool = False
    channels_last: bool = False
    compile: bool = False
    checkpointing: bool = False
    deterministic: bool = False

    @contextmanager
    def applied(self, state: State, parallel: nn.Module | None = None) -> Iterator[nn.Module]:
        """What to call instead of the state's model (or of `parallel`, which wraps it) while the context is open."""
        network = getattr(state.model, "net", state.model)
        with ExitStack() as stack:
            if self.tf32:
                stack.enter_context(_rounding())
            stack.enter_context(_deterministic() if self.deterministic else _tuned())
            if self.channels_last:
                _lay_out(state)
            if self.checkpointing:
                for block in blocks(network):
                    stack.enter_context(_replaced(block, _recomputed))
            if self.bf16:
                stack.enter_context(_replaced(network, _halved))
            yield parallel or state.model


class Compiled:
    """A function compiled for the shapes it meets, until compiling fails: from then on the function itself."""

    def __init__(self, function: Callable):
        self.function, self.call = function, torch.compile(function, dynamic=False)

    def __call__(self, *given: Any) -> Any:
        """What the function returns."""
        return self.call(*given)

    def give_up(self, error: Exception) -> None:
        """Go on without compiling."""
        reason = " ".join(str(error).split())[:300]
        log.warning("compiling failed and training goes on without (%s): leave compile off.", reason)
        self.call = self.function


def ahead(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches on the device; on a GPU, the next one travels from pinned memory while one is worked on."""
    source = iter(batches)
    if device.type != "cuda":
        yield from (batch.to(device) for batch in source)
        return
    stream = torch.cuda.Stream(device)

    def send() -> Batch | None:
        batch = next(source, None)
        if batch is None:
            return None
        with torch.cuda.stream(stream):
            return batch.pinned().to(device)

    coming = send()
    while coming is not None:
        here = torch.cuda.current_stream(device)
        here.wait_stream(stream)
        batch = coming.lent(here)
        coming = send()
        yield batch


def _lay_out(state: State) -> None:
    """Channels last for the weights, their averages and their moments, which fused kernels want to lie alike."""
    for module in (state.model, *(module for _, module in state.averages)):
        module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    for weight, moments in state.optimiser.state.items():
        for name, moment in moments.items():
            if moment.shape == weight.shape:
                moments[name] = torch.empty_like(weight).copy_(moment)


@contextmanager
def _replaced(module: nn.Module, change: Callable[[nn.Module, Callable], Callable]) -> Iterator[None]:
    """The module's forward changed, while the context is open."""
    module.forward = change(module, module.forward)
    try:
        yield
    finally:
        del module.forward


def _halved(module: nn.Module, forward: Callable) -> Callable:
    def call(x: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            return forward(x, *given, **named).float()

    return call


def _recomputed(module: nn.Module, forward: Callable) -> Callable:
    def call(*given: Any, **named: Any) -> Any:
        return checkpoint(forward, *given, use_reentrant=False, **named)

    return call


@contextmanager
def _rounding() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def _tuned() -> Iterator[None]:
    """The fastest algorithms for shapes that stay the same, which cuDNN finds by trying."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def _deterministic() -> Iterator[None]:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
