"""TrainTold: one network of rows that were each seen through their own mask or window."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pipeline.backbones import unet
from pipeline.backbones.backbone import Backbone
from pipeline.data.reader import column
from pipeline.data.records import Examples
from pipeline.diffusion.precond import EDM
from pipeline.diffusion.telling import Telling
from pipeline.diffusion.told import Told
from pipeline.engine.train import Make, train
from pipeline.graph import Context, Step
from pipeline.keys import Key
from pipeline.learning.course import Course
from pipeline.objectives.told import ToldDenoising
from pipeline.physics.corruption import Corruption
from pipeline.physics.linear import Identity
from pipeline.store import Artifact
from stages.conditioned import condition_of, taught
from stages.corrupt import load
from stages.joint import mixed
from stages.train import Fit, Trains, count, save

AT_ONCE = 1 << 22  # numbers of rows whose operators are made together, about


@dataclass(frozen=True)
class TrainTold(Trains):
    """A network that is told of each row how it was seen (`denoiser.json`, `weights.safetensors`).

    Args:
        data: rows that the corruption made, without noise.
        corruption: what was drawn for each of them.
        telling: how the network is told.
        whole: whole images, shown with nothing hidden, so that the network can be asked so (masks alone).
        share: the share of every batch that they have.
        backbone: the network; one that has a condition is told the rows' labels, captions or embeddings.
        fit: how it is trained.
        seed: of its weights, its order and its noise.
    """

    data: Step
    corruption: Corruption
    telling: Telling
    whole: Step | None = None
    share: float = 0.125
    backbone: Backbone = unet.Config()
    fit: Fit = Fit()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.fit.shift or self.fit.dihedral:
            raise ValueError("fit.shift and fit.dihedral move rows away from their masks and places: leave them out")
        if self.whole is not None and not 1 <= round(self.share * self.fit.batch) < self.fit.batch:
            raise ValueError(
                f"share is {self.share}: give one that leaves a batch of {self.fit.batch} rows of both kinds"
            )

    @property
    def network(self) -> Told.Config:
        """What is trained, but for the spread of the data."""
        return Told.Config(self.telling, self.backbone)

    @property
    def sets(self) -> list[Step]:
        """What it learns from."""
        return [self.data] if self.whole is None else [self.data, self.whole]

    def make(self, open: Callable[[Step], Artifact]) -> Make:
        return partial(_course, self, [open(data) for data in self.sets])

    def run(self, at: Context) -> None:
        sets = [at.open(data) for data in self.sets]
        untold = taught(sets, self, at)
        metrics = train(self.make(at.open), save, at, self.fit.cadence, count(sets))
        at.out.write("metrics.json", json.dumps(metrics | untold))


def coded(rows: Examples, corruption: Corruption, telling: Telling) -> tuple[Tensor, Tensor]:
    """Rows as a told network takes them, A⁺y (N, *rows), which is A x₀ where A hides or selects, and their codes."""
    if missing := corruption.draw(telling.shape, Key(0)).keys() - rows.operator.keys():
        raise ValueError(
            f"the rows have no {', '.join(sorted(missing))}: of images that arrived masked give each its mask, as "
            "NAME.mask.png beside NAME.png, white where it is seen"
        )
    done, some = [], max(1, AT_ONCE // math.prod(telling.shape))
    for start in range(0, len(rows), some):
        part = rows.take(range(start, min(start + some, len(rows))))
        A, y = corruption.at(part.operator, telling.shape), part.x()
        code = telling.code(A)
        # A known watermark scales what it covers: taken back here.
        done.append((A.pinv(y) if A.out_shape == A.in_shape else y, code.expand(len(y), *code.shape[1:])))
    u, code = (torch.cat(column) for column in zip(*done, strict=True))
    return telling.seen(u, code), code


def moments(how: Telling, kinds: Sequence[Tensor], codes: Sequence[Tensor]) -> tuple[Tensor, float]:
    """The mean at each entry of the image of the rows that show it, and the root mean square of all about it."""
    sums = [how.added(u, code) for u, code in zip(kinds, codes, strict=True)]
    total, number = (torch.stack(column).sum(0) for column in zip(*sums, strict=True))
    everywhere = total.sum() / number.sum()  # where no row shows an entry, as any other
    centre = torch.where(number > 0, total / number.clamp_min(1), everywhere)
    apart = (float((u - how.cut(centre, code)).square().sum()) for u, code in zip(kinds, codes, strict=True))
    return centre, max(sum(apart) / float(number.sum()), 1e-8) ** 0.5


def _course(stage: TrainTold, sets: list[Artifact], device: torch.device) -> Course:
    how, examples = stage.telling, [load(data) for data in sets]
    kinds, codes = (list(column) for column in zip(coded(examples[0], stage.corruption, how), strict=True))
    if stage.whole is not None:
        kinds.append(examples[1].x())
        codes.append(how.code(Identity(how.shape)).expand(len(kinds[1]), *codes[0].shape[1:]))
    centre, spread = moments(how, kinds, codes)
    precond = EDM(sigma_data=spread)
    key = Key(stage.seed).fold("told")
    torch.manual_seed(key.fold("weights").integer())
    model = Told.Config(how, stage.backbone, precond).build()
    model.centre.copy_(centre)
    few = round(stage.share * stage.fit.batch) if stage.whole is not None else 0
    quotas = [stage.fit.batch - few] + ([few] if few else [])
    condition = condition_of(stage)
    told = None if condition is None else np.concatenate([column(rows, condition.column) for rows in examples])
    ids = [text for rows in examples for text in rows.ids]
    return Course(
        state=stage.fit.state(model.to(device)),
        batches=partial(mixed, kinds, quotas, stage.seed, told_of=(condition, told), share=stage.fit.unconditional),
        objective=ToldDenoising(how, torch.cat(codes).to(device), precond),
        levels=stage.fit.levels,
        clock=stage.fit.clock,
        key=key,
        bf16=stage.fit.bf16,
        tf32=stage.fit.tf32,
        names=lambda index: [ids[i] for i in index],
    )
