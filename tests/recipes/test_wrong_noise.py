"""A σ that cannot be right is said with both numbers before anything is trained, and in every report."""

from __future__ import annotations

import alone
import numpy as np
import pytest
from PIL import Image

from pipeline import graph
from pipeline.backbones import mlp
from pipeline.data.digits import Digits
from pipeline.data.source import Piece
from pipeline.keys import Key
from pipeline.store import Store
from stages.images import Images
from stages.noisy import Harm
from stages.recipes.ambient import ambient
from stages.recipes.compare import Method, compare
from stages.recipes.gsure import gsure
from stages.recipes.omni import omni
from stages.recipes.online import online
from stages.recipes.sfbd import sfbd
from stages.rounds import Rounds
from stages.running import listener
from stages.train import Fit, Trains

TRUE, SAID = 0.5, 0.2
TOY = mlp.Config(width=32, blocks=1)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory) -> str:
    """Digits with noise of σ = 0.5, as 8-bit pictures have it."""
    folder = tmp_path_factory.mktemp("noisy")
    for raw in Digits().read(Piece(start=600, stop=900)):
        z = Key(0).fold(raw.id).numpy().standard_normal((8, 8))
        y = np.asarray(raw.image) + 127.5 * TRUE * z
        Image.fromarray(np.clip(np.rint(y), 0, 255).astype(np.uint8)).save(folder / f"{raw.id}.png")
    return str(folder)


def recipes(noisy: str) -> dict[str, graph.Step]:
    harm, images = Harm(clean=30, noise=SAID, noisy=noisy, count=200, test=40), Images()
    every = ",".join(method.value for method in Method if method is not Method.ALL)
    return {
        "sfbd": sfbd(images, harm, Rounds(most=1)),
        "online": online(images, harm),
        "ambient": ambient(images, harm),
        "compare": compare(images, harm, every, seeds=1),
    }


class Heard:
    """What a person is told."""

    def __init__(self):
        self.said: list[str] = []

    def event(self, event) -> None:
        pass

    def warn(self, step, text: str) -> None:
        self.said.append(text)


def test_both_numbers_are_said_once_the_census_is_made(noisy, tmp_path, monkeypatch):
    alone.installed(monkeypatch)
    store, heard = Store(str(tmp_path / "store")), Heard()
    for name, target in recipes(noisy).items():
        (census,) = (node for node in graph.walk(target) if node.label == "census")
        alone.made(census, store)
        heard.said.clear()
        listener(store, name, heard)(graph.Event(census, "done"))  # pyright: ignore[reportArgumentType]
        (text,) = (text for text in heard.said if "declared" in text)
        assert text.startswith(f"noisy is declared to have noise of σ = {SAID}, and 0."), text
        found = [float(word) for word in text.split(", and ")[1].split(" is found")[0].split(" to ")]
        assert SAID * 1.25 < found[0] <= found[-1] < 1.1 * TRUE, "cut off at black and white it is less"


@pytest.mark.parametrize("recipe", ["sfbd", "online", "ambient", "compare", "omni", "gsure"])
def test_nothing_is_trained_before_the_census(noisy, recipe):
    target = {**recipes(noisy), "omni": omni(damaged=noisy), "gsure": gsure()}[recipe]
    trained = [node for node in graph.walk(target) if isinstance(node.stage, Trains)]
    assert trained
    for node in trained:
        assert any(before.label == "census" for before in graph.walk(node)), node.label


def test_the_report_of_a_comparison_says_so_too(noisy, tmp_path, monkeypatch):
    alone.installed(monkeypatch)
    harm = Harm(clean=30, noise=SAID, noisy=noisy, count=200, test=40)
    how = {"seeds": 1, "samples": 20, "backbone": TOY, "clean_backbone": TOY, "fit": Fit(images=640)}
    made = alone.made(compare(Images(), harm, "clean_only,omni", **how), Store(str(tmp_path / "store")))
    page = made["report"].read("report.html").decode()
    assert page.count(f"noisy is declared to have noise of σ = {SAID}, and 0.") == 2, "first, and with what was found"
