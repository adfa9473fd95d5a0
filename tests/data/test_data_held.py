"""What is small one by one and large together is bounded, and no name in an archive of arrays leads elsewhere."""

from __future__ import annotations

import io
import weakref
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bombs import gif_bomb
from PIL import Image

from pipeline.data import arrays, clips, images, windows
from pipeline.data.images import BadImage, Framing, decode
from pipeline.data.parquet import Parquet
from pipeline.data.sources import Arrays, Clips, Frames, Source, source_of

RNG = np.random.default_rng(0)
FRAME = 3 * 4 * 4  # bytes


def everything(source: Source) -> list:
    return [raw for piece in source.pieces() for raw in source.read(piece)]


def png(value: int, behind: int = 0) -> bytes:
    """A picture of 4x4 in one colour, with bytes behind it that decoders pass over."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(buffer, "png")
    return buffer.getvalue() + bytes(behind)


@pytest.mark.parametrize(("stride", "hop"), [(1, 0), (8, 0), (8, 160), (3, 3), (2, 1)])
def test_a_clip_holds_the_frames_it_shows_and_is_refused_beyond_its_bytes(monkeypatch, stride: int, hop: int) -> None:
    """Ten frames a clip, the bound on as many as overlapping clips show, and on one byte less."""
    films = Clips("x", frames=10, stride=stride, hop=hop)
    shown = {0: 10, 160: 10, 3: 10, 1: 19}[hop]
    alive = most = 0

    def film():
        nonlocal alive, most
        for _ in range(200):
            frame = np.zeros((4, 4, 3), np.uint8)
            alive += 1
            weakref.finalize(frame, died)
            most = max(most, alive)
            yield frame
            del frame

    def died() -> None:
        nonlocal alive
        alive -= 1

    monkeypatch.setattr(windows, "MAX_HELD", shown * FRAME)
    assert sum(1 for _ in films.clips(film(), 0, 1000)) == films.windows(200)
    assert most <= shown + 10 + 1  # the clip that was handed on, and the frame that comes
    monkeypatch.setattr(windows, "MAX_HELD", shown * FRAME - 1)
    with pytest.raises(BadImage, match=r"^f\.gif has frames of which a clip takes more than 0 MiB; ask for fewer"):
        list(films.clips(film(), 0, 1000, "f.gif"))


def test_frames_that_are_too_large_together_spoil_only_their_film(tmp_path: Path, monkeypatch) -> None:
    """Bytes behind the pictures, in a folder of frames and in parquet; the film after it is whole."""
    frames = [png(t, 9000 * (t < 8)) for t in range(12)]
    for t, frame in enumerate(frames):
        (tmp_path / "ab"[t > 7]).mkdir(exist_ok=True)
        (tmp_path / "ab"[t > 7] / f"{t:02d}.png").write_bytes(frame)
    pq.write_table(pa.table({"image": frames, "clip": list("aaaaaaaabbbb")}), tmp_path / "x.parquet")
    monkeypatch.setattr(windows, "MAX_HELD", 30_000)
    (tmp_path / "only").mkdir()
    for source in (Clips(str(tmp_path), frames=4), Frames(Parquet(str(tmp_path / "x.parquet")), frames=4)):
        bad, good = everything(source)
        assert bad.id.endswith("a-0")
        with pytest.raises(BadImage, match="a clip takes more than"):
            decode(bad.image, bad.name)
        assert decode(good.image, good.name)[0, :, 0, 0].tolist() == [8, 9, 10, 11]


def test_what_a_clip_would_take_is_known_before_a_frame_is_decoded(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(images, "MAX_HELD", 4 * FRAME)
    assert decode((png(0),) * 4, "x").shape == (3, 4, 4, 4)
    frames = (png(0), *[b"no picture"] * 4)
    with pytest.raises(BadImage, match=r"^x has frames of 4x4 pixels, 5 of which take more than the 0 MiB"):
        decode(frames, "x")
    with pytest.raises(BadImage, match="frames of 3x5 pixels, 5 of which"):
        decode(frames, "x", fit=Framing((3, 5), images.Resize.STRETCH))
    gif_bomb(tmp_path / "f.gif", 4, 5, 4)
    (raw,) = everything(Clips(str(tmp_path / "f.gif"), frames=5))
    assert isinstance(raw.image, BadImage)
    assert "f.gif has frames of 4x4 pixels, 5 of which" in str(raw.image)


def test_films_of_large_frames_are_refused_whatever_they_are_in(tmp_path: Path, monkeypatch) -> None:
    av = pytest.importorskip("av", reason="needs PyAV: pip install av")
    with av.open(str(tmp_path / "f.mkv"), "w") as out:
        stream = out.add_stream("ffv1", rate=25, width=48, height=32, pix_fmt="bgr0")
        for _ in range(6):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 48, 3), np.uint8), format="rgb24")))
        out.mux(stream.encode())
    monkeypatch.setattr(images, "MAX_HELD", 3 * 32 * 48 * 3)
    assert [len(raw.image) for raw in everything(Clips(str(tmp_path), frames=3))] == [3, 3]
    (raw,) = everything(Clips(str(tmp_path), frames=4))
    assert isinstance(raw.image, BadImage)
    assert "f.mkv has frames of 32x48 pixels, 4 of which" in str(raw.image)


def test_whatever_is_wrong_with_an_animation_spoils_only_itself() -> None:
    buffer = io.BytesIO()
    first, *rest = [Image.fromarray(RNG.integers(0, 255, (9, 11), dtype=np.uint8)) for _ in range(4)]
    first.save(buffer, "gif", save_all=True, append_images=rest, disposal=2)
    refused = 0
    for _ in range(600):
        data = bytearray(buffer.getvalue())
        data[RNG.integers(len(data))] = RNG.integers(256)
        try:
            list(clips._animation(bytes(data[: RNG.integers(1, 2 * len(data))]), "x", 4))
        except BadImage:
            refused += 1
    assert 100 < refused < 500
    huge = bytearray(buffer.getvalue())
    last = huge.rindex(b",\0\0\0\0\x0b\0\x09\0")
    huge[last + 5 : last + 9] = b"\x60\xea\x60\xea"  # 60,000 x 60,000
    with pytest.raises(BadImage, match="x is damaged from frame 3 on"):
        list(clips._animation(bytes(huge), "x", 4))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../../images.npy", "is not inside it"),
        ("/etc/images.npy", "is not inside it"),
        ("a/../../labels.npy", "is not inside it"),
        ("C:/images.npy", "a drive letter"),
        ("..\\images.npy", "a backslash"),
        ("images\0.npy", "control characters"),
        ("im\nages.txt", "control characters"),
        ("n" * 4096 + ".npy", "more than 1024 characters"),
    ],
)
def test_names_in_an_npz_that_lead_elsewhere_are_refused(name: str, reason: str, tmp_path: Path, refused) -> None:
    """Also of a member that is not asked for, and beside good ones."""
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 4, 4), np.uint8))
    info = zipfile.ZipInfo("placeholder")
    info.filename = name  # what ZipInfo would make plain
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
        archive.writestr(info, b"x")
    for look in (lambda: source_of(str(tmp_path / "x.npz")), Arrays(str(tmp_path / "x.npz")).pieces):
        with refused("x.npz", reason, "numpy.savez"):
            look()


def test_an_npz_whose_names_are_no_text_is_refused(tmp_path: Path, refused) -> None:
    np.savez(tmp_path / "x.npz", **{"im\u00e4ges": np.zeros((2, 4, 4), np.uint8)})
    (tmp_path / "x.npz").write_bytes((tmp_path / "x.npz").read_bytes().replace("\u00e4".encode(), b"\xff\xff"))
    with refused("x.npz is not an .npz file that can be read"):
        source_of(str(tmp_path / "x.npz"))


@pytest.mark.parametrize("claim", [0, 1 << 31])
def test_an_npz_may_inflate_a_hundred_times_and_no_more(claim: int, tmp_path: Path, monkeypatch, refused) -> None:
    """Whatever the archive claims to hold of it; without compression any size is taken."""
    monkeypatch.setattr(arrays, "MAX_BYTES", 0)
    black = np.zeros((40, 100, 100), np.uint8)
    np.savez_compressed(tmp_path / "x.npz", images=black)
    if claim:
        data = bytearray((tmp_path / "x.npz").read_bytes())
        at = data.rindex(b"PK\x01\x02") + 20
        data[at : at + 4] = claim.to_bytes(4, "little")
        (tmp_path / "x.npz").write_bytes(data)
    with refused("images in", "x.npz inflates from", "to 400128 bytes", "without compression"):
        Arrays(str(tmp_path / "x.npz")).pieces()
    np.savez(tmp_path / "x.npz", images=black)
    assert len(everything(Arrays(str(tmp_path / "x.npz")))) == 40
    black[:, :5] = RNG.integers(0, 256, black[:, :5].shape)
    np.savez_compressed(tmp_path / "x.npz", images=black)
    assert len(everything(Arrays(str(tmp_path / "x.npz")))) == 40


def test_floats_are_converted_piece_by_piece_to_the_same_bytes(tmp_path: Path, monkeypatch, refused) -> None:
    values = RNG.random((3, 5, 7, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", values)
    monkeypatch.setattr(arrays, "AT_ONCE", 8)
    found = np.stack([raw.image for raw in everything(Arrays(str(tmp_path / "x.npy")))])
    np.testing.assert_array_equal(found, np.rint(values.astype(np.float64) * 255))
    values[1, 4, 6, 2] = 1.5
    np.save(tmp_path / "x.npy", values)
    with refused("row 1 of", "x.npy has values outside 0..1"):
        everything(Arrays(str(tmp_path / "x.npy")))
    monkeypatch.setattr(arrays, "MAX_HELD", 5 * 7 * 3 * 4 - 1)
    with refused("x.npy has shape (3, 5, 7, 3) of float32: each row takes more than"):
        Arrays(str(tmp_path / "x.npy")).pieces()
