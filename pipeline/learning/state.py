"""All that a training run is between two steps: weights, their average, the optimiser and what time it is.

No state of a random generator is among it: randomness is keyed by the step (see loop.py), so tensors and a few numbers
suffice to continue to the bit.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.learning.divide import divide, finite, like, whole
from pipeline.learning.ema import EMA, Average
from pipeline.learning.optim import AdamW
from pipeline.learning.posthoc import PostHoc, Power
from pipeline.learning.weighting import LevelWeight

LATER = {"score": None, "micro": None, "passed": 0, "rollbacks": 0}  # numbers that a checkpoint may lack: they are so
COUNTS = ("images", "step", "skipped", "stale", "passed", "rollbacks")
SCORES = ("score", "best_score", "best_images")
BACK = "back."


@dataclass
class State:
    """A run; time is `images` seen. `best` holds the averaged weights of the lowest validation so far, if any.

    `score` is the last validation, `micro` how many rows were found to fit into memory (None: nothing was found out),
    `weight` the learned weight of each level's loss, `profiles` averages from which others are made after training.
    `back` is the moment to which `roll_back` returns, as tensors and numbers; `passed` counts the images of the order
    that roll-backs have passed over, so that the next image is number `position`. `plain` is what the model was before
    it was divided among processes (None: it is not); from then on all of them have to ask for tensors, the result, a
    validation or a moment to return to at once.
    """

    model: nn.Module
    average: nn.Module
    optimiser: torch.optim.Optimizer
    optim: AdamW
    ema: EMA
    images: int = 0
    step: int = 0
    skipped: int = 0
    best: dict[str, Tensor] | None = None
    best_score: float | None = None
    best_images: int | None = None
    stale: int = 0
    score: float | None = None
    micro: int | None = None
    weight: LevelWeight | None = None
    profiles: tuple[tuple[Power, nn.Module], ...] = ()
    passed: int = 0
    rollbacks: int = 0
    back: tuple[dict[str, Tensor], dict[str, Any]] | None = None
    plain: nn.Module | None = None

    @classmethod
    def create(
        cls,
        model: nn.Module,
        optim: AdamW = AdamW(),
        ema: EMA = EMA(),
        posthoc: PostHoc | None = None,
        weight: LevelWeight | None = None,
    ) -> State:
        """The state before the first step; the model is kept, not copied (move it to its device first)."""
        average = copy.deepcopy(model).eval().requires_grad_(False)
        learnt = [model] if weight is None else [model, weight.to(next(model.parameters()).device)]
        profiles = tuple((p, copy.deepcopy(average)) for p in (posthoc.profiles if posthoc else ()))
        return cls(model, average, optim.build(*learnt), optim, ema, weight=weight, profiles=profiles)

    def divide(self) -> None:
        """Divide all that is large among the processes of the default group (see divide.py), on all of them at once.

        Raises ValueError once the run has begun: load its checkpoint afterwards.
        """
        if self.step:
            raise ValueError(f"the run is at step {self.step}: divide it before its first, or before it is loaded.")
        self.plain = copy.deepcopy(self.average).cpu()
        for module in (self.model, *(module for _, module in self.averages)):
            divide(module)
        self.optimiser = self.optim.build(self.model, *([] if self.weight is None else [self.weight]))

    @property
    def averages(self) -> list[tuple[Average, nn.Module]]:
        """Every average that the run keeps, with its rule."""
        return [(self.ema, self.average), *self.profiles]

    def consider(self, score: float) -> None:
        """Take note of a validation of the average at this moment; lower is better."""
        self.score = score
        if self.best_score is None or score < self.best_score:
            self.best = {name: tensor.detach().clone() for name, tensor in self.average.state_dict().items()}
            self.best_score, self.best_images, self.stale = score, self.images, 0
        else:
            self.stale += 1

    @property
    def position(self) -> int:
        """Where in the order of its data the run is."""
        return self.images + self.passed

    def remember(self) -> None:
        """Take a copy of this moment, in the computer's memory, to which `roll_back` returns."""
        self.back = {name: tensor.to("cpu", copy=True) for name, tensor in self._tensors().items()}, self._meta()

    def roll_back(self, batch: int) -> None:
        """Return to the moment last remembered; all images since then and the `batch` after them are passed over."""
        if self.back is None:
            raise ValueError("there is no moment to return to: call remember first.")
        tensors, meta = self.back
        passed, rollbacks = self.position + batch - meta["images"], self.rollbacks + 1
        self.load(tensors, meta)
        self.passed, self.rollbacks = passed, rollbacks
        self.remember()

    def unsound(self) -> str | None:
        """The first weight or average of which this process holds what is not finite, by name; None: there is none."""
        named = {f"{part}.{name}": p for part, m in self._modules().items() for name, p in m.named_parameters()}
        if not named or bool(finite(list(named.values()))):
            return None
        return next(name for name, parameter in named.items() if not bool(finite([parameter])))

    def result(self) -> nn.Module:
        """A copy of the average, in evaluation mode, with the best weights if any were validated."""
        chosen = copy.deepcopy(self.average if self.plain is None else self.plain)
        if self.best is not None or self.plain is not None:
            found = self.average.state_dict() if self.best is None else self.best
            chosen.load_state_dict({name: whole(tensor) for name, tensor in found.items()})
        return chosen

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the run under one flat name (model., average., best., optimiser., back.), whole.

        Views, not copies, but for what is divided, which is brought together in the computer's memory.

        What is under back. is missing where that moment is this one.
        """
        back = {} if self._here() or self.back is None else self.back[0]
        return self._tensors() | {BACK + name: tensor for name, tensor in back.items()}

    def meta(self) -> dict[str, Any]:
        """Every number of the run, as JSON can hold it."""
        return self._meta() | ({} if self._here() or self.back is None else {"back": self.back[1]})

    def _here(self) -> bool:
        return self.back is not None and self.back[1]["images"] == self.images

    def _tensors(self) -> dict[str, Tensor]:
        parts = {name: module.state_dict() for name, module in self._modules().items()} | {"best": self.best or {}}
        flat = {f"{part}.{name}": tensor for part, held in parts.items() for name, tensor in held.items()}
        for i, moments in self.optimiser.state_dict()["state"].items():
            flat |= {f"optimiser.{i}.{name}": torch.as_tensor(value) for name, value in moments.items()}
        return {name: whole(tensor.detach()) for name, tensor in flat.items()}

    def _meta(self) -> dict[str, Any]:
        names = ("images", "step", "skipped", "best_score", "best_images", "stale")
        later = {name: getattr(self, name) for name, least in LATER.items() if getattr(self, name) != least}
        return {name: getattr(self, name) for name in names} | later

    def _modules(self) -> dict[str, nn.Module]:
        """What has weights, by the part of a checkpoint that holds them."""
        weight = {} if self.weight is None else {"weight": self.weight}
        profiles = {f"profile{i}": module for i, (_, module) in enumerate(self.profiles)}
        return {"model": self.model, "average": self.average, **weight, **profiles}

    def load(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Become the run that `tensors()` and `meta()` were taken from.

        Raises ValueError, and changes nothing, if that was no such run; it says where the two differ.
        """
        back = {name.removeprefix(BACK): tensor for name, tensor in tensors.items() if name.startswith(BACK)}
        parts = self._parts({name: t.clone() for name, t in tensors.items() if not name.startswith(BACK)}, meta)
        if back:
            self._parts(back, meta["back"] if isinstance(meta.get("back"), dict) else {})
        self.back = (back, meta["back"]) if back else None
        for name, module in self._modules().items():
            here = module.state_dict()
            module.load_state_dict({key: like(tensor, here[key]) for key, tensor in parts[name].items()})
        weights = self._weights()
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in parts["optimiser"].items():
            i, _, kind = name.partition(".")
            moments.setdefault(int(i), {})[kind] = tensor if kind == "step" else like(tensor, weights[int(i)])
        # The groups (rates, decay) come from this run's configuration, the moments from the checkpoint.
        self.optimiser.load_state_dict({"state": moments, "param_groups": self.optimiser.state_dict()["param_groups"]})
        here = self.average.state_dict()
        self.best = {name: like(tensor, here[name]) for name, tensor in parts["best"].items()} or None
        for name in {*self._meta(), *LATER}:
            setattr(self, name, meta.get(name, LATER.get(name)))

    def _parts(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> dict[str, dict[str, Tensor]]:
        """The tensors of a run by part and name. Raises ValueError: they and `meta` are not those of such a run."""
        modules = self._modules()
        parts: dict[str, dict[str, Tensor]] = {name: {} for name in (*modules, "best", "optimiser")}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = tensor
        wanted = {name: module.state_dict() for name, module in modules.items()}
        if parts["best"]:
            wanted["best"] = wanted["average"]
        wanted["optimiser"] = self._moments(parts["optimiser"])
        _agree({part: parts.get(part, {}) for part in {**wanted, **parts}}, wanted)
        missing = sorted(set(self._meta()) - set(meta) - set(LATER))
        if missing:
            raise ValueError(f"the checkpoint is no training run's: it has no {', '.join(missing)}.")
        for name in COUNTS:
            if type(count := meta.get(name, 0)) is not int or count < 0:
                raise ValueError(f"the checkpoint is no training run's: its {name} is {count!r:.40}.")
        micro = meta.get("micro")
        if micro is not None and (type(micro) is not int or micro < 1):
            raise ValueError(f"the checkpoint is no training run's: its micro is {micro!r:.40}.")
        for name in SCORES:
            if (score := meta.get(name)) is not None and not (type(score) in (int, float) and math.isfinite(score)):
                raise ValueError(f"the checkpoint is no training run's: its {name} is {score!r:.40}.")
        if meta.get("step", 0) > meta.get("skipped", 0) and not parts["optimiser"]:
            raise ValueError("the checkpoint has no moments of the optimiser, so that no run could go on from it.")
        for name, tensor in tensors.items():
            if tensor.dtype.is_floating_point and not bool(tensor.isfinite().all()):
                raise ValueError(f"the checkpoint has numbers that are not finite, in {name}: use an earlier one.")
        return parts

    def _moments(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the optimiser's part of a checkpoint looks like: nothing before the first step, else AdamW's moments."""
        if not found:
            return {}
        weights = self._weights()
        moments = {f"{i}.{kind}": p for i, p in enumerate(weights) for kind in ("exp_avg", "exp_avg_sq")}
        return moments | {f"{i}.step": torch.zeros(()) for i in range(len(weights))}

    def _weights(self) -> list[Tensor]:
        """What the optimiser moves, by its numbers."""
        return [p.detach() for group in self.optimiser.param_groups for p in group["params"]]


def _agree(found: dict[str, dict[str, Tensor]], wanted: dict[str, dict[str, Tensor]]) -> None:
    """Raises ValueError with the shapes in which a checkpoint differs from what a run has."""
    there, here = (
        {f"{part}.{name}": t for part, held in side.items() for name, t in held.items()} for side in (found, wanted)
    )
    if told := differing(there, here, "in the checkpoint"):
        raise ValueError(f"the checkpoint is of another model: build the one it was saved from. {told}.")


def differing(found: dict[str, Tensor], wanted: dict[str, Tensor], where: str) -> str:
    """Names whose shapes (or kinds of numbers) differ between tensors found somewhere and those wanted; "": none."""
    there, here = ({name: _form(tensor) for name, tensor in side.items()} for side in (found, wanted))
    differ = [name for name in here | there if there.get(name) != here.get(name)]
    differ.sort(key=lambda name: name.startswith(("average", "profile", "optimiser")))  # those only follow the weights
    lines = [f"{name}: {there.get(name, 'none')} {where}, {here.get(name, 'none')} here" for name in differ[:8]]
    return "; ".join(lines) + (f"; and {len(differ) - 8} more" if len(differ) > 8 else "")


def _form(tensor: Tensor) -> str:
    kind = "" if tensor.dtype.is_floating_point else f" of {tensor.dtype}".replace("torch.", "")
    return f"{tuple(tensor.shape)}{kind}"
