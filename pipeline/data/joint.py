"""Joint coverage of measurements: which directions of an image no row shows, or none together with another."""

from __future__ import annotations

import logging
import math

import numpy as np
import torch
from torch import Tensor

from pipeline.data.coverage import NAMED
from pipeline.keys import Key

log = logging.getLogger("kintsugi")
TRIED = 64  # numbers that were measured, with which all directions must have been seen
HELD = 2**22  # numbers of matrices that are looked at together
SMALL = 1e-6  # of the largest eigenvalue: what rounding leaves of 0


def check_joint(A: Tensor, shape: tuple[int, ...], apart: bool = False) -> None:
    """Raises ValueError where the rows' maps A (N or 1, m, n) of images of `shape` leave something unseen.

    E[AᵀA] must have full rank, and so must that of the rows which show a number that some row measured, or E[AᵀA | Ã]
    could not (of masks: every two pixels are seen together). `TRIED` of those numbers are looked at. With `apart` the
    latter is only warned of.
    """
    n = A.shape[2]
    rows = A.flatten(0, 1)
    rows = rows[rows.square().sum(1) > 0].double()
    if not len(rows):
        raise ValueError("the rows measure nothing: look at what they are said to have gone through")
    tried = rows[torch.from_numpy(Key(0).fold("joint").numpy().permutation(len(rows))[:TRIED])]
    whole, beside = torch.zeros(n, n, dtype=torch.float64), torch.zeros(len(tried), n, n, dtype=torch.float64)
    measured = torch.zeros(len(tried), dtype=torch.int64)
    for part in A.split(max(1, HELD // n**2)):
        part = part.double()
        gram = part.mT @ part
        left = (torch.linalg.pinv(part) @ (part @ tried.T) - tried.T).square().sum(1)
        shown = left < SMALL * tried.square().sum(1)
        whole += gram.sum(0)
        measured += ((part.square().sum(2) > 0).sum(1)[:, None] * shown).sum(0)
        for k in range(len(tried)):
            beside[k] += gram[shown[:, k]].sum(0)
    if said := _lacking(whole, shape):
        raise ValueError(f"no row shows {said}: nothing can be learned there, so add rows that do")
    for gram, rows in zip(beside, measured, strict=True):
        # Where next to nobody shares a number, as of random patterns, rows cannot tell what the law of maps would.
        if rows >= 2 * n and (said := _lacking(gram, shape)):
            text = f"together with a number that some row measured, no row shows {said}"
            if not apart:
                raise ValueError(f"{text}: add rows that show both, or say that the rest is to be learned (--apart)")
            log.warning("%s: how they go together is not learned", text)
            return


def _lacking(gram: Tensor, shape: tuple[int, ...]) -> str:
    """How many directions a mean of AᵀA (n, n) does not have, and where in an image most of them is; "" if none."""
    values, axes = torch.linalg.eigh(gram)
    unseen = values < SMALL * values[-1]
    count = int(unseen.sum())
    if not count:
        return ""
    where = axes[:, unseen].square().sum(1).numpy()
    places = np.stack(np.unravel_index(np.argsort(-where, kind="stable"), shape), 1)
    named = ", ".join(str(tuple(place)) for place in places[: min(NAMED, count)].tolist())
    return f"{count} of {math.prod(shape)} directions of an image, which are mostly at {named}"
