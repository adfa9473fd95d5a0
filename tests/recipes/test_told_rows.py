"""Rows that were each seen through their own mask or window: what they become, and what learns from them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.backbones import mlp
from pipeline.data.manifest import Manifest, name
from pipeline.data.records import Examples
from pipeline.data.shards import write_shard
from pipeline.data.sources import source_of
from pipeline.diffusion.combine import Mode
from pipeline.diffusion.compose import Base
from pipeline.diffusion.telling import Masks
from pipeline.graph import step
from pipeline.keys import Key
from pipeline.learning.loop import Every
from pipeline.learning.optim import AdamW
from pipeline.learning.weights import unpack
from pipeline.physics.corruption import corrupt
from pipeline.physics.lettering import Lettering
from pipeline.physics.masks import PixelMask
from pipeline.physics.watermark import Watermark
from pipeline.physics.windows import DroppedFrames, RandomCrop, ShortClip
from pipeline.place import Place
from pipeline.store import Store
from stages.compose import Combine, Seen
from stages.corrupt import Corrupt
from stages.ingest import Ingest
from stages.probe import probe
from stages.told import coded, moments
from stages.train import Fit, save
from stages.views import Named, parts

SHAPE, CLIP = (1, 8, 8), (1, 8, 4, 4)
LOGO = Watermark(alpha=((0.3, 0.8, 0.5, 0.95),), colour=(((1.0, -1.0, 0.5, 0.0),),), top=1, left=2, dilation=1)


@pytest.mark.parametrize(
    ("corruption", "shape"),
    [
        (PixelMask(0.5), (3, 6, 6)),
        (PixelMask(0.5, per_channel=True), (3, 6, 6)),
        (DroppedFrames(3), CLIP),
        (Lettering(), (1, 32, 32)),
        (LOGO, SHAPE),
        (RandomCrop(5, 3), SHAPE),
        (ShortClip(3), CLIP),
    ],
)
def test_rows_become_what_is_seen_of_the_images_and_nothing_else(corruption, shape):
    """A watermark below 0.9 is taken off; what is hidden is 0; means and spreads are those of the seen entries."""
    x0 = torch.from_numpy(Key(0).fold("x0").numpy().uniform(-1, 1, (40, *shape))).float() + 0.3
    ids = [str(i) for i in range(40)]
    y, operator = corrupt(corruption, x0, ids, 0)
    rows, how = Examples.from_x(ids, y, operator=operator), Named("v", corruption).telling(shape)
    u, code = coded(rows, corruption, how)
    expected = torch.stack([how.cut(x, code[i : i + 1])[0] for i, x in enumerate(x0)])
    torch.testing.assert_close(u, expected, rtol=0, atol=5e-3)
    if isinstance(how, Masks):
        assert how.together is not getattr(corruption, "per_channel", False)
        code = code.expand_as(u)
        assert float(code.float().mean()) < 1
        assert (u[~code] == 0).all()
    centre, spread = moments(how, [u], [code])
    total, number = how.added(u, code)
    torch.testing.assert_close(centre[number > 0], (total / number)[number > 0])
    assert spread == pytest.approx(3**-0.5, rel=0.15)


def kept(place: Place, rows: Examples) -> SimpleNamespace:
    """What an artifact of rows is to whoever reads it."""
    with place.writing(name(0)) as file:
        write_shard(file, rows)
    Manifest.of((len(rows),), rows.shape, "uint8" if rows.images.dtype == np.uint8 else "float16").write(place)
    return SimpleNamespace(place=place, file=place.open, address=place.url)


@pytest.mark.parametrize(("corruption", "whole"), [(PixelMask(0.5), 0.25), (RandomCrop(5, 5), 0.0)], ids=str)
def test_a_told_network_learns_from_rows_and_is_combined_at_all_its_views(tmp_path, corruption, whole):
    """Without a cluster: rows, a short training, one set of weights in the base."""
    x0 = torch.randn(64, 1, 1, 1, generator=Key(0).torch()).clamp(-1, 1) * 0.5 + torch.zeros(64, *SHAPE)
    ids = [f"i{k}" for k in range(64)]
    y, operator = corrupt(corruption, x0, ids, 0)
    rows = kept(Place(str(tmp_path / "rows")), Examples.from_x(ids, y, operator=operator))
    clean = kept(Place(str(tmp_path / "clean")), Examples.from_x(ids, x0, uint8=True))
    full, fit = step(Ingest(source_of("digits"), SHAPE)), Fit(images=1024, batch=32, optim=AdamW(lr=3e-3, warmup=64))
    view = Named("v", corruption, whole=whole)
    found = parts(view, full, full, SHAPE, mlp.Config(width=32, blocks=1), fit, 0)
    stage = found[0].stage
    sets = iter([rows, clean])
    losses: list[float] = []
    course = stage.make(lambda _: next(sets))(torch.device("cpu"))
    course.run([Every(32, lambda state, means: losses.append(float(means["loss"])))])
    assert np.mean(losses[-4:]) < 0.9 * np.mean(losses[:4])
    files = save(course.state)
    model = unpack(files.__getitem__)
    combine = Combine(tuple(Seen(part.map, step(part.stage)) for part in found), full, mode=Mode.LS)
    base = Base.Config(SHAPE, combine.parts([model.config] * len(found)), mode=Mode.LS).build().eval()
    base.take([model] * len(found))
    assert all(torch.equal(base.models[0].told.state_dict()[key], value) for key, value in model.state_dict().items())
    assert all(other.told is None for other in base.models[1:])
    x = base(torch.randn(4, *SHAPE, generator=Key(1).torch()), torch.ones(4))
    assert x.shape == (4, *SHAPE)
    assert x.isfinite().all()


@pytest.mark.parametrize("corruption", [PixelMask(0.5), RandomCrop(5, 5), LOGO], ids=["masks", "windows", "watermark"])
def test_a_training_of_told_rows_can_be_estimated_before_there_are_any(tmp_path, corruption):
    full, view = step(Ingest(source_of("digits"), SHAPE)), Named("v", corruption)
    rows = step(Corrupt(full, corruption=corruption))
    fit = Fit(images=512, batch=16)
    (part, *_) = parts(view, rows, full, SHAPE, mlp.Config(width=8, blocks=1), fit, 0)
    found = probe(step(part.stage), part.stage, Store(str(tmp_path)), 4)
    assert len(found.seconds) == 3
    assert found.images == 512
