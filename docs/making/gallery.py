"""The gallery of operators: six digits beside what became of them, for every operator and corruption of the library.

What is shown is drawn here, by the library itself, whenever the site is made. tests/docs compares the list with what
`pipeline.physics` has, so that a new operator without an entry fails.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.data.digits import Digits
from pipeline.engine.pictures import GROUND, grid, pixels
from pipeline.physics.bicubic import Bicubic
from pipeline.physics.blackbox import BlackBox, Gamma, Jpeg
from pipeline.physics.blur import GaussianBlur, MotionBlur
from pipeline.physics.boxes import Boxes, FixedBox, KeepPatch, Subtitle
from pipeline.physics.corruption import Clean, Corruption, Noisy, Through, corrupt
from pipeline.physics.fourier import Fourier
from pipeline.physics.ghost import Camera, Ghost, Rademacher, Speckle
from pipeline.physics.hadamard import Hadamard
from pipeline.physics.lettering import Lettering
from pipeline.physics.linear import shows
from pipeline.physics.luminance import Luminance
from pipeline.physics.masks import BoxMask, FixedMask, LineMask, PixelMask
from pipeline.physics.mixture import Mixture
from pipeline.physics.sensors import Measured, Poisson, Quantised
from pipeline.physics.views import Channel, Crop, Frames, Pool
from pipeline.physics.watermark import Watermark
from pipeline.physics.windows import DroppedFrames, FrameRate, RandomCrop, ShortClip

COUNT, SIDE, SEED = 6, 32, 0
GREY, SMALL, COLOUR, CLIP = (1, SIDE, SIDE), (1, 16, 16), (3, SIDE, SIDE), (1, 4, SIDE, SIDE)
BEHIND = {  # what the others are made of, and what the reference alone describes
    *("Identity", "Product", "Scaled", "Stacked", "Masked", "Diagonal", "Runs", "Visible", "Routed"),
    *("Buckets", "FourierLines", "HadamardRows"),
}
TOLD = {"Symmetric", "ClassMap", "Swap", "TokenRemoval"}  # of labels and captions: in a table of their own


@dataclass(frozen=True)
class Entry:
    """One picture: `made` is shown on images of `shape`, and stands for the classes in `of` (its own if empty)."""

    made: Corruption
    formula: str
    drawn: str
    source: str = ""
    shape: tuple[int, ...] = GREY
    of: tuple[str, ...] = ()
    viewed: Callable[[Any, Tensor, Any], Tensor] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return self.of or (type(self.made).__name__,)


def view(A: Any, formula: str, source: str = "", **more: Any) -> Entry:
    """An entry of a map that is the same for all images."""
    return Entry(Through(A), formula, "nothing: the same for all", source, A.in_shape, (type(A).__name__,), **more)


LOGO = Watermark(
    alpha=tuple(tuple(0.6 if abs(i - j) < 2 or abs(11 - i - j) < 2 else 0.0 for j in range(12)) for i in range(12)),
    colour=(tuple(tuple(1.0 for _ in range(12)) for _ in range(12)),) * 3,
    top=4,
    left=16,
)
FRAME = tuple("".join("01"[6 <= i < 26 and 6 <= j < 26] for j in range(SIDE)) for i in range(SIDE))
SPEC = "Daras et al., Ambient Diffusion (arXiv 2305.19256)"
ROOMS: dict[str, list[Entry]] = {
    "Nothing hidden": [
        Entry(Noisy(noise=0.4), "y = x₀ + σₙ n, n ~ N(0, I)", "n", "Tweedie; Daras et al. (arXiv 2404.10177)"),
        Entry(Clean(), "y = x₀", "nothing"),
    ],
    "Pixels hidden: A = diag(m)": [
        Entry(PixelMask(0.5), "y = m ⊙ x₀, P(mⱼ = 0) = p", "m, as packed bits", SPEC),
        Entry(LineMask(0.4), "y = m ⊙ x₀, whole rows (or columns)", "which lines"),
        Entry(BoxMask(0.3, 0.6), "y = m ⊙ x₀, one box hidden", "its place and sides", SPEC),
        Entry(Boxes(4, 0.1, 0.4), "y = m ⊙ x₀, several boxes hidden", "their places and sides"),
        Entry(FixedBox(8, 10, 12, 14), "y = m ⊙ x₀, the same box of all", "nothing: the same for all"),
        Entry(FixedMask(FRAME), "y = m ⊙ x₀, the same m of all", "nothing: the same for all"),
        Entry(KeepPatch(0.3, 0.6), "y = m ⊙ x₀, one window seen", "its place and sides"),
        Entry(Subtitle(), "y = m ⊙ x₀, a region at the bottom", "its height and width"),
        Entry(
            Lettering(size=0.3),
            "y = m ⊙ x₀, m = 0 where a letter, its outline or their surroundings lie (shown: what a viewer sees)",
            "the text, its place and m itself",
            viewed=lambda made, x0, rows: made.over(x0, rows),
        ),
        Entry(
            LOGO,
            "v = (1 − a) x₀ + a L (shown); y = v − a L, hidden where a ≥ 0.9",
            "nothing: the same for all",
            shape=COLOUR,
            viewed=lambda made, x0, rows: made.over(x0),
        ),
    ],
    "Views: A Aᵀ = I": [
        view(Crop(GREY, 0, 0, SIDE, 20), "a window", "Ma, Bootstrapping Diffusion (arXiv 2505.11825)"),
        view(Channel(COLOUR, (0,)), "some channels"),
        view(Frames(CLIP, (0, 3)), "some frames of a clip"),
        view(Pool(GREY, 4), "block sums / s, so that noise stays white"),
        Entry(RandomCrop(16, 16), "a window cut out", "its place"),
        Entry(ShortClip(2), "frames in a row", "the first one", shape=CLIP),
        Entry(FrameRate(2), "every k-th frame", "nothing: the same for all", shape=CLIP),
        Entry(DroppedFrames(2), "y = m ⊙ x₀, frames hidden", "which frames", shape=CLIP),
    ],
    "Blurred, smaller, grey": [
        view(GaussianBlur(GREY, 1.5), "ŷ(ω) = exp(−ωᵀ S ω/2) x̂₀(ω)"),
        view(MotionBlur(GREY, 9.0, 30.0), "ŷ(ω) = sin(u)/u x̂₀(ω), u = L ω·d/2"),
        view(Bicubic(GREY, 4), "y = D₁ x₀ D₂ᵀ", "Keys 1981, eq. 15"),
        view(Luminance(COLOUR), "y = wᵀ x₀, A Aᵀ = |w|² I, |w|² = .447", "ITU-R BT.601"),
    ],
    "Measured, not photographed (shown: A⁺y)": [
        Entry(Fourier(4.0, centre=0.1), "y = M F x₀, some lines of k-space", "the lines", "Bracewell 1983; fastMRI"),
        Entry(Hadamard(512), "y = S H D E x₀/√M: signs, fast transform, some rows", "the signs and rows"),
        Entry(Ghost(128), "y = P x₀/√N, patterns orthonormalised", "P", shape=SMALL, of=("Ghost", "Rademacher")),
        Entry(Ghost(128, Speckle(2.0)), "the same with laser speckle", "P", "Goodman 2007", SMALL, of=("Speckle",)),
        view(Camera(SMALL, 128), "y = P x₀/√N, the same P for all images"),
    ],
    "Sensors: noise that is not white": [
        Entry(Measured(Clean(), Poisson(20.0)), "n ~ Poisson(peak (y + 1)/2)", "n", of=("Measured", "Poisson")),
        Entry(Measured(Clean(), Quantised(4)), "rounded to steps", "nothing (dither: the rounding)", of=("Quantised",)),
    ],
    "Black boxes: simulated, no adjoint": [
        Entry(BlackBox(Jpeg(5)), "y = JPEG(x₀)", "nothing", of=("BlackBox", "Jpeg")),
        Entry(BlackBox(Gamma(2.5)), "u = (x₀ + 1)/2 becomes u^γ", "nothing", of=("Gamma",)),
    ],
    "Mixtures": [
        Entry(
            Mixture(((0.4, Noisy(noise=0.59)), (0.4, BoxMask(0.4, 0.7)), (0.2, Clean()))),
            "p(y | x₀) = Σ wₖ pₖ(y | x₀)",
            "k, and what part k draws",
        )
    ],
}


def pages(docs: Path) -> dict[Path, str]:
    """The text of the gallery, below `docs`/pictures; its pictures are written beside it."""
    folder = docs / "pictures"
    folder.mkdir(exist_ok=True)
    parts = []
    for room, entries in ROOMS.items():
        parts.append(f"## {room}")
        for entry in entries:
            name = f"{entry.names[-1]}.png"
            (folder / name).write_bytes(picture(entry))
            classes = ", ".join(f"{{py:class}}`{_path(entry, name)}`" for name in entry.names)
            said = [f"*Formula* {entry.formula}", f"*Drawn for each image* {entry.drawn}"]
            said += [f"*Source* {entry.source}"] if entry.source else []
            parts += [f"### {' of '.join(entry.names)}", f"![{entry.names[-1]}](/pictures/{name})"]
            parts += ["; ".join(said) + f". {classes}"]
    return {folder / "gallery.md": "\n\n".join(parts) + "\n"}


def picture(entry: Entry) -> bytes:
    """A row of images above what became of them; what is hidden is coloured."""
    x0 = images(entry.shape)
    ids = [f"digits-{n:04d}" for n in range(len(x0))]
    y, rows = corrupt(entry.made, x0, ids, SEED)
    hidden = torch.zeros_like(x0[:, :1], dtype=torch.bool)
    try:
        A = entry.made.at(rows, entry.shape)
    except ValueError:  # a black box, or parts of several kinds
        A = None
    if entry.viewed is not None:
        seen = entry.viewed(entry.made, x0, rows)
    elif (A is not None and len(A.out_shape) != len(A.in_shape)) or isinstance(entry.made, Fourier):
        seen = A.pinv(y)
    else:
        seen = y
        if A is not None and A.out_shape == A.in_shape and entry.made.noiseless:
            hidden = ~shows(A).expand(len(x0), *entry.shape).any(1, keepdim=True)
    return _stacked(flat(x0), flat(seen), flat(hidden.double()) > 0.5)


@cache
def images(shape: tuple[int, ...]) -> Tensor:
    """Digits brought to `shape`: larger, tinted where there is colour, moving where there are frames. [-1, 1]."""
    source = Digits()
    raw = [row.image for row in islice(source.read(next(source.cut())), COUNT)]
    large = [np.asarray(Image.fromarray(a).resize(shape[:-3:-1], Image.Resampling.BICUBIC)) for a in raw]
    x = torch.from_numpy(np.stack(large)).double()[:, None] / 127.5 - 1
    if shape[0] == 3:
        tint = torch.tensor([[1, 0.75, 0.4], [0.5, 0.9, 1], [0.8, 1, 0.6]], dtype=x.dtype)
        x = (x + 1) * tint[torch.arange(len(x)) % 3][:, :, None, None] - 1
    if len(shape) == 4:
        x = torch.stack([x.roll(3 * t - 4, -1) for t in range(shape[1])], 2)[:2]
    return x.contiguous()


def flat(x: Tensor) -> Tensor:
    """Frames of clips side by side: (B, C, T, H, W) to (B T, C, H, W)."""
    return x.transpose(1, 2).flatten(0, 1) if x.ndim == 5 else x


def _stacked(above: Tensor, below: Tensor, hidden: Tensor) -> bytes:
    """Two lines of pictures in one file, each as large as images of SIDE pixels are."""
    lines = [coloured(above, torch.zeros_like(hidden)), coloured(below, hidden)]
    drawn = [
        Image.open(io.BytesIO(grid(line, columns=8, scale=max(1, 64 // line.shape[-2]), ground=GROUND)))
        for line in lines
    ]
    size = max(line.width for line in drawn), sum(line.height for line in drawn)
    sheet = Image.new("RGB", size, GROUND)
    for line, top in zip(drawn, (0, drawn[0].height)):
        sheet.paste(line, (0, top))
    out = io.BytesIO()
    sheet.quantize(64).save(out, "PNG", optimize=True)
    return out.getvalue()


def coloured(x: Tensor, hidden: Tensor) -> np.ndarray:
    """Images (N, C, H, W) as RGB bytes, with what is hidden in another colour."""
    shown = pixels(x.clamp(-1.5, 1.5).numpy())
    shown = shown if shown.shape[1] == 3 else shown[:, :1].repeat(3, 1)
    if hidden.shape[-2:] == x.shape[-2:] and hidden.any():
        where = hidden[:, 0].numpy()
        for channel, value in enumerate((216, 120, 88)):
            shown[:, channel][where] = value
    return shown


def _path(entry: Entry, name: str) -> str:
    """Where the class of that name lives."""
    things = [entry.made, getattr(entry.made, "map", None), getattr(entry.made, "filter", None)]
    things += [getattr(entry.made, "by", None), getattr(entry.made, "patterns", None), Rademacher()]
    found = next(thing for thing in things if type(thing).__name__ == name)
    return f"{type(found).__module__}.{name}"
