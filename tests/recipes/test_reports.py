"""What a report says of models without a baseline, of those that know nothing below a level, and of copies."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import graph
from pipeline.data.bands import Allowed
from pipeline.data.images import Resize
from pipeline.data.reader import InMemory
from pipeline.data.records import Examples
from pipeline.diffusion.sample import Heun
from pipeline.graph import Given
from pipeline.metrics.memorisation import Nearest
from pipeline.physics.masks import PixelMask
from stages import compare, judge
from stages.ambient import moments
from stages.compare import Compare, Contestant
from stages.images import Images
from stages.noisy import Harm
from stages.recipes.ambient import ambient
from stages.recipes.ambient_masks import ambient_masks
from stages.recipes.latent import latent
from stages.recipes.memorisation import memorisation


def given(name: str) -> Given:
    return Given(label=name, known=f"{name}/0")


def measured(error: float, least: float = 0.0) -> dict:
    card = {"least": least} if least else {}
    return {
        "denoising_error": error,
        "sigma": [0.1, 1.0],
        "mse": [error, error],
        "ends": {"denoising_error": [error, error]},
        "cards": {"denoising_error": card},
    }


def of(evaluations: dict[str, str], **more) -> Compare:
    each = (Contestant(name, given(found), given(f"samples {name}")) for name, found in evaluations.items())
    return Compare("T", tuple(each), (), None, **more)


@pytest.fixture
def plotted(monkeypatch):
    """The names in each picture."""
    names: list[list[str]] = []
    for what, at in (("bars", 0), ("curves", 1)):
        monkeypatch.setattr(compare, what, lambda *given, at=at, **_: names.append(list(given[at])) or b"")
    return names


@pytest.mark.parametrize(
    ("evaluations", "want"),
    [
        ({"mine": "e1", "all clean": "e2"}, ["mine", "all clean"]),
        ({"plain": "e1", "guided": "e1", "guided more": "e1"}, ["plain"]),
    ],
    ids=["two models", "one, sampled in three ways"],
)
def test_without_a_baseline_every_model_is_in_the_pictures_and_none_twice(plotted, evaluations, want):
    of(evaluations)._numbers({name: measured(1.0) for name in evaluations})
    assert plotted == [want, want]


def test_a_level_below_which_nothing_was_learned_is_said_of_the_model_that_it_holds_for():
    texts = of({"noisy": "e1", "clean": "e2"})._numbers({"noisy": measured(2.0, 0.577), "clean": measured(1.0)}).texts
    assert [text for text in texts if "learned nothing below σ = 0.577" in text] == [texts[-1]]
    assert texts[-1].startswith("noisy ")


def test_the_opening_sentence_has_the_ceiling_where_there_is_no_baseline():
    said = of({"mine": "e1", "all clean": "e2"}, ceiling="all clean").verdict(
        {"denoising_error/mine": 2.0, "denoising_error/all clean": 0.5}
    )
    assert said == "On held-out images the denoising error of mine is 2.0000, that of all clean 0.5000."


def test_who_is_asked_for_copies_is_told_of_copies_first():
    """The model of clean images would otherwise be judged against itself: "0.0% lower"."""
    report = memorisation(harm=Harm(clean=0, count=20)).stage
    assert isinstance(report, Compare)
    assert report.contestants[0].name != report.against
    assert report.copies
    near = {name: {"similar_0.90": {"value": share}} for name, share in {"noisy": 0.04, "clean": 0.5}.items()}
    said = compare.copies({"numbers": near, "held_out": {"similar_0.90": {"value": 0.3}}})
    assert said == "What has a similarity above .90 to a learned image: noisy: 4%; clean: 50%; held-out images: 30%."
    assert compare.copies({"numbers": {"noisy": {}}, "held_out": None}) == ""
    assert report.verdict({"ratio": 1.2}).endswith("of noisy is 20.0% higher than clean's.")


def test_what_nobody_learned_from_is_not_shown_as_if_they_had():
    nodes = {node.label: node for node in graph.walk(memorisation(harm=Harm(clean=0, count=20)))}
    report = nodes["report"].stage
    assert {shown.data.label for shown in report.data} == {"data/noisy", "data/unharmed"}
    assert {shown.data.label for shown in report.aside} == {"data/attacked", "rebuilt/clean", "rebuilt/noisy"}
    assert nodes["data/attacked"].stage.seed != nodes["data/noisy"].stage.seed, "or the noise would be the same"
    lowest = {name: nodes[f"rebuilt/{name}"].stage.sampler.sigma_min for name in ("clean", "noisy")}
    assert lowest == {"clean": Heun().sigma_min, "noisy": pytest.approx(0.2 * (4 / 3) ** 0.5)}
    assert "data/test" not in {shown.data.label for shown in latent(clean=3).stage.data}


def test_noise_at_which_no_sampling_begins_is_refused_in_these_words():
    for build in (lambda: latent(noise=100.0), lambda: ambient_masks(masks=PixelMask(0.2, noise=100.0))):
        with pytest.raises(ValueError, match=r"nothing is learned below σ = 115 and sampling begins at .* = 80"):
            build()


def test_rows_that_are_all_one_image_are_called_so():
    one = InMemory(Examples(("a",), np.zeros((1, 1, 2, 2), np.float16)))
    with pytest.raises(ValueError, match="the 1 rows to learn from are all alike"):
        moments([(one, 0.0, Allowed())])


def test_images_that_arrive_in_another_size_are_refused_before_any_work(tmp_path):
    """Or training broke off with a traceback of torch.stack, or restoring with pretraining behind it."""
    Image.new("L", (12, 12)).save(tmp_path / "a.png")
    for build in (
        lambda images: ambient(images, Harm(noisy=str(tmp_path), noise=0.2)),
        lambda images: ambient_masks(images, measured=str(tmp_path), noise=0.0),
    ):
        with pytest.raises(ValueError, match=r"images are \(1, 8, 8\) and \w+ ones \(1, 12, 12\)"):
            build(Images())
        build(Images(size=8, resize=Resize.CROP))
    of_sizes = [InMemory(Examples(("a",), np.zeros((1, 1, n, n), np.float16))) for n in (2, 3)]
    with pytest.raises(ValueError, match=r"have shapes \[\(1, 2, 2\), \(1, 3, 3\)\]"):
        moments([(rows, 0.0, Allowed()) for rows in of_sizes])


def test_one_sample_alone_is_shown_beside_what_it_is_nearest_to(monkeypatch):
    near = Nearest(torch.ones(1), torch.tensor([[0.5, 1.0]]), torch.tensor([7]))
    seen = []
    monkeypatch.setattr(judge.tasks, "each", lambda _, items, at: seen.extend(items) or [])
    at = SimpleNamespace(out=None)
    assert judge._pictures(None, [None], [np.array([4])], [near], [], at) == {}  # pyright: ignore[reportArgumentType]
    assert [rows.tolist() for rows in seen[0][1][1:]] == [[4], [7]]


def test_of_masked_rows_copies_are_looked_for_among_whole_ones_and_the_report_says_how_the_model_looks(tmp_path):
    for more, among, notes in (({}, "data/unharmed", 1), ({"clean": 20}, "data/unharmed", 0)):
        nodes = {node.label: node for node in graph.walk(ambient_masks(**more))}
        assert nodes["judge"].stage.learned.label == among
        assert len(nodes["report"].stage.notes) == notes
        assert "masked" in {shown.name for shown in nodes["report"].stage.data}
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    arrived = {node.label: node for node in graph.walk(ambient_masks(measured=str(tmp_path), noise=0.0))}
    assert arrived["judge"].stage.learned is None
