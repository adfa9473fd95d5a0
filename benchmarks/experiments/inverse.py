"""How well rows are restored by each way of hearing them: digits behind masks, one model, the same starting noise.

    PYTHONPATH=. python benchmarks/experiments/inverse.py --store RUNS --recipe em

takes the sets and the models of a finished run of `em` in that store. Noiseless rows are made here, from its originals.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from pipeline.diffusion.conditioning import DDNM, DPS, Conditioning, MomentMatching, PiGDM
from pipeline.diffusion.sample import Heun, normal
from pipeline.keys import Key
from pipeline.learning.weights import unpack
from pipeline.metrics.frechet import frechet
from pipeline.metrics.moments import Moments
from pipeline.physics.corruption import corrupt
from pipeline.physics.masks import PixelMask
from pipeline.store import Store
from stages.corrupt import load

WAYS: dict[str, Conditioning] = {
    "moment matching": MomentMatching(),
    "moment matching, 1 step": MomentMatching(iterations=1),
    "ΠGDM": PiGDM(),
    "DPS, ζ 2": DPS(step=2.0),
    "DPS, ζ 8": DPS(),
    "DPS, ζ 32": DPS(step=32.0),
    "DDNM": DDNM(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", default="runs")
    parser.add_argument("--recipe", default="em")
    parser.add_argument("--model", nargs="+", default=["ceiling", "lap/0"])
    parser.add_argument("--rows", type=int, default=400)
    asked = parser.parse_args()
    store = Store(asked.store)
    refs = store.refs()
    original = load(store.artifact(refs[f"{asked.recipe}/data/unharmed"]))
    original = original.take(np.arange(min(asked.rows, len(original))))
    x0, shape = original.x(), original.shape
    keys = [Key(0).fold("restore", name) for name in original.ids]
    start = normal(shape, [key.fold("start").numpy() for key in keys]) * 20
    sampler = Heun(steps=14, sigma_min=0.02, sigma_max=20.0)
    for name in asked.model:
        D = unpack(store.artifact(refs[f"{asked.recipe}/{name}"]).read)
        for noise in (0.0, 0.1):
            y, rows = corrupt(PixelMask(0.5, noise=noise), x0, original.ids, 0)
            A = PixelMask(0.5).at(rows, shape)
            seen = A(torch.ones_like(x0)) > 0
            print(f"\n{name}, noise {noise}\nway | rms of y − A x | rms error hidden | Fréchet | seconds")
            for way, by in WAYS.items():
                if noise and isinstance(by, DDNM):
                    continue
                begun = time.perf_counter()
                x = sampler(by(D, A, y, noise), start, keys=keys)
                took = time.perf_counter() - begun
                off = ((A(y) - A(x))[seen] ** 2).mean().sqrt()
                hidden = ((x - x0)[~seen] ** 2).mean().sqrt()
                distance = frechet(Moments.of(x.flatten(1)), Moments.of(x0.flatten(1)))
                print(f"{way} | {off:.4f} | {hidden:.4f} | {distance:.4f} | {took:.1f}")


if __name__ == "__main__":
    main()
