"""Images: bytes from strangers to uint8 pixels (C, H, W), decoded within bounds or refused in one sentence.

The size is read from the header and compared with a cap before anything is allocated. Whatever the file holds becomes
the asked mode: the first frame of an animation (a WebP of several is refused), turned upright by its EXIF orientation;
transparency laid on white; 16-bit grey v as round(v/257); CMYK and palettes by Pillow's plain conversion, colour
profiles ignored; colour to grey by ITU-R 601 luma. Resizing filters with Lanczos-3, widened when shrinking so that
nothing aliases.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

MAX_BYTES = 1 << 26  # of one encoded image
MAX_PIXELS = 1 << 26  # of one decoded image: 8192 x 8192
MAX_HELD = 3 << 27  # bytes of the frames of one clip, or of one row of an array: 16 frames of 4K in colour
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # no others: some of Pillow's start other programs
MODES = ("L", "RGB")
GREY = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "F"})
ORIENTATION = 0x0112  # the EXIF tag; 5 to 8 exchange height and width


class BadImage(ValueError):
    """One image that cannot be used, and why; those beside it can."""


# An image, the frames of a clip, None for what may not be read, or what is wrong with it instead.
Stored = bytes | np.ndarray | tuple[bytes | np.ndarray, ...] | BadImage | None


class NotFinite(BadImage):
    """An image of floats, some of which are NaN or infinite."""


class Resize(Enum):
    """What happens to an image of another size."""

    FAIL = "fail"
    CROP = "crop"
    STRETCH = "stretch"


@dataclass(frozen=True)
class Framing:
    """Brings an image to `size` (H, W) pixels, or leaves it as it is where `size` is None.

    FAIL refuses any other size; CROP scales the short side and keeps the centre; STRETCH scales each side by itself.
    """

    size: tuple[int, int] | None = None
    resize: Resize = Resize.FAIL

    def __post_init__(self) -> None:
        if self.size is not None and not (len(self.size) == 2 and min(self.size) > 0):
            raise ValueError(f"size={self.size} must be a height and a width, both positive.")
        if self.size is None and self.resize is not Resize.FAIL:
            raise ValueError(f"resize={self.resize.value} needs a size to resize to; set size=(height, width).")

    def __call__(self, image: Image.Image, name: str) -> Image.Image:
        """The image at this size; ValueError (not BadImage: the choice is the user's) where FAIL forbids it."""
        if self.size is None or (image.height, image.width) == tuple(self.size):
            return image
        height, width = self.size
        if self.resize is Resize.FAIL:
            raise ValueError(
                f"{name} is {image.height}x{image.width} pixels where {height}x{width} was expected; "
                "choose resize=crop or resize=stretch."
            )
        if self.resize is Resize.CROP:
            return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
        return image.resize((width, height), Image.Resampling.LANCZOS)


@dataclass(frozen=True)
class Header:
    """What a file says of its image: `mode` "L" or "RGB", `size` (H, W) once upright, Pillow's mode, many frames?

    `turned` is whether it, or a frame of a clip, must be turned or mirrored to stand upright.
    """

    mode: str
    size: tuple[int, int]
    stored: str
    animated: bool
    turned: bool = False


def header(image: Stored, name: str, max_pixels: int = MAX_PIXELS) -> Header:
    """Reads the header only, of a clip that of its first frame; raises BadImage as `decode` does."""
    if isinstance(image, tuple):
        first = header(image[0] if image else b"", name, max_pixels)
        stills = [frame for frame in image[1:] if isinstance(frame, bytes)]
        return replace(first, turned=first.turned or any(header(still, name, max_pixels).turned for still in stills))
    picture = _opened(image, name, max_pixels)
    try:
        return _header(picture)
    except MemoryError:
        raise
    except Exception as error:
        raise BadImage(f"{name} has a damaged header ({_reason(error)}).") from error


def decode(
    image: Stored, name: str, mode: str = "RGB", fit: Framing = Framing(), max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """The pixels that `read_image` gives."""
    return read_image(image, name, mode, fit, max_pixels)[0]


def read_image(
    image: Stored, name: str, mode: str | None = None, fit: Framing = Framing(), max_pixels: int = MAX_PIXELS
) -> tuple[np.ndarray, Header]:
    """The uint8 pixels (C, H, W) of encoded bytes or of an uint8 array (H, W), (H, W, 1) or (H, W, 3); its header.

    A clip's frames become (C, T, H, W); all must have one size.

    `mode` is "L" (C = 1), "RGB" (C = 3) or None, which is what the header says; `name` is what errors call the image.

    `max_pixels` can lower the cap; above 89 million, Pillow's own still holds.

    Raises BadImage where it is empty, truncated, no image, or has too many pixels; ValueError where `fit` refuses it.
    """
    if mode not in (None, *MODES):
        raise ValueError(f"mode={mode!r} is not known; choose one of {', '.join(MODES)}.")
    if isinstance(image, tuple):
        return _clip(image, name, mode, fit, max_pixels)
    picture = _opened(image, name, max_pixels)
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # a library that set it would have us learn the grey rest of a half image
    try:
        head, kind = _header(picture), picture.format  # which turning forgets
        if head.animated and kind == "WEBP":
            raise BadImage(
                f"{name} is an animated WebP, and films are read from GIFs and videos: save it as one of these."
            )
        picture.load()
        picture = _flat(ImageOps.exif_transpose(picture), kind, name).convert(mode or head.mode)
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise nearly every class there is
        raise BadImage(f"{name} is truncated or damaged ({_reason(error)}).") from error
    pixels = np.asarray(fit(picture, name))
    return np.ascontiguousarray(np.atleast_3d(pixels).transpose(2, 0, 1)), head


def check_frames(size: tuple[int, int], count: int, name: str) -> None:
    """Raises BadImage where a clip of `count` frames of this size (H, W) would take more than `MAX_HELD` in colour."""
    if 3 * count * size[0] * size[1] > MAX_HELD:
        raise BadImage(
            f"{name} has frames of {size[0]}x{size[1]} pixels, {count} of which take more than the "
            f"{MAX_HELD >> 20} MiB that one clip may; ask for fewer frames, or make them smaller."
        )


def _clip(
    frames: tuple[bytes | np.ndarray, ...], name: str, mode: str | None, fit: Framing, max_pixels: int
) -> tuple[np.ndarray, Header]:
    """The pixels (C, T, H, W), and the first frame's header; what they will take is known before any is decoded."""
    if not frames:
        raise BadImage(f"{name} has no frames.")
    first = header(frames[0], f"frame 0 of {name}", max_pixels)
    size, mode = fit.size or first.size, mode or first.mode
    check_frames(size, len(frames), name)
    clip, heads = np.empty((1 if mode == "L" else 3, len(frames), *size), np.uint8), []
    for t, frame in enumerate(frames):
        pixels, head = read_image(frame, f"frame {t} of {name}", mode, fit, max_pixels)
        if pixels.shape[1:] != clip.shape[2:]:
            raise BadImage(f"{name} has frames of several sizes.")
        clip[:, t] = pixels
        heads.append(head)
    return clip, replace(heads[0], turned=any(head.turned for head in heads))


def _header(picture: Image.Image) -> Header:
    """Of an image that is not decoded yet. Of a PNG it decodes it: Pillow looks for EXIF behind the pixels."""
    mode, height, width = picture.mode, picture.height, picture.width
    orientation = picture.getexif().get(ORIENTATION, 1)
    size = (width, height) if orientation in (5, 6, 7, 8) else (height, width)
    animated = bool(getattr(picture, "is_animated", False))
    return Header("L" if mode in GREY else "RGB", size, mode, animated, orientation in range(2, 9))


def _opened(image: bytes | np.ndarray | BadImage | None, name: str, max_pixels: int) -> Image.Image:
    """The image with its header read, its size within bounds, its pixels not decoded."""
    if isinstance(image, BadImage):
        raise image
    if image is None:
        raise BadImage(f"{name} may not be read; check its permissions.")
    if isinstance(image, np.ndarray):
        if image.dtype.kind == "f" and (wrong := int((~np.isfinite(image)).sum())):
            raise NotFinite(f"{name} has values that are not finite (NaN or infinite), {wrong} of {image.size}.")
        channels = image.shape[2:]
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or channels not in ((), (1,), (3,)) or not image.size:
            raise BadImage(f"{name} is an array {image.shape} of {image.dtype}, not uint8 (H, W) or (H, W, 1 or 3).")
        if image.shape[0] * image.shape[1] > max_pixels:
            raise BadImage(f"{name} has {image.shape[0]}x{image.shape[1]} pixels, more than the {max_pixels} allowed.")
        return Image.fromarray(image[..., 0] if channels == (1,) else image)
    if not image:
        raise BadImage(f"{name} is empty.")
    if len(image) > MAX_BYTES:
        raise BadImage(f"{name} takes more than {MAX_BYTES >> 20} MiB.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(image), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage(f"{name} has more than the {max_pixels} pixels allowed.") from error
    except UnidentifiedImageError as error:
        raise BadImage(
            f"{name} is not an image ({', '.join(FORMATS)} are read), or its beginning is damaged."
        ) from error
    except MemoryError:
        raise
    except Exception as error:
        raise BadImage(f"{name} is truncated or damaged ({_reason(error)}).") from error
    if picture.width * picture.height > max_pixels:
        raise BadImage(f"{name} has {picture.height}x{picture.width} pixels, more than the {max_pixels} allowed.")
    return picture


def _flat(image: Image.Image, kind: str | None, name: str) -> Image.Image:
    """The image in 8 bits and without transparency, in any mode that `convert` takes."""
    if image.mode.startswith("I;16") or (image.mode == "I" and kind == "PPM"):
        wide = np.asarray(image).clip(0, 65535).astype(np.uint32)
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise BadImage(f"{name} has 32-bit pixels, whose range is not known; save it with 8 or 16 bits.")
    if not image.has_transparency_data:
        return image
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    return white


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
