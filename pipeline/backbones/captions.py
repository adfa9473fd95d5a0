"""Captions as numbers without a language model: words and pairs of words, each a fixed vector of random signs.

    e(text) = √size · Σ_f φ(f) / |Σ_f φ(f)|,     φ(f) ∈ {−1, 1}^size from a hash of f, f over the text's words and pairs

The cosine of two texts' embeddings is that of their counts of words and pairs, give or take 1/√size (random projections
with coins: Achlioptas, "Database-friendly random projections", 2003). So a network can learn what words say of images,
and two captions are the more alike the more words they share; it knows no synonyms, no grammar beyond neighbours, and a
word that no training caption had is noise to it. Who wants a language model's understanding gives its embeddings as a
column of the rows instead (`Embedded`). The embedding is the same everywhere and needs nothing downloaded.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pipeline.backbones.condition import Embedded

MOST_WORDS = 512  # of a caption, from its beginning


@dataclass(frozen=True)
class Captions(Embedded):
    """The rows' captions, in `size` numbers; a caption without a letter or a digit is none.

    Neighbouring words count together up to `together` of them: 1 is a bag of words.
    """

    column: ClassVar[str] = "caption"

    size: int = 256
    together: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.together < 1:
            raise ValueError(
                f"together is {self.together}: give how many neighbouring words count together, at least 1"
            )

    def told(self, values: np.ndarray) -> Tensor:
        """The embeddings (B, size) float32 of texts, of unit mean square; zeros for none."""
        made = [_embedded(str(text), self.size, self.together) for text in values]
        return torch.from_numpy(np.stack(made) if made else np.empty((0, self.size), np.float32))


@lru_cache(maxsize=1 << 15)  # captions come again every epoch
def _embedded(text: str, size: int, together: int) -> np.ndarray:
    words = re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).casefold())[:MOST_WORDS]
    runs = (" ".join(words[i : i + n]) for n in range(1, together + 1) for i in range(len(words) - n + 1))
    total = np.zeros(size, np.float32)
    for run in runs:
        total += _signs(run, size)
    made = total / max(np.sqrt(np.mean(total * total)), np.float32(1e-6))
    made.setflags(write=False)
    return made


@lru_cache(maxsize=1 << 15)
def _signs(text: str, size: int) -> np.ndarray:
    drawn = np.frombuffer(hashlib.shake_128(text.encode("utf-8", "surrogatepass")).digest(-(-size // 8)), np.uint8)
    signs = np.unpackbits(drawn, count=size).astype(np.int8) * 2 - 1
    signs.setflags(write=False)
    return signs
