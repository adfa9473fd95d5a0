"""Images that arrive masked teach as those masked here do, and nothing is learned where nothing could be."""

from __future__ import annotations

from pathlib import Path

import alone
import numpy as np
import pytest
import torch
from kept import rows, seen
from PIL import Image

from pipeline.backbones import mlp
from pipeline.config import to_json
from pipeline.data.damaged import HIDES
from pipeline.data.digits import Digits
from pipeline.data.records import Examples
from pipeline.data.source import Piece
from pipeline.diffusion.filling import Ask
from pipeline.graph import step
from pipeline.keys import Key
from pipeline.learning.weights import pack, unpack
from pipeline.objectives.masking import Masking
from pipeline.physics.blur import GaussianBlur
from pipeline.physics.corruption import Clean, Corruption, Through, corrupt
from pipeline.physics.masks import PixelMask
from pipeline.store import Store
from stages.corrupt import Corrupt
from stages.images import Images
from stages.ingest import Ingest
from stages.masked import TrainMasked, course
from stages.recipes.ambient_masks import ambient_masks
from stages.train import Fit

SHAPE, COUNT = (1, 4, 4), 200
TOY = mlp.Config(width=16, blocks=1, dropout=0.1)
FIT = Fit(images=320, batch=16)
FULL = step(Ingest(Digits(), SHAPE), "full")
DATA = step(Corrupt(FULL, corruption=PixelMask(0.4)), "data")
MADE = PixelMask(0.4, noise=0.1)
ARRIVED = {"damage": ["mask"]}


def examples(corruption: Corruption = MADE) -> Examples:
    """Rows as this corruption makes them, with their masks."""
    x0 = (torch.randn(COUNT, *SHAPE, generator=Key(0).torch()) * 0.3).clamp(-1, 1)
    ids = [f"image-{i}" for i in range(COUNT)]
    y, operator = corrupt(corruption, x0, ids, 0)
    return Examples.from_x(ids, y, operator=operator)


def trained(stage: TrainMasked, data) -> torch.nn.Module:
    return course(stage, [data], torch.device("cpu")).run().result()


def asked(**more) -> TrainMasked:
    return TrainMasked(DATA, **({"seen": None, "noise": 0.1, "backbone": TOY, "fit": FIT} | more))


def test_rows_teach_the_same_whether_they_were_masked_here_or_arrived_so(tmp_path):
    """To the bit; which masks were drawn here is known, which will come is not: those that came are asked through."""
    made = rows(tmp_path / "made", examples(), {"corruption": to_json(MADE, Corruption)}, {HIDES: True})
    came = rows(tmp_path / "came", examples(), {}, ARRIVED)
    want = trained(asked(seen=MADE), made)
    for stage, data in ((asked(), came), (asked(noise=None), made)):
        found = trained(stage, data)
        for name, weight in want.state_dict().items():
            assert torch.equal(found.state_dict()[name], weight), name
    file = pack(trained(asked(ask=Ask(masks=3, guidance=0.5)), came))
    again = unpack(file.__getitem__)
    whole = torch.from_numpy(np.unpackbits(examples().operator["mask"], axis=1).astype(bool)).reshape(-1, *SHAPE)
    assert len(again.masks) == 3
    for mask in again.masks:
        assert any(bool((mask <= one).all()) for one in whole), "of one of the rows, and hidden further"
    assert 0 < float(again.masks.float().mean()) < 0.7


def test_the_spread_of_masked_rows_is_told_without_their_noise(tmp_path):
    loud = PixelMask(0.4, noise=0.5)
    made = rows(tmp_path / "made", examples(loud), {"corruption": to_json(loud, Corruption)}, {HIDES: True})
    found = trained(asked(seen=loud, noise=0.5), made)
    assert found.config.precond.sigma_data == pytest.approx(0.3, abs=0.05)


def test_each_row_teaches_above_its_own_noise(tmp_path):
    sigma = np.linspace(0.1, 0.5, COUNT).astype(np.float32)
    told = examples()
    told = Examples(told.ids, told.images, operator=told.operator | {"sigma": sigma})
    data = rows(tmp_path / "data", told, {}, {"damage": ["mask", "sigma"]})
    run = course(asked(noise=None), [data], torch.device("cpu"))
    floors = {}
    for _, batch in zip(range(40), run.batches(0, 0, 1), strict=False):
        assert (batch.sigma >= Masking().least(0.1)).all()
        for i, floor, level in zip(run.names(batch.index.tolist()), batch.floor, batch.sigma, strict=True):
            assert float(level) > float(floor)
            floors[i] = float(floor)
    known = dict(zip(told.ids, sigma.tolist(), strict=True))
    assert len(floors) > 100
    assert all(floors[i] == pytest.approx(known[i]) for i in floors)
    with pytest.raises(ValueError, match=r"leave out noise = 0\.1"):
        course(asked(), [data], torch.device("cpu"))


def came(folder: Path, *shown: str):
    """Rows that arrived with these masks, in turns."""
    each = np.array([[int(bit) for bit in one] for one in shown], bool)
    told, packed = examples(Clean()), np.packbits(each[np.arange(COUNT) % len(each)], axis=1)
    return rows(folder, Examples(told.ids, told.images, operator={"mask": packed}), {}, ARRIVED)


def test_pixels_that_arrived_in_no_row_or_with_no_other_are_refused_by_name(tmp_path):
    never = came(tmp_path / "never", "1111111111111110", "1111111111101110")
    with pytest.raises(ValueError, match=r"no row shows 1 of the 16 pixels, at \(3, 3\): "):
        course(asked(), [never], torch.device("cpu"))
    halves = came(tmp_path / "halves", "1111111100000000", "0000000011111111")
    with pytest.raises(ValueError, match=r"such as \(0, 0\) and \(2, 0\); .* add rows that show both"):
        course(asked(), [halves], torch.device("cpu"))
    course(asked(apart=True), [halves], torch.device("cpu"))


def test_what_harmed_the_rows_otherwise_is_not_taken_for_masks(tmp_path):
    x0 = torch.randn(24, *SHAPE, generator=Key(0).torch())
    blurred = seen(tmp_path / "blurred", Through(GaussianBlur(SHAPE, 1.0)), x0)
    with pytest.raises(ValueError, match="went through Through, which is no mask: take the recipe em"):
        course(asked(noise=None), [blurred], torch.device("cpu"))
    plain = seen(tmp_path / "plain", Clean(), x0)
    with pytest.raises(ValueError, match="nothing is hidden: take the recipe ambient"):
        course(asked(noise=None), [plain], torch.device("cpu"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Digits of which boxes are hidden, each mask beside its picture."""
    made = tmp_path_factory.mktemp("masked")
    for raw in Digits().read(Piece(start=600, stop=800)):
        shown = np.ones((8, 8), bool)
        top, left = Key(0).fold(raw.id).numpy().integers(0, 6, 2)
        shown[top : top + 3, left : left + 3] = False
        Image.fromarray(np.asarray(raw.image)).save(made / f"{raw.id}.png")
        Image.fromarray(np.where(shown, 255, 0).astype(np.uint8)).save(made / f"{raw.id}.mask.png")
    return made


@pytest.mark.parametrize("more", [{"noise": 0.0}, {"noise": 0.0, "clean": 30}])
def test_a_toy_recipe_takes_images_that_arrived_masked(folder, tmp_path, monkeypatch, more):
    alone.installed(monkeypatch)
    how = {"samples": 20, "backbone": TOY, "clean_backbone": TOY, "fit": FIT, "clean_fit": FIT, "test": 40}
    made = alone.made(ambient_masks(measured=str(folder), **how, **more), Store(str(tmp_path / "store")))
    assert made["report"].json("metrics.json")["denoising_error/ambient"] > 0
    model = unpack(made["model"].read)
    assert bool(model.masks.all()) == ("clean" in more)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: ambient_masks(noise=0.1), "give it to the masks"),
        (lambda: ambient_masks(Images(), measured="x"), "--noise 0 where they are not"),
        (lambda: ambient_masks(measured="digits", noise=0.0, ceiling=True), "nobody knows them otherwise"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(build, says):
    with pytest.raises(ValueError, match=says):
        build()
