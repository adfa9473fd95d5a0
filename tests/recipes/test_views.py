"""What a recipe makes of views: at which operators they are asked, what is refused, and what rows become."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import config
from pipeline.backbones import unet
from pipeline.data.sources import source_of
from pipeline.diffusion.combine import Mode, Normal, resolve
from pipeline.diffusion.levels import LogNormal, Stratified, Tabulated
from pipeline.diffusion.sample import Heun
from pipeline.diffusion.telling import Windows
from pipeline.engine.pictures import GROUND, grid
from pipeline.graph import step, walk
from pipeline.metrics.features import Pixels
from pipeline.physics.blur import GaussianBlur
from pipeline.physics.boxes import FixedBox, KeepPatch, Subtitle
from pipeline.physics.corruption import Noisy, Through
from pipeline.physics.linear import Identity
from pipeline.physics.masks import BoxMask, LineMask, PixelMask
from pipeline.physics.mixture import Mixture
from pipeline.physics.views import Crop, Frames, Pool
from pipeline.physics.visible import Visible
from pipeline.physics.watermark import Watermark
from pipeline.physics.windows import RandomCrop, ShortClip
from stages import compare
from stages.compare import seen_by
from stages.compose import Seen
from stages.corrupt import Corrupt
from stages.ingest import Ingest
from stages.recipes.partial_views import partial_views
from stages.told import TrainTold
from stages.train import Fit
from stages.views import Named, default_views, parts, require_levels

SHAPE, CLIP = (1, 8, 8), (1, 8, 4, 4)
MORE = Mixture(((0.5, RandomCrop(4, 4)), (0.5, Through(Pool(SHAPE, 2)))))
LOGO = Watermark(alpha=((0.3, 0.8, 0.5, 0.95),), colour=(((1.0, -1.0, 0.5, 0.0),),), top=1, left=2, dilation=1)


def sees(maps) -> torch.Tensor:
    """How many of the maps show each entry."""
    ones = torch.ones(1, *maps[0].in_shape)
    return sum(A.adjoint(A(ones)) for A in maps)[0]


@pytest.mark.parametrize(
    ("view", "shape"),
    [
        (RandomCrop(5, 5), SHAPE),
        (RandomCrop(3, 8), SHAPE),
        (RandomCrop(1, 2), SHAPE),
        (ShortClip(3), CLIP),
        (RandomCrop(8, 2), SHAPE),
        (RandomCrop(3, 2), CLIP),
    ],
)
def test_windows_are_asked_at_places_that_cover_the_image_and_overlap_as_none_is_chosen(view, shape):
    maps = Named("v", view).asked(shape, 0)
    assert (sees(maps) >= 1).all()
    assert len(set(maps)) == len(maps)
    how = Windows(shape, tuple(maps[0].out_shape[1:]))
    starts = torch.cat([how.code(A) for A in maps])
    for axis, (n, side) in enumerate(zip(shape[1:], how.sides)):
        steps = starts[:, axis].unique().diff()
        assert (steps <= max(1, 0.75 * side)).all(), f"{n}: neighbours do not share a quarter"


def test_a_clip_that_always_starts_at_one_frame_is_asked_there_alone():
    (A,) = Named("v", ShortClip(3, start=2)).asked(CLIP, 0)
    assert Frames(CLIP, (2, 3, 4)) == A


def test_masks_are_asked_at_masks_that_were_drawn_or_whole_where_whole_images_taught_that():
    maps = Named("v", PixelMask(0.5)).asked(SHAPE, 7)
    assert maps == tuple(Visible(SHAPE, PixelMask(0.5), 7, k) for k in range(4))
    assert resolve(Mode.AUTO, maps) is Mode.LS
    assert Named("v", PixelMask(0.5), whole=0.1).asked(SHAPE, 0) == (Identity(SHAPE),)
    assert len(Named("v", FixedBox(1, 1, 3, 3)).asked(SHAPE, 0)) == 1, "one hole is one view"
    (seen,) = Named("v", LOGO).asked(SHAPE, 0)
    assert int(sees([seen]).sum()) == 64 - 9, "what is opaque is hidden, and a pixel around it"


@pytest.mark.parametrize(
    ("corruption", "at"),
    [
        (BoxMask(0.2, 0.4), Identity(SHAPE)),
        (PixelMask(0.5), Identity(SHAPE)),
        (PixelMask(0.3), Crop(SHAPE, 0, 0, 1, 1)),
        (LineMask(0.5), Crop(SHAPE, 0, 0, 8, 4)),
        (Subtitle(0.2, 0.4), Crop(SHAPE, 3, 0, 5, 8)),
        (FixedBox(1, 1, 3, 3), Identity(SHAPE)),
    ],
)
def test_a_network_is_not_asked_at_masks_that_no_row_had(corruption, at):
    with pytest.raises(ValueError, match="network only guesses"):
        Named("v", corruption, at=(at,)).asked(SHAPE, 0)


@pytest.mark.parametrize(
    ("corruption", "at"),
    [
        (KeepPatch(0.4, 0.8), (Crop(SHAPE, 0, 0, 5, 5), Crop(SHAPE, 0, 3, 5, 5), Crop(SHAPE, 0, 3, 5, 4))),
        (Subtitle(0.2, 0.4), (Visible(SHAPE, Subtitle(0.2, 0.4), 99, 3),)),
        (LineMask(0.5), (Visible(SHAPE, LineMask(0.5), 99, 3),)),
        (RandomCrop(5, 5), (Crop(SHAPE, 3, 1, 5, 5),)),
    ],
)
def test_it_is_asked_at_masks_and_places_like_those_that_rows_had(corruption, at):
    assert Named("v", corruption, at=at).asked(SHAPE, 0) == at


def test_a_place_that_is_never_drawn_is_refused():
    with pytest.raises(ValueError, match="network only guesses"):
        Named("v", ShortClip(3, start=2), at=(Frames(CLIP, (0, 1, 2)),)).asked(CLIP, 0)


@pytest.mark.parametrize(
    ("corruption", "says"),
    [
        (PixelMask(0.5, noise=0.1), "and noise"),
        (MORE, "no window"),
        (Mixture(((0.5, PixelMask(0.5)), (0.5, Through(GaussianBlur(SHAPE, 1.0))))), "does more than to hide|neither"),
        (PixelMask(0.0), "hides nothing"),
        (ShortClip(8), "hides nothing"),
    ],
)
def test_what_a_network_cannot_be_told_is_refused(corruption, says):
    with pytest.raises(ValueError, match=says):
        Named("v", corruption).telling(CLIP if isinstance(corruption, ShortClip) else SHAPE)


def test_levels_that_leave_out_some_of_the_schedule_are_refused():
    for levels in (Stratified(), LogNormal(), Tabulated(0.002, 80.0, (1.0, 1.0))):
        require_levels("view_fit", levels, Heun())
    narrow = (Tabulated(0.01, 90.0, (1.0, 1.0)), Tabulated(0.001, 20.0, (1.0, 1.0)), LogNormal(std=0.3))
    for levels in narrow:
        with pytest.raises(ValueError, match="draw levels that cover"):
            require_levels("view_fit", levels, Heun())
    with pytest.raises(ValueError, match=r"view_fit\.levels are from 0\.01"):
        partial_views(view_fit=Fit(levels=narrow[0]))


def noisy_parts(noise):
    full = step(Ingest(source_of("digits"), SHAPE))
    view = Named("v", Through(Pool(SHAPE, 2), noise=noise))
    return parts(view, step(Corrupt(full, corruption=view.corruption)), full, SHAPE, unet.Config(), Fit(), 0)


def test_a_noisy_view_is_heard_from_where_its_model_was_trained():
    (part,) = noisy_parts(0.3)
    assert part.least == part.stage.objective.least(0.3) > 0.3
    (part,) = noisy_parts(0.0)
    assert part.least == 0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"views": (Named("v", PixelMask(0.5)),)}, "add --no-joint"),
        ({"views": (Named("v", Noisy(noise=0.2)),)}, "add --no-joint"),
        ({"views": (Named("v", PixelMask(0.5)),), "rounds": 1, "joint": False}, "leave rounds 0"),
        ({"views": (Named("v", GaussianBlur(SHAPE, 1.0)),)}, "view v is none: .* A Aᵀ must be I"),
        ({"views": (Named("v", Pool((1, 6, 6), 2)),)}, "is of images"),
        ({"views": (Named("v", Noisy(noise=70.0)),), "joint": False}, "view v have noise of 70 .* no say"),
        (
            {"views": (Named("v", Through(0.5 * Pool(SHAPE, 2), noise=35.0)), Named("w", Pool(SHAPE, 2)))},
            "noise of 70 where",
        ),
    ],
)
def test_what_masks_and_noise_do_not_go_with_is_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        partial_views(**wrong)


@pytest.mark.parametrize("wrong", [{"whole": 1.0}, {"whole": 0.5}, {"at": (Identity(SHAPE),)}])
def test_options_of_masks_are_refused_of_views_that_are_the_same_for_all_rows(wrong):
    with pytest.raises(ValueError, match="whole"):
        Named("v", Pool(SHAPE, 2), **wrong)


def test_one_network_of_a_view_is_trained_once_however_often_it_is_asked():
    target = partial_views(views=(Named("holes", PixelMask(0.5)), Named("pooled", Pool(SHAPE, 2))))
    (base,) = [node.stage for node in walk(target) if node.label == "base"]
    models = [seen.model for seen in base.views]
    assert [isinstance(model.stage, TrainTold) for model in models] == [False, True, True, True, True, False]
    assert len(set(models)) == 3
    networks = base.untrained.views
    assert [view.model.told is not None for view in networks[1:5]] == [True, False, False, False]
    assert config.from_json(type(base.untrained), config.to_json(base.untrained)) == base.untrained


def test_default_views_of_clips_overlap_in_time_and_see_everything():
    maps = [view.map for view in default_views(CLIP)]
    assert (sees(maps[:2]) >= 1).all()
    assert float(sees(maps[:2]).max()) == 2
    assert np.prod(Normal(maps).project(torch.ones(1, *CLIP)).shape) == 128
    with pytest.raises(ValueError, match="single frame"):
        default_views((1, 1, 4, 4))


def test_films_are_learned_from_as_clips_and_shown_frame_by_frame(tmp_path):
    frames = [Image.fromarray(np.full((4, 4), 12 * k, np.uint8)) for k in range(20)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    views = (Named("short", ShortClip(3)), Named("early", Frames((1, 4, 4, 4), (0, 1))))
    film = str(tmp_path / "film.gif")
    found = {node.label: node.stage for node in walk(partial_views(data=film, frames=4, colour=False, views=views))}
    assert found["data/short"].shape == (1, 3, 4, 4)
    assert found["view/short"].network.shape == (1, 3, 4, 4)
    assert found["base"].untrained.shape == found["joint"].network.shape == (1, 4, 4, 4)
    assert [view.map.frames for view in found["base"].views[1:3]] == [(0, 1, 2), (1, 2, 3)]
    clips = np.random.default_rng(0).integers(0, 256, (12, 1, 4, 5, 6), np.uint8)
    assert grid(clips) == grid(clips[:8].swapaxes(1, 2).reshape(32, 1, 5, 6), columns=4)
    x = torch.from_numpy(clips).float() / 127.5 - 1
    each = torch.stack([Pixels(3)(x[:, :, t]) for t in range(4)], 1)
    torch.testing.assert_close(Pixels(3)(x), each.flatten(1))


def test_a_report_shows_what_each_part_of_a_combination_sees():
    model = step(Ingest(source_of("digits"), SHAPE))
    maps = (Visible(SHAPE, PixelMask(0.5), 3, 0), Crop(SHAPE, 0, 0, 4, 8), Pool(SHAPE, 2))
    drawn = np.asarray(Image.open(io.BytesIO(seen_by([Seen(A, model) for A in maps], ["a", "b", "c"]))))
    picture = drawn[3:51, :, 0]
    shown = [picture[:, k * 64 + 8 : k * 64 + 56].reshape(8, 6, 8, 6)[:, 2, :, 2] for k in range(3)]
    assert np.array_equal(shown[0] == 255, maps[0].mask[0].numpy())
    assert np.array_equal(shown[1], np.repeat([255, 0], 4)[:, None].repeat(8, 1))
    assert (shown[2] == 64).all()
    assert tuple(drawn[1, 6]) == GROUND, "a frame, so that white is told from the page"
    assert all((drawn[56:, k * 64 : k * 64 + 64] < 128).any() for k in range(3)), "each with its name below"


@pytest.mark.parametrize(("worst", "logarithmic"), [(2.0, False), (30.0, True), (0.05, True)])
def test_errors_that_are_ten_times_apart_are_drawn_on_a_logarithmic_axis(monkeypatch, worst, logarithmic):
    asked = []
    monkeypatch.setattr(compare, "curves", lambda *given, log_y=False: asked.append(log_y) or b"")
    model = step(Ingest(source_of("digits"), SHAPE))
    names = ("ours", "clean_only")
    report = compare.Compare("x", tuple(compare.Contestant(n, model, model) for n in names), (), "clean_only")
    one = {"sigma": [0.1, 1.0], "denoising_error": 1.0, "ends": {"denoising_error": [0.9, 1.1]}}
    one |= {"cards": {"denoising_error": {}}}
    report._numbers({name: one | {"mse": [1.0, 1.0 if name == "clean_only" else worst]} for name in names})
    assert asked == [logarithmic]
