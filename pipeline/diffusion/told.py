"""One network of many views of one kind, told of each row which one it is: by its mask, or by its window's place.

A row v = A x₀ comes with its own A, drawn for it. Beside the row the network sees A applied to a fixed image p, p = 1
for masks (A p is the mask m) and p = the coordinates of every pixel for windows (A p says where the window lies):

    D(v, σ; A) = A μ + c_skip (v − A μ) + c_out F(c_in (v − A μ), A p, c_noise).

Judged on what the rows show, its minimum is E[A x₀ | v] for each A that rows have, which is all that a lift by this A
needs. For an A that no row has it is a guess. (A network told its mask: Ambient Diffusion, Daras et al., arXiv
2305.19256; coordinates of patches: Patch Diffusion, Wang et al. 2023.)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.backbones.backbone import Backbone
from pipeline.diffusion.denoiser import Network, Trained, expand
from pipeline.diffusion.precond import EDM
from pipeline.physics.linear import LinearMap, Shape
from pipeline.physics.visible import hidden_by


class Telling(ABC):
    """How a network is told of a row's A: by a small code; subclasses are frozen dataclasses.

    `shape` is that of the whole image (C, *), `rows` that of a row as the network takes it, `planes` how many channels
    tell the code.
    """

    shape: Shape

    @property
    @abstractmethod
    def rows(self) -> Shape: ...

    @property
    @abstractmethod
    def planes(self) -> int: ...

    @abstractmethod
    def code(self, A: LinearMap) -> Tensor:
        """The codes (B or 1, *) of maps. Raises ValueError: they are not of this kind."""

    @abstractmethod
    def told(self, code: Tensor) -> Tensor:
        """A p (B, planes, *) in float32."""

    @abstractmethod
    def cut(self, image: Tensor, code: Tensor) -> Tensor:
        """Of one image (C, *) what each row shows of it: (B, *rows), 0 where it shows nothing."""

    @abstractmethod
    def seen(self, u: Tensor, code: Tensor) -> Tensor:
        """Rows u (B, *rows), whatever they hold where nothing is seen: with 0 there."""

    @abstractmethod
    def counts(self, code: Tensor) -> Tensor:
        """How many numbers each row shows (B,), at least 1."""

    @abstractmethod
    def added(self, u: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """Rows in their place in the whole image, added up, and how many there are at each entry: (C, *) both."""

    @abstractmethod
    def laid(self, v: Tensor, A: LinearMap) -> Tensor:
        """Rows (B, *rows) that hold what A shows, v (B, *out)."""

    @abstractmethod
    def taken(self, u: Tensor, A: LinearMap) -> Tensor:
        """The numbers (B, *out) that A shows, from rows."""


@dataclass(frozen=True)
class Masks(Telling):
    """Rows keep the image's shape and have 0 where A hides; the code is the mask (B, C, *), True where seen."""

    shape: Shape

    @property
    def rows(self) -> Shape:
        return tuple(self.shape)

    @property
    def planes(self) -> int:
        return self.shape[0]

    def code(self, A: LinearMap) -> Tensor:
        """The mask of a map that hides, or of a selection such as a window."""
        if (seen := hidden_by(A)) is None:
            shown = A.adjoint(A(torch.ones(1, *A.in_shape))) if A.orthonormal else torch.zeros(())
            seen = shown > 0.5
            if not seen.any() or not torch.allclose(shown, seen.to(shown), atol=1e-6):
                raise ValueError(f"{type(A).__name__} neither masks nor selects entries, so that no mask says what it does")
        return seen

    def told(self, code: Tensor) -> Tensor:
        return code.float()

    def cut(self, image: Tensor, code: Tensor) -> Tensor:
        return torch.where(code, image, 0)

    def seen(self, u: Tensor, code: Tensor) -> Tensor:
        return torch.where(code, u, 0)

    def counts(self, code: Tensor) -> Tensor:
        return code.flatten(1).sum(1).clamp_min(1)

    def added(self, u: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        return self.seen(u, code).sum(0), code.sum(0)

    def laid(self, v: Tensor, A: LinearMap) -> Tensor:
        return A.adjoint(v)

    def taken(self, u: Tensor, A: LinearMap) -> Tensor:
        return A(u)


@dataclass(frozen=True)
class Windows(Telling):
    """Rows are windows of `sides` (one an axis behind the channels); the code is their first pixel (B, axes)."""

    shape: Shape
    sides: Shape

    def __post_init__(self) -> None:
        fits = len(self.sides) == len(self.shape) - 1
        if not fits or any(not 1 <= n <= N for n, N in zip(self.sides, self.shape[1:])):
            raise ValueError(f"windows of {tuple(self.sides)} do not fit into images of {tuple(self.shape)}")

    @property
    def rows(self) -> Shape:
        return (self.shape[0], *self.sides)

    @property
    def planes(self) -> int:
        return len(self.sides)

    def code(self, A: LinearMap) -> Tensor:
        """The first pixel of a map that shows all channels of a window of these sides."""
        number = torch.arange(math.prod(self.shape), dtype=torch.float64).reshape(1, *self.shape)
        if tuple(A.in_shape) == tuple(self.shape) and tuple(A.out_shape) == self.rows:
            shown = A(number.expand(A.rows, *self.shape)).round().long()
            first = shown.flatten(1)[:, 0]
            corner = torch.stack(torch.unravel_index(first, tuple(self.shape))[1:], 1)
            size = math.prod(self.shape[1:])
            channels = size * torch.arange(self.shape[0])[None, :, None]
            if all(int(c) + n <= N for c, n, N in zip(corner.amax(0), self.sides, self.shape[1:])):
                if torch.equal(shown.flatten(2), channels + self._places(corner)[:, None]):
                    return corner
        raise ValueError(f"{type(A).__name__} shows no window of {self.sides} of images of {tuple(self.shape)}")

    def told(self, code: Tensor) -> Tensor:
        """Coordinates from −1 to 1 over the whole image."""
        axes = [torch.linspace(-1, 1, N, device=code.device) if N > 1 else torch.zeros(1, device=code.device) for N in self.shape[1:]]
        return self.cut(torch.stack(torch.meshgrid(*axes, indexing="ij")), code)

    def cut(self, image: Tensor, code: Tensor) -> Tensor:
        places = self._places(code)
        return image.flatten(1)[:, places].transpose(0, 1).reshape(len(code), -1, *self.sides)

    def seen(self, u: Tensor, code: Tensor) -> Tensor:
        return u

    def counts(self, code: Tensor) -> Tensor:
        return torch.full((len(code),), math.prod(self.rows), device=code.device)

    def added(self, u: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        places = self._places(code).flatten()
        into = u.new_zeros(self.shape[0], math.prod(self.shape[1:]))
        total = into.index_add(1, places, u.flatten(2).transpose(0, 1).flatten(1))
        count = into[0].index_add(0, places, torch.ones_like(places).to(u))
        return total.reshape(self.shape), count.reshape(1, *self.shape[1:]).expand(self.shape)

    def laid(self, v: Tensor, A: LinearMap) -> Tensor:
        return v

    def taken(self, u: Tensor, A: LinearMap) -> Tensor:
        return u

    def _places(self, corner: Tensor) -> Tensor:
        """The numbers (B, pixels of a window) of its pixels in the whole image, channels aside."""
        places, stride = corner.new_zeros(len(corner), *(1,) * len(self.sides)), 1
        for axis in reversed(range(len(self.sides))):
            at = corner[:, axis, None] + torch.arange(self.sides[axis], device=corner.device)
            view = [1] * len(self.sides)
            view[axis] = self.sides[axis]
            places = places + stride * at.reshape(-1, *view)
            stride *= self.shape[axis + 1]
        return places.flatten(1)


class Told(Network):
    """D(v, σ; code): E[A x₀ | v] of rows v as their `Telling` has them."""

    @dataclass(frozen=True)
    class Config(Trained):
        """How it is told, and the network; `precond` is for the spread of what rows show about their mean."""

        telling: Telling
        backbone: Backbone
        precond: EDM = EDM()

        @property
        def shape(self) -> Shape:  # pyright: ignore[reportIncompatibleVariableOverride]
            """Of one row."""
            return self.telling.rows

        @property
        def channels(self) -> tuple[int, int]:
            """Of the network's input, which has the planes that tell, and output."""
            return self.shape[0] + self.telling.planes, self.shape[0]

        def build(self) -> Told:
            """The module, initialised from torch's global generator."""
            return Told(self)

    config: Config
    centre: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.net = config.backbone.build(config.shape, *config.channels)
        self.register_buffer("centre", torch.zeros(tuple(config.telling.shape)))

    def forward(self, x: Tensor, sigma: Tensor, cond: Tensor | None = None, code: Tensor | None = None) -> Tensor:
        """E[A x₀ | A x₀ + σz] (B, *rows) in float32, 0 where nothing is seen, from x (B, *rows) and codes (B, *).

        What x holds where nothing is seen reaches nothing. Raises ValueError without codes.
        """
        if code is None:
            raise ValueError("this network must be told the mask or the place of what it is shown: combine it (Asked)")
        how = self.config.telling
        centre, sigma = how.cut(self.centre, code), sigma.float()
        x = how.seen(x.float() - centre, code)
        c_skip, c_out, c_in, c_noise = self.config.precond.coefficients(sigma)
        F = self.net(torch.cat([expand(c_in, x) * x, how.told(code)], 1), c_noise, cond)
        return how.seen(centre + expand(c_skip, x) * x + expand(c_out, x) * F, code)


class Asked(Network):
    """A told network at one view A: an ordinary denoiser of A x₀, E[A x₀ | A x]."""

    @dataclass(frozen=True)
    class Config(Trained):
        """The view, and the network; None: that of the nearest view before in a combination, which it shares."""

        at: LinearMap
        told: Told.Config | None
        telling: Telling

        def __post_init__(self) -> None:
            self.telling.code(self.at)

        @property
        def shape(self) -> Shape:  # pyright: ignore[reportIncompatibleVariableOverride]
            """Of what the view shows."""
            return tuple(self.at.out_shape)

        def build(self) -> Asked:
            """The module; one that shares a network must still `borrow` it."""
            return Asked(self)

    config: Config
    code: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.told = None if config.told is None else config.told.build()
        self.lent = [] if self.told is None else [self.told]  # a list, so that weights are not registered twice
        self.register_buffer("code", config.telling.code(config.at), persistent=False)

    def borrow(self, told: Told) -> None:
        """Ask this network, which is another's."""
        self.lent = [told]

    def forward(self, x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        """E[A x₀ | A x₀ + σz] (B, *out)."""
        how, A = self.config.telling, self.config.at
        code = self.code.expand(len(x), *self.code.shape[1:])
        return how.taken(self.lent[0](how.laid(x, A), sigma, cond, code), A)


def lend(models: Iterable[nn.Module]) -> None:
    """Give each `Asked` among a combination's models that has no network of its own that of the nearest before.

    Raises ValueError: there is none before, or it is told in another way.
    """
    last: Told | None = None
    for model in models:
        if not isinstance(model, Asked):
            continue
        last = model.told if model.told is not None else last
        if last is None or last.config.telling != model.config.telling:
            raise ValueError("a view shares the network of a view before it, and there is none of its kind: order them")
        model.borrow(last)
