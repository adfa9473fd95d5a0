"""Duplicates: the quick search finds what comparing all pairs finds; copies are known whatever keeps them."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.data import similar
from pipeline.data.similar import Prints, cosines, id_hash, low, near, repeats

RNG = np.random.default_rng(0)


def smooth(n: int, size: int = 32, seed: int = 0) -> np.ndarray:
    """Images (n, 3, size, size) uint8 with a spectrum like that of photographs."""
    rng = np.random.default_rng(seed)
    k = np.arange(size)
    f = rng.standard_normal((n, 1, size, size)) + 0.3 * rng.standard_normal((n, 3, size, size))
    f[..., 0, 0] = 0
    x = cosines(size, size).T @ (f / (1 + np.hypot(k[:, None], k)) ** 1.5) @ cosines(size, size)
    return np.clip(127.5 + 55 * x / x.std((1, 2, 3), keepdims=True), 0, 255).astype(np.uint8)


def prints(images: np.ndarray) -> Prints:
    return Prints.of([str(i) for i in range(len(images))], images)


def recoded(image: np.ndarray, size: int | None = None, quality: int | None = None) -> np.ndarray:
    picture = Image.fromarray(image.transpose(1, 2, 0))
    picture = picture.resize((size, size), Image.Resampling.BICUBIC) if size else picture
    if quality:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        picture = Image.open(file)
    return np.asarray(picture).transpose(2, 0, 1)


@pytest.mark.slow
@given(st.integers(0, 10**6), st.integers(0, 7), st.sampled_from([3, 1 << 20]))
def test_the_search_finds_exactly_the_pairs_that_comparing_all_finds(seed, radius, chunk):
    rng = np.random.default_rng(seed)
    n = 60
    centres = rng.integers(0, 2**63, 6, dtype=np.uint64)
    flips = (rng.random((n, 64)) < rng.choice([0.02, 0.06, 0.1], (n, 1))).astype(np.uint8)
    signs = centres[rng.integers(0, 6, n)] ^ np.packbits(flips, axis=1).view("<u8")[:, 0]
    face = np.repeat(rng.integers(-99, 99, (3, 64)), n // 3, axis=0) + rng.integers(-9, 10, (n, 64)) * rng.random(
        (n, 1)
    )
    face = face.astype(np.int8)
    face[:2] = 0  # images without a shape are never alike
    made = Prints(rng.integers(0, 3, (n, 2)).astype(np.uint64), signs, face, np.arange(n, dtype=np.uint64))
    differ = np.bitwise_count(signs[:, None] ^ signs) <= radius
    unit = face / np.maximum(np.linalg.norm(face.astype(float), axis=1, keepdims=True), 1e-9)
    equal = (made.digest[:, None] == made.digest).all(2)
    brute = np.argwhere(np.triu(differ & (unit @ unit.T >= 0.995) & ~equal, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similar, "CHUNK", chunk)
        assert near(made, radius).tolist() == brute.tolist()


def test_seven_signs_may_differ_wherever_they_are():
    face = np.full((2, 64), 9, np.int8)
    digest, names = np.arange(4, dtype=np.uint64).reshape(2, 2), np.arange(2, dtype=np.uint64)
    for word, bit in itertools.product(range(4), range(16)):
        turned = sum((1 << bit if each == word else 3) << 16 * each for each in range(4))
        assert turned.bit_count() == 7
        for signs in ((0, turned), (2**64 - 1, 2**64 - 1 - turned)):
            assert near(Prints(digest, np.array(signs, np.uint64), face, names)).tolist() == [[0, 1]]


def test_a_radius_for_which_the_search_would_not_be_exact_is_refused():
    with pytest.raises(ValueError, match="0 to 7"):
        near(prints(smooth(2)), radius=8)


def test_equal_pixels_have_one_digest_in_8_bits_and_in_half_precision_and_others_have_another():
    u = RNG.integers(0, 256, (20, 1, 8, 8)).astype(np.uint8)
    v = u.copy()
    v[:, 0, 3, 3] ^= 1
    half = (u / 127.5 - 1).astype(np.float16)
    assert (prints(u).digest == prints(half).digest).all()
    assert (prints(u).digest != prints(v).digest).any(1).all()
    assert (prints(u).digest != prints(u.reshape(20, 1, 4, 16)).digest).any(1).all()
    between = (u / 127.5 - 1 + 0.4 / 127.5).astype(np.float16)  # no 8-bit values
    below = np.where(u == 254, -1 - 2 / 127.5, u / 127.5 - 1).astype(np.float16)  # -2 is not 254
    for other in (between, below):
        assert (prints(u).digest != prints(other).digest).any(1)[(u == 254).any((1, 2, 3))].all()


def test_an_id_has_64_bits_of_its_own():
    hashes = [id_hash(text) for text in ("", "a", "a\udc80", "\udc80a", *map(str, range(100)))]
    assert len(set(hashes)) == 104
    assert 2**62 < max(hashes) < 2**64


def test_groups_of_equal_values():
    rows, starts = repeats(np.array([5, 3, 5, 1, 3, 5, 9]))
    assert [part.tolist() for part in np.split(rows, starts[1:])] == [[0, 2, 5], [1, 4]]
    assert repeats(np.arange(4))[0].size == 0


def test_a_print_is_that_of_the_grey_image_and_the_negative_has_every_sign_turned():
    x = (smooth(20) / 127.5 - 1).astype(np.float16)
    grey = x.astype(np.float32).mean(1, keepdims=True)
    f = low(grey[:, 0])
    unit = f / np.linalg.norm(f, axis=1, keepdims=True)
    assert np.abs(prints(x).face - 127 * unit).max() <= 0.5 + 1e-3
    assert (prints(x).signs ^ prints(-x).signs == np.uint64(2**64 - 1)).all()


@pytest.mark.parametrize(("strength", "shaped"), [(0.5, False), (4.0, True)])
def test_images_with_hardly_any_shape_are_alike_to_none(strength, shaped):
    """One grey level in 8 bits is 1/127.5 in half precision; the bound is 1.3 of them."""
    x = smooth(1)[:, :1].astype(float)
    x = np.repeat((x - x.mean()) / x.std() * strength, 2, 0)
    x[1, 0, 0, 0] += 1
    for images in ((128 + x).round().astype(np.uint8), (x / 127.5).astype(np.float16)):
        assert prints(images).face.any(1).all() == shaped
        assert near(prints(images)).tolist() == ([[0, 1]] if shaped else [])


def test_the_64_lowest_frequencies_are_seen_and_neither_the_mean_nor_higher_ones():
    rows = cosines(16, 10)
    radius = {seen: [] for seen in (True, False)}
    for u in range(10):
        for v in range(10):
            found = np.abs(low((rows[u][:, None] * rows[v])[None])[0])
            assert sorted(found.round(3))[-2:] in ([0, 1], [0, 0])
            radius[bool(found.max() > 0.5)].append(u**2 + v**2)
    assert len(radius[True]) == 64
    assert radius[False].pop(0) == 0
    assert max(radius[True]) <= min(radius[False])


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", [{"quality": 75}, {"size": 16}, {"size": 48}, {"size": 64, "quality": 85}], ids=lambda c: str(c)
)
def test_copies_that_were_recoded_are_found_and_other_images_are_not(change):
    images = smooth(150)
    both = Prints.concat([prints(images), *(prints(recoded(image, **change)[None]) for image in images)])
    found = near(both)
    true = found[:, 1] - found[:, 0] == len(images)
    assert true.sum() >= 0.97 * len(images)
    assert (~true).sum() == 0


def test_low_frequencies_do_not_depend_on_the_size_and_small_images_lack_some():
    x = smooth(5, 64).mean(1)
    half = (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 2
    np.testing.assert_allclose(low(half), low(x), rtol=0.15, atol=30)
    tiny = low(x[:, :4, :4])
    assert (tiny != 0).sum(1).max() <= 15
    rows = cosines(7, 5)
    np.testing.assert_allclose(rows @ rows.T, np.eye(5), atol=1e-6)
