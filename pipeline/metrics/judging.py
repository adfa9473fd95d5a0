"""Judging: every number that compares a set of samples with held-out images, with its interval and its card.

Of each set are taken the moments of all rows, in groups, and the features of the first `most` rows in a random order:
what needs pairs of rows is computed of those, so that memory is bounded whatever the sets hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pipeline.keys import Key
from pipeline.metrics import frechet, kernel, memorisation, neighbours, sliced
from pipeline.metrics.features import Features, Pixels, TooFew
from pipeline.metrics.interval import Estimate
from pipeline.metrics.memorisation import Nearest
from pipeline.metrics.moments import Moments, total

SCATTERS = 1 << 25  # numbers in the scatter matrices of all groups of a set, about
ORDER = (
    *("frechet", "kernel", "sliced_wasserstein", "precision", "recall", "density", "coverage"),
    *("similar_0.90", "similar_0.95", "similar_0.99", "copied"),
)


@dataclass(frozen=True, eq=False)
class Described:
    """A set of `rows` in features: `parts`, its moments by group, and `kept` (m, n) of them, each in a `group` (m,)."""

    rows: int
    parts: tuple[Moments, ...]
    kept: Tensor
    group: Tensor


@dataclass(frozen=True)
class Judging:
    """In which features samples are judged, and how.

    Args:
        features: pixels, a classifier ({is: pipeline.metrics.classifier.Classifier}), or a file of somebody's network
            ({is: pipeline.metrics.files.File, path: network.pt}).
        most: images of a set that are compared pair by pair; a random choice where there are more.
        neighbours: k of precision, recall, density and coverage.
        directions: of the sliced Wasserstein distance.
        subsets: over how many subsets the kernel distance is averaged, as KID is; 0: over none, all images at once.
        subset: images of a subset.
        groups: in which a set is divided for intervals.
        seed: of the choice, the groups, the directions and the subsets.
    """

    features: Features = Pixels()
    most: int = 10_000
    neighbours: int = 5
    directions: int = 64
    subsets: int = 0
    subset: int = 1000
    groups: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"most": 2, "neighbours": 1, "directions": 1, "subsets": 0, "subset": 2, "groups": 2}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)}: give at least {low}")

    @property
    def key(self) -> Key:
        """Of all that is random in it."""
        return Key(self.seed).fold("judging")

    def groups_of(self, rows: int, n: int) -> int:
        """In how many groups a set is divided: each has two rows or more, and of each are held n x n numbers."""
        return max(1, min(self.groups, rows // 2, max(4, SCATTERS // (n * n))))

    def compare(self, made: Described, real: Described) -> tuple[dict[str, Estimate], dict[str, str]]:
        """The numbers of samples against held-out images, and why others cannot be made of so few, by name."""
        groups = max(len(made.parts), len(real.parts))
        pairs = made.kept, real.kept, made.group, real.group, groups
        theta = sliced.directions(made.kept.shape[1], self.directions, self.key)

        def kernels() -> Estimate:
            found = kernel.judged(*pairs)
            drawn = (self.subsets, self.subset, self.key, found)
            return kernel.kid(made.kept, real.kept, *drawn) if self.subsets else found

        return _made(
            {
                "frechet": lambda: {"frechet": frechet.judged(made.parts, real.parts)},
                "kernel": lambda: {"kernel": kernels()},
                "sliced_wasserstein": lambda: {"sliced_wasserstein": sliced.judged(*pairs, theta)},
                "neighbours": lambda: neighbours.judged(*pairs, self.neighbours),
            }
        )

    def cards(self, made: Described, real: Described, learned: int | None, nearest: Nearest | None) -> dict[str, Any]:
        """How each number was made, by name; `learned`: images that memorisation was looked for among."""
        sizes = {"samples": made.rows, "reference_images": real.rows, "judging_seed": self.seed}
        paired = sizes | {"samples": len(made.kept), "reference_images": len(real.kept)}
        n = made.kept.shape[1]
        said: dict[str, dict[str, Any]] = {"frechet": {"metric": "Fréchet distance, squared", **sizes}}
        if min(made.rows, real.rows) <= n:
            said["frechet"]["beware"] = f"fewer images than the {n} features: mostly bias"
        how = f"mean of {self.subsets} subsets of {self.subset}" if self.subsets else "all images at once"
        said["kernel"] = {"metric": "squared MMD, unbiased, kernel (x·y/n + 1)³", "estimate": how, **paired}
        said["sliced_wasserstein"] = {"metric": "sliced Wasserstein-2", "directions": self.directions, **paired}
        for name in ("precision", "recall", "density", "coverage"):
            said[name] = {"metric": name, "neighbours": self.neighbours, **paired}
        one_law = neighbours.coverage_of_one_law(self.neighbours, len(made.kept), len(real.kept))
        said["coverage"]["of_one_law"] = one_law
        if learned is not None and nearest is not None:
            told = {"samples": len(made.kept), "learned_images": learned, **memorisation.summary(nearest)}
            for t in memorisation.THRESHOLDS:
                said[f"similar_{t:.2f}"] = {
                    "metric": f"share with cosine similarity to a learned image over {t}",
                    **told,
                }
            said["copied"] = {"metric": "share with d1/d2 below 1/3", **told}
        return {name: {**card, "dimension": n} for name, card in said.items()}


def memorised(nearest: Nearest) -> tuple[dict[str, Estimate], dict[str, str]]:
    """The shares of samples that are too close to what was learned."""
    return _made({"memorisation": lambda: memorisation.judged(nearest)})


def joined(parts: Sequence[Sequence[Moments]]) -> tuple[Moments, ...]:
    """Moments by group of a set, from those of its pieces."""
    return tuple(total(group) for group in zip(*parts, strict=True))


def _made(numbers: Mapping[str, Callable[[], dict[str, Estimate]]]) -> tuple[dict[str, Estimate], dict[str, str]]:
    found: dict[str, Estimate] = {}
    lacking: dict[str, str] = {}
    for name, make in numbers.items():
        try:
            found |= make()
        except TooFew as error:
            lacking[name] = str(error)
    return {name: found[name] for name in ORDER if name in found}, lacking
