"""One step of training: gradients by pieces that fit into memory, and what is made of them, all on the device."""

from __future__ import annotations

import logging
import math
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.diffusion.levels import Levels
from pipeline.keys import Key
from pipeline.learning.divide import brought_together, finite, is_divided
from pipeline.learning.ema import Pair, holders
from pipeline.learning.guard import Guard
from pipeline.learning.speed import Compiled
from pipeline.learning.state import State
from pipeline.objectives.objective import Batch, Draws, Objective

log = logging.getLogger("kintsugi")
Means = dict[str, Tensor]


class Unable(Exception):
    """What a process cannot do while others wait for it: so many `rows` at once, or, where that is None, compile.

    All of them have to begin again, with less.
    """

    def __init__(self, why: str, rows: int | None = None):
        super().__init__(why, rows)
        self.why, self.rows = why, rows

    def __str__(self) -> str:
        return self.why


@dataclass
class Step:
    """What a step needs besides its batch.

    `alone` says that no other process waits for this one's gradients, `compile` that the loss is compiled whole.
    """

    state: State
    model: nn.Module
    objective: Objective
    levels: Levels
    micro: int | None
    alone: bool
    compile: bool = False

    def __post_init__(self) -> None:
        state = self.state
        self.loss = Compiled(self._loss) if self.compile else self._loss
        self.weights = [p for group in state.optimiser.param_groups for p in group["params"]]
        kinds = ([p for p in self.weights if is_divided(p) == divided] for divided in (False, True))
        self.kinds = [kind for kind in kinds if kind]  # no operation takes both
        self.buffers = holders(state.model)
        self.averages = [(rule, Pair(average, state.model)) for rule, average in state.averages]

    def __call__(self, batch: Batch, guard: Guard, key: Key) -> tuple[Means, Tensor]:
        """Everything but the clock; the step's means and whether it was taken, on the device."""
        state, batch = self.state, batch.decoded()
        buffers = [getattr(*holder).clone() for holder in self.buffers]
        losses, means = self._gradients(batch, key, buffers)
        self._mean_over_processes()
        clip = math.inf if state.optim.clip is None else state.optim.clip
        means["gradient"] = norm = self._clip(clip)
        taken = guard.take(norm, losses, batch)
        for group in state.optimiser.param_groups:
            group["lr"] = state.optim.lr_at(state.images + batch.whole)
        # Where it is 1, the fused kernel leaves weights and moments alone.
        setattr(state.optimiser, "found_inf", 1 - taken.float())  # noqa: B010
        state.optimiser.step()
        guard.settle(taken, self._sound())
        self._restore(buffers, taken)
        for rule, pair in self.averages:
            rule.update(pair, state.images, batch.whole, taken)
        return means, taken

    def _gradients(self, batch: Batch, key: Key, buffers: list[Tensor]) -> tuple[Tensor, Means]:
        """Losses (B,) and means; begins anew with smaller pieces, or without compiling, where a step cannot be done."""
        state = self.state
        while True:
            rows = min(len(batch), self.micro or len(batch), state.micro or len(batch))
            try:
                return self._accumulate(batch, rows, key)
            except torch.OutOfMemoryError as error:
                if rows == 1:
                    raise
                if not self.alone:  # the others are in the middle of an exchange that this process has left
                    raise Unable(f"{rows} rows do not fit: set scale.micro below {rows}", rows) from error
                state.micro = -(-rows // 2)
                log.warning("%d rows do not fit into memory: taking %d at a time.", rows, state.micro)
            except Exception as error:
                if not isinstance(self.loss, Compiled) or not _of_compiler(error):
                    raise
                if not self.alone:  # as above
                    reason = " ".join(str(error).split())[:300]
                    raise Unable(f"the loss cannot be compiled ({reason}): leave out scale.compile") from error
                self.loss.give_up(error)
            # Not in the handlers above, whose tracebacks hold on to what the step had allocated.
            state.optimiser.zero_grad(set_to_none=True)
            self._restore(buffers, torch.zeros((), dtype=torch.bool, device=batch.x.device))
            if batch.x.is_cuda:
                torch.cuda.empty_cache()

    def _accumulate(self, batch: Batch, rows: int, key: Key) -> tuple[Tensor, Means]:
        state, losses, means = self.state, [], {}
        state.optimiser.zero_grad(set_to_none=True)
        parts = batch.split(rows)
        for i, part in enumerate(parts):
            sigma = part.sigma if part.sigma is not None else self._levels(part, key)
            _seed(part.x.device, key.fold("dropout", part.offset).integer())
            later = i + 1 < len(parts)  # gradients travel between processes once a step
            with getattr(self.model, "no_sync", nullcontext)() if later else nullcontext():
                total, each, scalars = self.loss(part, sigma, self.objective.draw(part, key))
                if not total.requires_grad:
                    raise ValueError("the loss depends on no weight that is trained: nothing can be learned of it")
                (total * (len(part) / len(batch))).backward()
            losses.append(each)
            for name, value in scalars.items():
                means[name] = means.get(name, 0) + value * (len(part) / len(batch))
        return torch.cat(losses), means

    def _levels(self, part: Batch, key: Key) -> Tensor:
        sigma = self.levels.draw(len(part), key.fold("sigma"), part.offset, part.whole)
        return (sigma.pin_memory() if part.x.is_cuda else sigma).to(part.x.device, non_blocking=True)

    def _loss(self, part: Batch, sigma: Tensor, drawn: Draws) -> tuple[Tensor, Tensor, Means]:
        """The mean loss of a piece, to be minimised, and without gradients each row's (B,) and what is worth logging.

        A bad loss poisons the gradient, which processes share: all of them see it and decide alike.
        """
        loss = self.objective.loss(self.model, part, sigma, drawn)
        each = loss.each if self.state.weight is None else self.state.weight.weigh(loss.each, sigma)
        total = each.mean()
        scalars = {"loss": loss.each.mean()} | loss.scalars
        poison = torch.where(total.detach().isfinite(), 1.0, math.nan)
        return total * poison, each.detach(), {name: value.detach() for name, value in scalars.items()}

    def _mean_over_processes(self) -> None:
        """Average the gradients of what the wrapped model does not hold; a bad one stays bad and reaches all."""
        if self.state.weight is None or self.alone:
            return
        for parameter in self.state.weight.parameters():
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= torch.distributed.get_world_size()  # pyright: ignore[reportOperatorIssue]

    def _clip(self, most: float) -> Tensor:
        """The norm of all gradients, before they are scaled to `most` at most."""
        norms = [nn.utils.get_total_norm([p.grad for p in kind if p.grad is not None]) for kind in self.kinds]
        norms = [brought_together(norm) for norm in norms]
        norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
        for kind in self.kinds:
            nn.utils.clip_grads_with_norm_(kind, most, norm)
        return norm

    @torch.no_grad()
    def _sound(self) -> Tensor:
        """Whether all weights are finite, on all processes; one reading of them, which costs little beside AdamW's."""
        wrong = (~finite(self.weights)).float()
        if any(is_divided(kind[0]) for kind in self.kinds):  # each process has looked at its own part
            torch.distributed.all_reduce(wrong)
        return wrong == 0

    def _restore(self, buffers: list[Tensor], taken: Tensor) -> None:
        """The model's buffers as they were, unless the step is taken."""
        for holder, before in zip(self.buffers, buffers):
            buffer = getattr(*holder)
            buffer.copy_(torch.where(taken, buffer, before))


def _seed(device: torch.device, seed: int) -> None:
    """As `torch.manual_seed`, which without a GPU in use writes down a stack trace for each of those it cannot ask."""
    generator = torch.default_generator if device.type == "cpu" else torch
    generator.manual_seed(seed)


def _of_compiler(error: Exception) -> bool:
    """Whether it is the compiler that failed, not what it compiled."""
    return any(kind.__module__.startswith(("torch._dynamo", "torch._inductor")) for kind in type(error).__mro__)
