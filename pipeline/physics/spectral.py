"""LinearMaps that Fourier's basis makes diagonal: A = F* diag(h) F on periodic images, everything in closed form.

With a transfer function h real and even the map takes real images to real ones and is its own adjoint; |h| are its
singular values. Frequencies with |h| at most CUTOFF of the largest are not seen: h is 0 there, so that A⁺ is exactly
1/h on what is seen and 0 elsewhere, and nothing is divided by almost nothing.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from pipeline.physics.linear import LinearMap, Shape

CUTOFF = 1e-3


class Spectral(LinearMap):
    """Images (..., H, W) times `seen`, frequency by frequency; every channel and frame alike."""

    shape: Shape

    @abstractmethod
    def transfer(self, down: Tensor, across: Tensor) -> Tensor:
        """H at the angular frequencies `down` (H, 1) and `across` (1, W) in [-π, π) radians a pixel: real, (H, W)."""

    @property
    def in_shape(self) -> Shape:
        return self.shape

    @property
    def out_shape(self) -> Shape:
        return self.shape

    @property
    def seen(self) -> Tensor:
        """H (H, W) in float64: even, as real images need, and 0 where nothing is seen."""
        H, W = self.shape[-2:]
        down, across = (2 * torch.pi * torch.fft.fftfreq(n, dtype=torch.float64) for n in (H, W))
        h = self.transfer(down[:, None], across[None, :]).expand(H, W)
        # -π and π are one frequency: where h tells them apart, the mean of both is what a real image can have.
        even = (h + h.flip(0, 1).roll((1, 1), (0, 1))) / 2
        return torch.where(even.abs() > CUTOFF * even.abs().max(), even, 0)

    def _filter(self, x: Tensor, h: Tensor) -> Tensor:
        self.check(x, self.shape)
        return torch.fft.ifft2(torch.fft.fft2(x) * h.to(x)).real

    def __call__(self, x: Tensor) -> Tensor:
        return self._filter(x, self.seen)

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)

    def pinv(self, y: Tensor) -> Tensor:
        """F* diag(1/h) F y over the frequencies that are seen."""
        h = self.seen
        return self._filter(y, torch.where(h == 0, 0, 1 / torch.where(h == 0, 1, h)))
