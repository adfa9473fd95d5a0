"""Captions as numbers: cosines are those of counts, and the same words are the same numbers everywhere."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch

from pipeline.backbones.captions import Captions


def cosine(condition: Captions, one: str, other: str) -> float:
    a, b = condition.told(np.array([one, other], object))
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


@pytest.mark.parametrize(
    ("one", "other", "together", "wanted"),
    [
        ("red cat", "red dog", 1, 1 / 2),
        ("red cat", "red dog", 2, 1 / 3),  # red, cat, red cat against red, dog, red dog
        ("a b c d", "d c b a", 1, 1.0),
        ("a b c d", "d c b a", 2, 4 / 7),
        ("a a b", "a b b", 1, 4 / 5),  # (2, 1) and (1, 2)
        ("x", "y", 2, 0.0),
    ],
)
def test_the_cosine_of_two_captions_is_that_of_their_counts(one, other, together, wanted):
    size = 1 << 16
    assert cosine(Captions(size, together=together), one, other) == pytest.approx(wanted, abs=4 / math.sqrt(size))


def test_how_a_caption_is_written_makes_no_difference_and_no_word_is_none():
    condition = Captions(64)
    same = condition.told(np.array(["A red CAT, sleeping.", "a red cat sleeping", "a\tred\n\ncat — sleeping!"], object))
    assert torch.equal(same[0], same[1])
    assert torch.equal(same[0], same[2])
    none = condition.told(np.array(["", " ", "?!", "cat", "ネコ"], object))
    assert condition.untold(none).tolist() == [True, True, True, False, False]
    assert condition.told(np.array([], object)).shape == (0, 64)


def test_a_word_alone_is_the_bits_of_its_hash():
    """The numbers are a fixed function of the text, so that a model means the same on every machine."""
    bits = np.unpackbits(np.frombuffer(hashlib.shake_128(b"cat").digest(3), np.uint8), count=20)
    assert Captions(20).told(np.array(["Cat"], object))[0].tolist() == (2.0 * bits - 1).tolist()


def test_captions_have_unit_mean_square():
    told = Captions(100, together=3).told(np.array(["one", "one two", "one two three four five six"], object))
    torch.testing.assert_close(told.square().mean(1), torch.ones(3))


def test_what_is_no_size_is_refused():
    with pytest.raises(ValueError, match="together is 0"):
        Captions(together=0)
    with pytest.raises(ValueError, match="size is 0"):
        Captions(0)
