"""Whoever trains on rows as they are is told what their pixels do not show, whether they came so or were made so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from doubles import pixels

from pipeline.backbones import mlp
from pipeline.data.declared import Declared
from pipeline.data.sources import source_of
from pipeline.graph import Step, step
from pipeline.physics.blackbox import BlackBox, Jpeg
from pipeline.physics.conditions import Symmetric
from pipeline.physics.corruption import Clean, Corruption, Noisy, Through
from pipeline.physics.masks import BoxMask, FixedMask, PixelMask
from pipeline.physics.mixture import Mixture
from pipeline.physics.sensors import Measured, Poisson
from pipeline.physics.views import Crop, Pool
from pipeline.store import Store
from stages.conditions import Worsen
from stages.corrupt import Corrupt, Part
from stages.ingest import Ingest
from stages.train import Fit, Train, course

SHAPE = (1, 8, 8)
LEFT = FixedMask(("11110000",) * 8)
RARE = Mixture(((0.999, Clean()), (0.001, PixelMask(0.5))))
OURS: dict[str, Corruption] = {
    "pixels": PixelMask(0.2),
    "a box": BoxMask(0.2, 0.5),
    "one mask": LEFT,
    "a mask now and then": RARE,
    "a mask and noise": PixelMask(0.2, noise=0.1),
    "a masked sensor": Measured(LEFT, Poisson(400.0)),
}
WHOLE: dict[str, tuple[Corruption, bool]] = {  # and whether fit.shift would falsify it
    "clean": (Clean(), False),
    "a crop": (Through(Crop(SHAPE, 1, 2, 5, 4)), False),
    "a pool": (Through(Pool(SHAPE, 2)), False),
    "a black box": (BlackBox(Jpeg(50)), False),
    "noise": (Noisy(noise=0.1), True),
    "a noisy pool": (Through(Pool(SHAPE, 2), noise=0.1), True),
    "noise now and then": (Mixture(((0.999, Clean()), (0.001, Noisy(noise=0.1)))), True),
    "photons": (Measured(Clean(), Poisson(400.0)), True),
}


@pytest.fixture
def full(tmp_path) -> str:
    """Sixteen images with labels."""
    np.savez(tmp_path / "x.npz", images=np.stack([pixels(i) for i in range(16)]), labels=np.arange(16) % 4)
    return str(tmp_path / "x.npz")


@pytest.fixture
def trained(here, tmp_path):
    """`trained(data, shift)`: the course of a plain training on what a step makes."""

    def run(data: Step, shift: int = 0):
        store = Store(str(tmp_path / "store"))
        here(data, store)
        return course(
            Train(data, mlp.Config(width=8, blocks=1), Fit(images=32, batch=8, shift=shift)),
            [store.artifact(data.address)],
            torch.device("cpu"),
        )

    return run


@pytest.mark.parametrize("case", OURS)
def test_rows_that_were_masked_here_are_refused_as_those_that_arrived_so(case, full, trained):
    made = step(Corrupt(step(Ingest(source_of(full), SHAPE)), Part(0, 12), OURS[case]))
    for data in (made, step(Worsen(made, Symmetric(0.5, 4))), step(Corrupt(made, Part(0, 8)))):
        with pytest.raises(ValueError, match=r"the rows of \w+/\w+ are seen through masks, .* as grey: take whole"):
            trained(data)


def test_rows_that_are_declared_to_be_masked_are_refused(full, trained):
    arrived = step(Ingest(source_of(full), SHAPE, seen_through=Declared(LEFT, SHAPE)))
    for data in (arrived, step(Corrupt(arrived, Part(0, 8)))):
        with pytest.raises(ValueError, match="seen through masks"):
            trained(data)
    assert trained(step(Ingest(source_of(full), SHAPE, seen_through=Declared(Noisy(noise=0.1), SHAPE)))).batches


@pytest.mark.parametrize("case", WHOLE)
def test_rows_that_hide_nothing_train_and_are_shifted_where_they_have_no_noise(case, full, trained):
    corruption, noisy = WHOLE[case]
    data = step(Corrupt(step(Ingest(source_of(full), SHAPE)), Part(0, 12), corruption))
    assert trained(data).batches
    if noisy:
        with pytest.raises(ValueError, match=r"fit\.shift repeats edges"):
            trained(data, shift=1)
    else:
        assert trained(data, shift=1).batches


def test_of_a_large_image_that_is_all_seen_no_number_is_taken_for_hidden():
    assert Declared(Noisy(noise=0.1), (3, 1024, 1024)).seen.all()
