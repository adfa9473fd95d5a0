"""Samples while training: what the averaged model draws at every checkpoint, from the same noise each time."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.backbones.condition import Labels
from pipeline.diffusion.precond import Preconditioned
from pipeline.diffusion.sample import Heun, samples
from pipeline.engine.pictures import grid, pixels

COUNT, SAMPLER = 16, Heun(steps=12)  # 23 evaluations of the model: less than training on 200 more images
FOLDER = "previews"


def name(images: int) -> str:
    """Of the picture of a model that has seen so many."""
    return f"{FOLDER}/{images:012d}.png"


def preview(model: nn.Module, count: int = COUNT) -> bytes | None:
    """A PNG of `count` images, told the labels in turn where the model is told labels.

    None: the model draws no images by itself, as those of latents, of residuals and of what each row shows do not.
    """
    if not isinstance(model, Preconditioned) or model.config.shape[0] not in (1, 3) or len(model.config.shape) < 3:
        return None
    condition = getattr(model.config.backbone, "condition", None)
    if condition is not None and not isinstance(condition, Labels):
        return None
    cond = None if condition is None else torch.arange(count) % condition.classes
    device = next(model.parameters()).device
    with torch.no_grad():
        x = samples(model, SAMPLER, tuple(model.config.shape), range(count), seed=0, cond=cond, device=device)
    return grid(pixels(x.nan_to_num().clamp(-1, 1).numpy()), COUNT)
