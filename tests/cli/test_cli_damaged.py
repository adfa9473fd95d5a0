"""Sets that arrive damaged are passed on with all that is known of them, and nothing is damaged a second time."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline import graph
from pipeline.data.sources import source_of
from pipeline.graph import step
from pipeline.physics.corruption import Clean, Noisy
from pipeline.store import Store
from stages.corrupt import Corrupt, Part, load
from stages.ingest import Ingest

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (9, 8, 8)).astype(np.uint8)
SEEN = RNG.random((9, 8, 8)) < 0.5
SIGMA = np.linspace(0.1, 0.9, 9).astype(np.float32)


@pytest.fixture
def damaged(tmp_path):
    np.savez(tmp_path / "x.npz", images=IMAGES, mask=SEEN, sigma=SIGMA)
    return step(Ingest(source_of(str(tmp_path / "x.npz")), (1, 8, 8)))


def test_a_part_of_a_damaged_set_keeps_masks_and_sigmas_beside_what_was_seen(here, damaged, tmp_path):
    part = step(Corrupt(damaged, Part(3, 4), Clean()), "part")
    store = Store(str(tmp_path / "store"))
    here(part, store)
    rows, made = load(store.artifact(part.address)), store.artifact(part.address).json("dataset.json")
    assert made["damage"] == ["mask", "sigma"]
    for name, image, sigma, mask in zip(
        rows.ids, rows.images, rows.operator["sigma"], rows.operator["mask"], strict=True
    ):
        (i,) = np.flatnonzero((image[0] == np.where(SEEN, IMAGES, 128)).all((1, 2)))
        assert name.endswith(str(i))
        assert sigma == SIGMA[i]
        assert (np.unpackbits(mask).reshape(8, 8) == SEEN[i]).all()


def test_a_damaged_set_is_not_damaged_again(here, damaged, tmp_path):
    part = step(Corrupt(damaged, Part(), Noisy(noise=0.3)), "part")
    with pytest.raises(graph.StepFailed) as failed:
        here(part, Store(str(tmp_path / "store")))
    assert "arrived already damaged (mask, sigma" in str(failed.value.__cause__)


CLEAN = "{is: pipeline.physics.corruption.Clean}"


@pytest.mark.parametrize("masks", [False, True])
def test_the_noise_that_rows_arrived_with_is_stated_in_the_gallery(alone, masks, tmp_path):
    np.savez(tmp_path / "x.npz", images=IMAGES, sigma=SIGMA, **({"mask": SEEN} if masks else {}))
    said = alone("run", "corrupted", "--data", tmp_path / "x.npz", "--corruption", CLEAN, "--json")
    assert said.code == 0, said.err
    metrics = said.json["metrics"]
    assert metrics["noise_stated"] == pytest.approx(np.sqrt((SIGMA.astype(float) ** 2).mean()), rel=1e-6)
    assert "noise_rms" not in metrics, "nobody has the originals"
    assert metrics["observed"] == pytest.approx(SEEN.mean() if masks else 1, abs=0.05)
