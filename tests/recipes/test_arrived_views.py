"""Views whose rows arrived: the same as rows cut here, refused where they cannot be, and looked through for leaks."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import alone
import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.backbones import mlp
from pipeline.data.digits import Digits
from pipeline.data.source import Piece
from pipeline.graph import walk
from pipeline.physics.corruption import Noisy, Through
from pipeline.physics.linear import Identity, LinearMap, unit
from pipeline.physics.luminance import Luminance
from pipeline.physics.masks import PixelMask
from pipeline.physics.views import Crop, Frames, Pool
from pipeline.physics.windows import RandomCrop
from pipeline.store import Store
from stages.corrupt import Part, load
from stages.probe import probe
from stages.recipes.partial_views import partial_views
from stages.train import Fit
from stages.views import Named

SHAPE, COLOUR = (1, 8, 8), (3, 8, 8)
TOY = mlp.Config(width=16, blocks=1)
FIT = Fit(images=64, batch=16)
HALF, TOP = Pool(SHAPE, 2), Crop(SHAPE, 0, 0, 5, 8)
SMALL = {f"{who}_fit": FIT for who in ("view", "joint", "completed", "clean", "residual")} | {
    f"{who}_backbone": TOY for who in ("view", "joint", "completed", "clean", "residual")
}


def digits(first: int, count: int) -> dict[str, np.ndarray]:
    """Images (1, 8, 8) uint8."""
    return {raw.id: np.asarray(raw.image)[None] for raw in Digits().read(Piece(start=first, stop=first + count))}


def folder(place: Path, images: dict[str, np.ndarray], map: LinearMap | None = None) -> str:
    """PNGs of what a map shows of 8-bit images, white as white; numbered from 0, as in any other folder."""
    place.mkdir()
    for n, image in enumerate(images.values()):
        v = torch.from_numpy(image).float()[None] / 127.5 - 1
        seen = v if map is None else map(v) / float(map(torch.ones_like(v)).max())
        pixels = ((seen[0] + 1) * 127.5).round().numpy().astype(np.uint8)
        Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(place / f"{n:04d}.png")
    return str(place)


def run(tmp_path: Path, monkeypatch, views: tuple[Named, ...], **more: Any):
    alone.installed(monkeypatch)
    how: dict[str, Any] = {"samples": 8, "clean": 12} | SMALL | more
    return alone.made(partial_views(views=views, **how), Store(str(tmp_path / "store")))


def findings(census) -> list[str]:
    return json.loads(census.read("census.json"))["warnings"]


def test_low_resolution_images_and_crops_that_arrived_teach_as_those_cut_here(tmp_path, monkeypatch):
    """`--data` has full images alone, the rows are A x₀ to 8 bits, and what was planted among them is found."""
    full, low, top = digits(0, 60), digits(100, 40), digits(200, 40)
    leaked = dict(list(full.items())[:30])
    views = (
        Named("low", HALF, data=folder(tmp_path / "low", low | leaked, HALF), count=70),
        Named("top", TOP, data=folder(tmp_path / "top", top, TOP), count=40),
    )
    made = run(tmp_path, monkeypatch, views, data=folder(tmp_path / "full", full), rounds=1)
    x = torch.from_numpy(np.stack(list((low | leaked).values()))).float() / 127.5 - 1
    rows = load(made["data/low"])
    assert rows.x().max() > 1, "block sums over the size, not means"
    gap = torch.cdist(HALF(x).flatten(1), rows.x().flatten(1)).amin(1)
    assert float(gap.max()) < 4 * 2 / 255 + 0.01
    crops = load(made["data/top"])
    assert crops.images.dtype == np.uint8
    assert {image.tobytes() for image in crops.images} == {image[:, :5].tobytes() for image in top.values()}
    assert len(load(made["data/test"])) == 60 - 12
    assert made["report"].json("metrics.json")["denoising_error/composed"] > 0
    page = made["report"].read("report.html").decode()
    costs = page[page.index("Cost of each stage") :]
    trained = ("view/low", "view/top", "joint", "completed/0", "composed", "clean_only")
    assert all(
        f">{label}<" in costs for label in (*trained, "base", "judge", "samples/base", "evaluate/base", "census")
    )
    said = " ".join(findings(made["census"]))
    assert re.search(r"Leak: \d+ of 70 images of low show one of test", said)
    assert "ids are in both" not in said, "files of two folders may have one name"
    assert "top" not in said


def test_a_view_of_arrived_masks_and_one_of_noisy_images_stand_beside_one_cut_here(tmp_path, monkeypatch):
    few = digits(100, 30)
    holes, noisy = Path(folder(tmp_path / "holes", few)), tmp_path / "noisy"
    rng = np.random.default_rng(0)
    for file in sorted(holes.glob("*.png")):
        shown = np.where(rng.random((8, 8)) < 0.6, 255, 0).astype(np.uint8)
        Image.fromarray(shown).save(file.with_suffix(".mask.png"))
    harmed = {k: (v + rng.normal(0, 25, v.shape)).clip(0, 255).astype(np.uint8) for k, v in few.items()}
    views = (
        Named("holes", PixelMask(0.4), whole=0.25, data=str(holes)),
        Named("noisy", Noisy(noise=0.2), data=folder(noisy, harmed)),
        Named("cut", HALF),
    )
    made = run(tmp_path, monkeypatch, views, data=folder(tmp_path / "full", digits(0, 60)), per_view=20)
    assert len(load(made["data/holes"])) == 30
    assert "mask" in load(made["data/holes"]).operator
    assert len(load(made["data/cut"])) == 20
    assert len(load(made["data/test"])) == 60 - 12 - 20
    assert made["report"].json("metrics.json")["denoising_error/composed"] > 0


def test_brightness_is_a_view_of_colour_images_made_or_arrived(tmp_path, monkeypatch):
    """A Aᵀ = .447 I is divided by its root: white noise of σ stays of σ, and rows are larger by 1 / .668."""
    grey = digits(0, 90)
    full = {k: np.concatenate([v, v[:, ::-1], v[:, :, ::-1]]) for k, v in grey.items()}
    first, last = dict(list(full.items())[:60]), dict(list(full.items())[60:])
    A = Luminance(COLOUR)
    views = (Named("made", A), Named("came", A, data=folder(tmp_path / "came", last, A)))
    made = run(tmp_path, monkeypatch, views, data=folder(tmp_path / "full", first), per_view=20)
    assert A.isotropy == pytest.approx(0.447, abs=1e-3)
    x = torch.from_numpy(np.stack(list(last.values()))).float() / 127.5 - 1
    gap = torch.cdist(unit(A)(x).flatten(1), load(made["data/came"]).x().flatten(1)).amin(1)
    assert float(gap.max()) < 8 * 1.5 / 255 + 0.01
    assert made["report"].json("metrics.json")["denoising_error/composed"] > 0


def test_noise_of_a_view_is_divided_with_it():
    assert Named("v", Through(0.25 * HALF, noise=0.1)).corruption == Through(HALF, noise=0.4)
    assert Named("v", 0.5 * HALF).fixed(SHAPE) == HALF


def test_views_cut_here_share_the_full_images_whatever_others_bring(tmp_path):
    plain = {n.label: n.stage for n in walk(partial_views(views=(Named("a", HALF), Named("b", TOP)), per_view=20))}
    came = Named("came", HALF, data=folder(tmp_path / "low", digits(0, 9), HALF))
    mixed = partial_views(views=(Named("a", HALF), came, Named("b", TOP)), per_view=20)
    found = {node.label: node.stage for node in walk(mixed)}
    for label in ("data/a", "data/b", "data/test"):
        assert found[label].part == plain[label].part, label
    assert found["data/came"].part.count is None
    some = partial_views(views=(replace(came, count=4), Named("b", TOP)), per_view=20)
    assert next(node.stage for node in walk(some) if node.label == "data/came").part == Part(0, 4, 0)
    both = (replace(came, count=4), Named("b", TOP))
    completed = partial_views(views=both, per_view=20, rounds=1)
    (learned,) = (node.stage for node in walk(completed) if node.label == "completed/0")
    assert [share.weight for share in learned.also] == [4, 20], "each image counts alike"


@pytest.mark.parametrize(
    ("view", "more", "says"),
    [
        ({"map": RandomCrop(4, 4)}, {"joint": False}, "draws a RandomCrop .* only masks"),
        ({"map": PixelMask(0.5)}, {"joint": False}, "whole above 0"),
        ({"map": PixelMask(0.5), "whole": 0.1, "at": (Identity(SHAPE),)}, {"joint": False}, "without at"),
        ({"map": PixelMask(0.5, per_channel=True), "whole": 0.1}, {"joint": False}, "leave out per_channel"),
        ({"map": Crop(SHAPE, 0, 0, 5, 5)}, {}, r"are \(1, 4, 4\) and its map shows \(1, 5, 5\)"),
        ({"map": HALF}, {"rounds": 1}, "say how many view v has"),
        ({"map": HALF}, {"ceiling": True}, "--ceiling learns from unharmed"),
        ({"map": HALF, "count": 0}, {}, "count of view v is 0"),
    ],
)
def test_what_rows_that_arrived_do_not_go_with_is_refused_before_any_work(tmp_path, view, more, says):
    with pytest.raises(ValueError, match=says):
        partial_views(views=(Named("v", data=folder(tmp_path / "low", digits(0, 3), HALF), **view),), **more)


def test_a_view_in_colour_is_none_of_grey_images_and_a_grey_one_is_a_view_of_colour(tmp_path):
    """What is grey may be shown in colour; colour would have to be thrown away."""
    grey, full = digits(0, 20), {k: np.concatenate([v, v[:, ::-1], v[:, :, ::-1]]) for k, v in digits(20, 60).items()}
    colour = folder(tmp_path / "colour", full)
    with pytest.raises(ValueError, match=r"are \(3, 8, 8\) and its map shows \(1, 8, 8\)"):
        partial_views(
            data=folder(tmp_path / "grey", grey), per_view=5, views=(Named("v", Identity(SHAPE), data=colour),)
        )
    view = Named("v", Crop(COLOUR, 0, 0, 8, 8), data=folder(tmp_path / "dull", grey))
    (read,) = (n.stage for n in walk(partial_views(data=colour, clean=12, views=(view,))) if n.label == "ingest/v")
    assert read.shape == COLOUR
    assert not read.grey


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"held_out": 0.99, "clean": 8}, r"--held-out\) or more of them \(--clean"),
        ({"per_view": 0}, "--per-view"),
        ({"views": (), "joint": False}, "there are no views: give at least one"),
    ],
)
def test_numbers_that_leave_nothing_are_refused_by_their_options(wrong, says):
    with pytest.raises(ValueError, match=says):
        partial_views(**wrong)


def test_masks_that_are_to_arrive_can_be_estimated_before_and_are_missed_where_there_are_none(tmp_path, monkeypatch):
    bare = (Named("holes", PixelMask(0.4), whole=0.25, data=folder(tmp_path / "bare", digits(0, 30))),)
    how = {"views": bare, "joint": False, "data": folder(tmp_path / "full", digits(40, 40)), "clean": 12} | SMALL
    trained = next(node for node in walk(partial_views(**how)) if node.label == "view/holes")
    assert len(probe(trained, trained.stage, Store(str(tmp_path / "none")), 4).seconds) == 3
    with pytest.raises(ValueError, match=r"the rows have no mask: .* NAME\.mask\.png"):
        run(tmp_path, monkeypatch, **how)


def test_clips_that_arrived_are_a_view_of_longer_ones(tmp_path):
    frames = [Image.fromarray(np.full((4, 4, 3), (12 * k, 0, 99), np.uint8)) for k in range(20)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    view = Named("early", Frames((3, 4, 4, 4), (0, 1)), data=str(tmp_path / "film.gif"))
    target = partial_views(data=str(tmp_path / "film.gif"), frames=4, views=(view,))
    found = {node.label: node.stage for node in walk(target)}
    assert found["data/early"].shape == (3, 2, 4, 4)
    assert found["ingest/early"].source.frames == 2
