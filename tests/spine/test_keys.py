"""Randomness depends on (seed, path) alone, and on all of it."""

from __future__ import annotations

import math
import struct
from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.keys import Key

seeds = st.integers(-(2**63), 2**63 - 1)
names = st.text(max_size=4) | st.integers(-(2**70), 2**70)
paths = st.lists(names, max_size=4).map(tuple)

KNOWN = [  # integer(), then three draws of numpy() below 2**32
    (Key(0), 7725044834012618751, [481330444, 400482350, 1476344257]),
    (Key(0).fold("corrupt", "img-17"), 4750086498060224380, [3322805525, 1182336457, 7237164]),
    (Key(-1).fold("noise", 3), 7588884788763392532, [3371862412, 1176303845, 3604567151]),
    (Key(2**63 - 1).fold(""), 7122851305393847452, [1879268900, 4221102304, 474154937]),
]


@pytest.mark.parametrize(("key", "integer", "draws"), KNOWN)
def test_known_answers(key, integer, draws):
    assert key.integer() == integer
    assert key.numpy().integers(0, 2**32, 3).tolist() == draws


def test_the_bits_are_blake2b_of_the_tagged_path():
    text = struct.pack("<q", -5) + b"s" + struct.pack("<Q", 2) + "σ".encode() + b"i" + struct.pack("<Q", 3) + b"-12"
    assert Key(-5).fold("σ", -12).bits() == blake2b(text, digest_size=16, person=b"kintsugi.keys").digest()


def test_a_draw_is_the_same_alone_in_any_order_and_after_others():
    alone = {i: Key(3).fold("corrupt", f"img-{i}").numpy().random(5).tobytes() for i in range(7)}
    root = Key(3).fold("corrupt")
    backwards = {i: root.fold(f"img-{i}").numpy().random(5).tobytes() for i in reversed(range(7))}
    together = [root.fold(f"img-{i}").numpy() for i in range(7)]
    interleaved = np.stack([[g.random() for g in together] for _ in range(5)]).T
    assert alone == backwards == {i: interleaved[i].tobytes() for i in range(7)}


@given(seeds, paths, seeds, paths)
def test_another_seed_or_path_gives_other_bits(seed, path, other_seed, other_path):
    assert (Key(seed).fold(*path).bits() == Key(other_seed).fold(*other_path).bits()) == (
        (seed, path) == (other_seed, other_path)
    )


@pytest.mark.parametrize(
    ("a", "b"),
    [(("ab", "c"), ("a", "bc")), ((1,), ("1",)), ((), ("",)), (("a",), ("a", "")), ((1, 2), (12,)), ((-1,), (1,))],
)
def test_paths_that_concatenate_alike_are_apart(a, b):
    assert Key(0).fold(*a).bits() != Key(0).fold(*b).bits()


@given(seeds, paths)
def test_folding_is_associative_and_integers_are_non_negative_63_bit(seed, path):
    step = Key(seed)
    for name in path:
        step = step.fold(name)
    assert step == Key(seed).fold(*path)
    assert 0 <= step.integer() < 2**63


def test_numpy_integers_are_integers():
    assert Key(np.int64(4)).fold(np.int64(3), np.str_("a")).bits() == Key(4).fold(3, "a").bits()


@pytest.mark.parametrize("seed", [2**63, -(2**63) - 1])
def test_a_seed_outside_64_bits_is_refused(seed):
    with pytest.raises(ValueError, match="seed is"):
        Key(seed)


@pytest.mark.parametrize("bad", [0.5, None])
def test_what_is_no_name_is_refused(bad):
    with pytest.raises(TypeError):
        Key(bad)
    with pytest.raises(TypeError):
        Key(0).fold(bad).bits()


def test_first_draws_of_sibling_keys_are_uniform_and_uncorrelated():
    n, bins = 8192, 32
    u = np.array([Key(0).fold("noise", i).numpy().random() for i in range(n)])
    chi2 = ((np.histogram(u, bins, (0, 1))[0] - n / bins) ** 2).sum() / (n / bins)
    assert abs(chi2 - (bins - 1)) < 4 * math.sqrt(2 * (bins - 1))
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 4 / math.sqrt(n)
    bits = np.unpackbits(np.frombuffer(b"".join(Key(s).bits() for s in range(2048)), np.uint8)).reshape(2048, 128)
    assert np.abs(bits.mean(0) - 0.5).max() < 5 * 0.5 / math.sqrt(2048)


@pytest.mark.slow
def test_torch_draws_the_same_in_another_process(fresh):
    code = "import torch; from pipeline.keys import Key; "
    code += "print(torch.randn(4, generator=Key(-7).fold('z', 2).torch()).numpy().tobytes().hex())"
    other = fresh(code, PYTHONHASHSEED="99").strip()
    import torch

    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert torch.randn(4, generator=Key(-7).fold("z", 2).torch()).numpy().tobytes().hex() == other
    assert torch.equal(torch.get_rng_state(), before)  # the global generator is left alone
