"""Similar: images that are there twice, exactly or re-encoded, found by prints of 112 bytes an image.

*Exact*: equal pixels in 8 bits, by a 128-bit BLAKE2b. *Near*: with the low frequencies f of the grey image's cosine
transform, the 64 lowest without the mean, the signs of f differ in at most `RADIUS` places and the cosine of the angle
between two f is at least `ALIKE`. The transform does not see the size, nor brightness and contrast, so that copies
which were re-encoded, resized or re-lit are found; shifted, cropped or mirrored ones are not. (Zauner, "Implementation
and benchmarking of perceptual image hash functions", 2010, chapter 3, with signs in place of a threshold.)

The search is exact: of 4 words of 16 signs, two prints that differ in at most 7 places differ in at most 1 place of
some word, so each word is looked up as it is and with each of its 16 bits turned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

RADIUS, ALIKE = 7, 0.995
SIGNS, WORDS = 64, 4
SIDE = 9  # of the square of frequencies that holds the 64 lowest
FACE = 127.0  # length of f as kept, in int8
CHUNK = 1 << 20  # pairs that are compared at once
MOST = 1 << 20  # pairs that are kept


@dataclass(frozen=True, eq=False)
class Prints:
    """Of N images: `digest` (N, 2) uint64, `signs` (N,) uint64, `face` (N, 64) int8, `id` (N,) uint64, a hash of it.

    `face` is 0 of images without any shape in their low frequencies.
    """

    digest: np.ndarray
    signs: np.ndarray
    face: np.ndarray
    id: np.ndarray

    def __len__(self) -> int:
        return len(self.signs)

    @classmethod
    def of(cls, ids: Sequence[str], images: np.ndarray) -> Self:
        """The prints of images (N, C, *, H, W), uint8 or float16 in units of [-1, 1]."""
        digest = np.frombuffer(b"".join(_digest(image) for image in images), "<u8").reshape(-1, 2)
        f = low(images.reshape(len(images), -1, *images.shape[-2:]).mean(1, dtype=np.float32))
        length = np.linalg.norm(f, axis=1, keepdims=True)
        scale = 127.5 if images.dtype == np.uint8 else 1.0
        shape = length > 0.01 * scale * np.sqrt(np.prod(images.shape[-2:]))
        face = np.where(shape, np.rint(FACE * f / np.maximum(length, 1e-9)), 0).astype(np.int8)
        signs = np.ascontiguousarray(np.packbits(f > 0, axis=1)).view("<u8")[:, 0]
        return cls(digest, signs, face, np.array([id_hash(text) for text in ids], np.uint64))

    @classmethod
    def concat(cls, parts: Sequence[Prints]) -> Self:
        """One after the other."""
        return cls(*(np.concatenate([getattr(p, n) for p in parts]) for n in ("digest", "signs", "face", "id")))

    def take(self, rows: np.ndarray) -> Prints:
        """Those at `rows`."""
        return Prints(self.digest[rows], self.signs[rows], self.face[rows], self.id[rows])


def low(grey: np.ndarray) -> np.ndarray:
    """The 64 lowest frequencies without the mean of images (N, H, W): (N, 64), 0 where images are too small for one."""
    h, w = (min(n, SIDE) for n in grey.shape[1:])
    f = np.zeros((len(grey), SIDE, SIDE), np.float32)
    f[:, :h, :w] = cosines(grey.shape[1], h) @ grey.astype(np.float32) @ cosines(grey.shape[2], w).T
    u, v = np.indices((SIDE, SIDE))
    return f.reshape(len(f), -1)[:, np.argsort((u**2 + v**2).ravel(), kind="stable")[1 : SIGNS + 1]]


def cosines(n: int, k: int) -> np.ndarray:
    """The first k rows (k, n) of the orthonormal cosine transform of n numbers."""
    u, i = np.arange(k)[:, None], np.arange(n)
    rows = np.cos(np.pi * (i + 0.5) * u / n) * np.sqrt(2 / n)
    rows[0] /= np.sqrt(2)
    return rows.astype(np.float32)


def repeats(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of (N,) or (N, k) are equal: their indices, group by group, and where each group begins.

    Only groups of two or more; within one, and among groups, in ascending order of (first) index.
    """
    _, group, size = np.unique(values, axis=0, return_inverse=True, return_counts=True)
    rows = np.flatnonzero(size[group.ravel()] > 1)
    group = group.ravel()[rows]
    first = np.full(len(size), len(values))
    np.minimum.at(first, group, rows)
    order = np.argsort(first[group], kind="stable")
    rows, group = rows[order], group[order]
    return rows, np.flatnonzero(np.diff(group, prepend=-1))


def near(prints: Prints, radius: int = RADIUS, alike: float = ALIKE) -> np.ndarray:
    """All pairs i < j of near duplicates that are not equal, int64 (M, 2) in ascending order, `MOST` at most."""
    if not 0 <= radius < 2 * WORDS:
        raise ValueError(f"radius is {radius}: the search is exact for 0 to {2 * WORDS - 1} signs")
    rows = np.flatnonzero(prints.face.any(1))
    words = prints.signs[rows].astype("<u8").view("<u2").reshape(-1, WORDS)
    found, count = [np.empty((0, 2), np.int64)], 0
    for word in range(WORDS):
        for i, j in _candidates(words[:, word]):
            a, b = np.sort([rows[i], rows[j]], axis=0)
            close = np.bitwise_count(prints.signs[a] ^ prints.signs[b]) <= radius
            a, b = a[close], b[close]
            fits = (_cosine(prints.face[a], prints.face[b]) >= alike) & (prints.digest[a] != prints.digest[b]).any(1)
            found.append(np.stack([a[fits], b[fits]], axis=1))
            count += int(fits.sum())
            if count > 4 * MOST:
                return np.unique(np.concatenate(found), axis=0)[:MOST]
    return np.unique(np.concatenate(found), axis=0)[:MOST]


def id_hash(text: str) -> int:
    """64 bits that stand for an id."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _candidates(word: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs of rows whose 16-bit words differ in at most one bit, each once, in chunks."""
    order = np.argsort(word, kind="stable")
    ranked = word[order]
    places = np.arange(len(word))
    for turned in (0, *(1 << bit for bit in range(16))):
        asked = ranked ^ np.uint16(turned)
        # Of rows with equal words each looks at those behind it, of two with different words the smaller looks.
        other = np.where(ranked < asked, np.searchsorted(ranked, asked, side="left"), len(word))
        start = other if turned else places + 1
        stop = np.searchsorted(ranked, asked, side="right")
        width = np.maximum(stop - start, 0)
        ends = np.cumsum(width)
        for first in range(0, int(ends[-1]) if len(ends) else 0, CHUNK):
            pair = np.arange(first, min(first + CHUNK, int(ends[-1])))
            asker = np.searchsorted(ends, pair, side="right")
            other = start[asker] + pair - (ends[asker] - width[asker])
            yield order[asker], order[other]


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float32), b.astype(np.float32)
    return np.einsum("ij,ij->i", a, b) / np.sqrt(np.einsum("ij,ij->i", a, a) * np.einsum("ij,ij->i", b, b))


def _digest(image: np.ndarray) -> bytes:
    """Of the shape and the values in 8 bits where they are 8-bit values, else of the values as they are."""
    if image.dtype != np.uint8:
        v = (image.astype(np.float32) + 1) * 127.5
        u = np.rint(v)
        if (np.abs(v - u) < 0.05).all() and u.min() >= 0 and u.max() <= 255:
            image = u.astype(np.uint8)
    head = f"{image.dtype}{image.shape}".encode()
    return hashlib.blake2b(head + np.ascontiguousarray(image).tobytes(), digest_size=16).digest()
