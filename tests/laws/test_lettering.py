"""Letters hide what they touch and a margin around, lie where their row says, and need no font to be read back."""

from __future__ import annotations

import re
import string

import numpy as np
import pytest
import torch
from PIL import ImageFont

from pipeline.keys import Key
from pipeline.physics import lettering
from pipeline.physics.corruption import corrupt
from pipeline.physics.lettering import Lettering, fitting, made_up, written

SHAPE = (3, 40, 60)


def names(n: int) -> list[str]:
    return [f"img-{i}" for i in range(n)]


def drawn(c: Lettering, n: int, shape=SHAPE, level: float = 0.25):
    """Grey images of that level, what a viewer sees of them, y and their rows."""
    x0 = torch.full((n, *shape), level)
    y, rows = corrupt(c, x0, names(n), seed=0)
    return x0, c.over(x0, rows), y, rows


def texts(rows) -> list[str]:
    return [bytes(codes).rstrip(b"\0").decode() for codes in rows["text"]]


def test_what_is_hidden_is_what_the_letters_touch_and_the_margin_around():
    x0, v, y, rows = drawn(Lettering(dilation=0), 20)
    touched = v != x0
    assert (y == 0).equal(touched)
    assert touched.flatten(1).any(1).all()
    wider, rows2 = corrupt(Lettering(dilation=2), x0, names(20), seed=0)
    assert (rows["text"] == rows2["text"]).all()
    assert (wider == 0).equal(torch.nn.functional.max_pool2d(touched.float(), 5, stride=1, padding=2) > 0)


def test_the_letters_are_white_with_a_black_outline_and_a_takes_them_to_y():
    c = Lettering(0.3)
    x0, v, y, rows = drawn(c, 10)
    assert (v.amax((1, 2, 3)) > 0.99).all()
    assert (v.amin((1, 2, 3)) < -0.99).all()
    assert c.at(rows, SHAPE)(v).equal(y)
    assert v[y != 0].equal(x0[y != 0])
    clip = x0[:, :, None].expand(10, 3, 2, 40, 60)
    assert c.over(clip, rows)[:, :, 1].equal(v)


def test_a_row_says_which_letters_are_drawn_and_where():
    c = Lettering(narrow=0.5, wide=0.5, lift=0.5, dilation=0)
    x0, v, _, rows = drawn(c, 40)
    for image, grey, text, place in zip(v, x0, texts(rows), rows["place"]):
        cover, _ = written(text, place, (40, 60))
        assert (image != grey)[0].equal(cover[0] > 0)
        down, across = cover[0].nonzero().T
        assert abs(int(across.min() + across.max()) - 59) <= 3, "centred"
        assert across.max() - across.min() + 1 <= 31, "half of the width"
        assert down.min() >= place[0] - 1
        assert down.max() >= 18, "at most half of the height above the edge"
    assert len(set(texts(rows))) > 35
    assert len(set(rows["place"][:, 0].tolist())) > 10
    assert set(rows["place"][:, 2].tolist()) == {lettering.SMALLEST}


def test_the_size_is_a_share_of_the_height_and_no_lift_is_the_edge():
    c = Lettering(0.25, lift=0.0, dilation=0)
    _, _, y, rows = drawn(c, 12, (1, 80, 90))
    assert (rows["place"][:, 2] == 20).all()
    lowest = (y == 0)[:, 0].any(-1).double().cumsum(-1).argmax(-1)
    assert (lowest >= 77).all()
    for text, place in zip(texts(rows), rows["place"]):
        assert written(text, place, (80, 90))[0].sum() == written(text, place, (99, 90))[0].sum(), "cut off"


def test_longer_shares_hold_more_letters_and_one_always_stays():
    few, many = (np.mean([len(t) for t in texts(drawn(Lettering(narrow=w, wide=w), 30)[3])]) for w in (0.3, 0.9))
    assert many > 2 * few
    assert all(len(t) == 1 for t in texts(drawn(Lettering(narrow=0.0, wide=0.0), 5)[3]))


@pytest.mark.parametrize("size", [6, 12, 24, 48])
def test_the_outline_is_a_twelfth_of_the_size_wide(size):
    drawn, filled = written("Tl", np.array([20, 30, size]), (100, 160))
    edges = [[n for axis in (0, 1) for n in cover[0].nonzero()[:, axis].aminmax()] for cover in (drawn, filled)]
    for outer, inner in zip(*edges):
        assert abs(abs(int(inner - outer)) - max(size / 12, 1)) <= 1


def test_texts_are_words_with_a_capital():
    assert set(string.ascii_lowercase) <= set("".join(made_up(Key(i).numpy()) for i in range(20)))
    for i in range(50):
        text = made_up(Key(i).numpy())
        assert len(text) == lettering.LONGEST
        assert re.fullmatch(r"[A-Z][a-z]{1,7}( [a-z]{2,8})*( [a-z]{0,8})?", text), text


def test_a_text_is_cut_where_it_no_longer_fits():
    class Typewriter:
        def getbbox(self, text: str, anchor: str) -> tuple[float, float, float, float]:
            return (0, 0, 5.0 * len(text), 8)

    for width, expected in ((26, "Abc d"), (20, "Abc"), (15, "Abc"), (3, "A"), (-9, "A"), (900, "Abc def")):
        assert fitting("Abc def", Typewriter(), width) == expected  # type: ignore[arg-type]


def test_the_map_of_a_row_needs_no_font(monkeypatch):
    x0, _, y, rows = drawn(Lettering(), 3)
    monkeypatch.setattr(lettering, "_font", None)
    assert Lettering().at(rows, SHAPE)(x0).equal(y)


def test_under_another_font_what_a_viewer_sees_is_still_taken_to_y(monkeypatch):
    x0, v, y, rows = drawn(Lettering(0.2), 10)
    monkeypatch.setattr(lettering, "_font", ImageFont.load_default)
    monkeypatch.setattr(lettering, "_outline", lambda pixels: pixels)
    other = Lettering().over(x0, rows)
    assert not other.equal(v)
    assert Lettering().at(rows, SHAPE)(other).equal(y)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Lettering(0.0), "0 < size <= 1"),
        (lambda: Lettering(narrow=0.5, wide=0.4), "0 <= narrow <= wide <= 1"),
        (lambda: Lettering(lift=1.5), "0 <= lift <= 1"),
        (lambda: Lettering(dilation=-1), "dilation >= 0"),
        (lambda: Lettering(noise=-1.0), "Lettering.noise"),
        (lambda: Lettering().draw((8, 8), Key(0)), "shape (C, *, H, W)"),
        (lambda: Lettering().at({"mask": np.zeros((1, 7), np.uint8)}, (1, 8, 8)), "shape (B, 8)"),
        (lambda: Lettering().over(torch.zeros(2, *SHAPE), drawn(Lettering(), 1)[3]), "got 1 rows and 2 images"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(make, words):
    with pytest.raises(ValueError, match=re.escape(words)) as refusal:
        make()
    assert str(refusal.value).endswith(".")
