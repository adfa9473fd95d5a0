"""Every kind of image becomes the pixels that it shows; every kind of rubbish becomes a sentence."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile

from pipeline.data.images import BadImage, Framing, Resize, decode, header

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3)).astype(np.uint8)


def encoded(image: Image.Image | np.ndarray, kind: str = "png", **options) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["png", "bmp", "ppm", "tiff"])
def test_lossless_formats_give_back_every_pixel(kind: str) -> None:
    np.testing.assert_array_equal(decode(encoded(RGB, kind), "a"), RGB.transpose(2, 0, 1))
    np.testing.assert_array_equal(decode(encoded(RGB[..., 0], kind), "a", "L"), RGB[None, ..., 0])


def test_arrays_pass_unchanged_and_contiguous() -> None:
    np.testing.assert_array_equal(decode(RGB, "a"), RGB.transpose(2, 0, 1))
    for grey in (RGB[..., 0], RGB[..., :1]):
        out = decode(grey, "a", "L")
        np.testing.assert_array_equal(out, RGB[None, ..., 0])
        assert out.flags.c_contiguous
        assert out.dtype == np.uint8


def test_grey_of_colour_is_itu_601_luma_and_colour_of_grey_repeats_it() -> None:
    luma = decode(RGB, "a", "L").astype(float)
    np.testing.assert_allclose(luma[0], RGB @ [0.299, 0.587, 0.114], atol=0.51)
    np.testing.assert_array_equal(decode(RGB[..., 0], "a"), np.stack([RGB[..., 0]] * 3))


def test_transparency_is_laid_on_white() -> None:
    alpha = np.linspace(0, 255, 54).astype(np.uint8).reshape(6, 9, 1)
    over = (RGB * (alpha / 255) + 255 * (1 - alpha / 255)).transpose(2, 0, 1)
    np.testing.assert_allclose(decode(encoded(np.concatenate([RGB, alpha], 2)), "a"), over, atol=1)
    la = Image.merge("LA", [Image.fromarray(RGB[..., 0]), Image.fromarray(alpha[..., 0])])
    expected = RGB[..., 0] * (alpha[..., 0] / 255) + 255 - alpha[..., 0]
    np.testing.assert_allclose(decode(encoded(la), "a", "L")[0], expected, atol=1)


def test_palettes_show_their_colours_and_their_transparent_entry_is_white() -> None:
    palette = Image.new("P", (3, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.putdata([0, 1, 2])
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]]).T[:, None]
    np.testing.assert_array_equal(decode(encoded(palette), "a"), colours)
    colours[:, 0, 1] = 255
    np.testing.assert_array_equal(decode(encoded(palette, transparency=1), "a"), colours)
    assert header(encoded(palette), "a").stored == "P"


def test_cmyk_becomes_what_its_inks_leave() -> None:
    ink = np.array([[[255, 0, 0, 0], [0, 255, 0, 0], [0, 0, 255, 0], [0, 0, 0, 255]]], dtype=np.uint8)
    out = decode(encoded(cmyk(ink), "tiff"), "a")[:, 0].T
    np.testing.assert_array_equal(out, [[0, 255, 255], [255, 0, 255], [255, 255, 0], [0, 0, 0]])


def cmyk(ink: np.ndarray) -> Image.Image:
    return Image.frombytes("CMYK", (ink.shape[1], ink.shape[0]), ink.tobytes())


@pytest.mark.parametrize("profile", [ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes(), b"no profile"])
@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_colour_profiles_change_nothing(kind: str, profile: bytes) -> None:
    np.testing.assert_array_equal(decode(encoded(RGB, kind, icc_profile=profile), "a"), RGB.transpose(2, 0, 1))


@pytest.mark.parametrize("kind", ["png", "tiff", "ppm"])
def test_sixteen_bits_are_scaled_not_cut(kind: str) -> None:
    wide = np.array([[0, 128, 129, 257, 32768, 65535]], dtype=np.uint16)
    np.testing.assert_array_equal(decode(encoded(wide, kind), "a", "L")[0], np.rint(wide / 257))
    assert header(encoded(wide, kind), "a").mode == "L"


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("L", (4, 3), value) for value in (10, 200)]
    data = encoded(frames[0], "gif", save_all=True, append_images=frames[1:])
    assert (decode(data, "a", "L") == 10).all()
    assert header(data, "a").animated
    assert not header(encoded(RGB), "a").animated


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_and_the_header_knows(orientation: int) -> None:
    stored = RGB
    upright = {
        1: stored, 2: stored[:, ::-1], 3: np.rot90(stored, 2), 4: stored[::-1], 5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1), 7: np.rot90(stored.transpose(1, 0, 2), 2), 8: np.rot90(stored, 1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(RGB, exif=exif)
    np.testing.assert_array_equal(decode(data, "a"), upright.transpose(2, 0, 1))
    assert header(data, "a").size == upright.shape[:2]


def test_a_wrong_suffix_does_not_matter() -> None:
    np.testing.assert_array_equal(decode(encoded(RGB), "really-a-png.jpg"), RGB.transpose(2, 0, 1))


RUBBISH = {
    "is empty": b"",
    "is not an image": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "damaged": encoded(RGB)[:-40],
    "truncated": encoded(np.tile(RGB, (20, 20, 1)), "jpeg")[:-2000],
    "not an image (": b"just some text\n" * 20,
    "truncated or damaged (": encoded(RGB)[:20],
    "takes more than": bytes((1 << 26) + 1),
    "whose range is not known": encoded(Image.new("F", (2, 2)), "tiff"),
    "not uint8": np.zeros((2, 2), np.float32),
    "pixels allowed": png(65535, 65535),
    "has 8193x8192 pixels": np.broadcast_to(np.uint8(0), (8193, 8192)),
}


@pytest.mark.parametrize("part", RUBBISH)
def test_rubbish_is_one_sentence_that_names_it(part: str, refused) -> None:
    with refused(part, "cat/7.jpg", kind=BadImage):
        decode(RUBBISH[part], "cat/7.jpg")


def test_formats_that_start_other_programs_are_not_images(refused) -> None:
    with refused("is not an image", kind=BadImage):
        decode(encoded(RGB, "eps"), "a.png")


def test_half_images_are_refused_even_when_another_library_lets_them_pass(refused, monkeypatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with refused("truncated", kind=BadImage):
        decode(RUBBISH["truncated"], "a")


def test_a_webp_of_several_frames_is_refused_rather_than_read_as_its_first(refused) -> None:
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    still, film = io.BytesIO(), io.BytesIO()
    first.save(still, "webp", lossless=True)
    first.save(film, "webp", save_all=True, append_images=[second], lossless=True)
    assert decode(still.getvalue(), "a.webp")[:, 0, 0].tolist() == [255, 0, 0]
    with refused("a.webp is an animated WebP", "GIFs and videos", kind=BadImage):
        decode(film.getvalue(), "a.webp")


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(deadline=None, max_examples=150)
@given(st.sampled_from(["png", "jpeg", "gif", "bmp", "tiff", "webp", "ppm"]), st.data())
def test_damaged_bytes_are_pixels_or_a_bad_image_and_nothing_else(kind: str, data: st.DataObject) -> None:
    whole = bytearray(encoded(RGB, kind))
    for at in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=4)):
        whole[at] = data.draw(st.integers(0, 255))
    try:
        out = decode(bytes(whole[: data.draw(st.integers(1, len(whole)))]), "a", max_pixels=10_000)
    except BadImage:
        return
    assert out.dtype == np.uint8
    assert out.shape[0] == 3


@pytest.mark.slow
def test_bombs_are_refused_before_anything_is_allocated(tmp_path) -> None:
    webp = bytes.fromhex("524946461a000000574542505650384c0e0000002ffebfff0f071011fd0f4444ff03")
    real = png(9000, 9000, bytes(9001 * 9000))
    for name, data in {"a.png": png(65535, 65535), "b.webp": webp, "c.png": real}.items():
        (tmp_path / name).write_bytes(data)
    code = """if True:
        import resource, sys
        from pipeline.data.images import BadImage, decode
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        before = peak()
        for name in sys.argv[1:]:
            try: decode(open(name, "rb").read(), name)
            except BadImage as error: assert "pixels" in str(error), error
            else: sys.exit(f"{name} was decoded")
        print((peak() - before) // 1024)"""
    paths = [str(path) for path in sorted(tmp_path.iterdir())]
    out = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    assert int(out.stdout) < 30  # MiB; the smallest would take 77


def test_fail_wants_one_size_and_says_what_else_there_is(refused) -> None:
    fit = Framing((6, 9))
    assert decode(RGB, "a", fit=fit).shape == (3, 6, 9)
    with refused("a.png is 6x9 pixels where 9x6 was expected", "resize=crop") as _:
        decode(RGB, "a.png", fit=Framing((9, 6)))
    with pytest.raises(ValueError) as caught:
        decode(RGB, "a.png", fit=Framing((9, 6)))
    assert not isinstance(caught.value, BadImage)


@pytest.mark.parametrize("size", [(32, 32), (5, 17), (1, 1), (13, 7)])
@pytest.mark.parametrize("shape", [(64, 64), (61, 37), (1, 50), (50, 1), (1, 1)])
@pytest.mark.parametrize("resize", [Resize.CROP, Resize.STRETCH])
def test_any_size_becomes_the_asked_one_and_a_constant_stays_constant(size, shape, resize) -> None:
    out = decode(np.full(shape, 77, np.uint8), "a", "L", Framing(size, resize))
    assert out.shape == (1, *size)
    assert (out == 77).all()


def test_crop_keeps_the_centre_and_stretch_keeps_all() -> None:
    wide = np.zeros((10, 30), np.uint8)
    wide[:, 10:20] = 200
    assert (decode(wide, "a", "L", Framing((10, 10), Resize.CROP)) == 200).all()
    squeezed = decode(wide, "a", "L", Framing((10, 10), Resize.STRETCH))[0]
    assert squeezed[:, 5].min() > 190
    assert squeezed[:, 0].max() < 30


def test_shrinking_does_not_alias() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    out = decode(stripes, "a", "L", Framing((16, 16), Resize.STRETCH)).astype(int)
    assert abs(out - 127).max() <= 20


def test_impossible_choices_are_refused(refused) -> None:
    with refused("both positive"):
        Framing((0, 4))
    with refused("resize=crop needs a size"):
        Framing(resize=Resize.CROP)
    with refused("mode='HSV'"):
        decode(RGB, "a", "HSV")
