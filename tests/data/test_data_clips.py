"""Clips are the frames of the film at the stated places, whatever the film is stored in."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.data.images import BadImage, decode
from pipeline.data.parquet import Parquet
from pipeline.data.sources import Clips, Frames, Piece, source_of
from pipeline.data.windows import Windows
from stages.ingest import Ingest, OnBad

RNG = np.random.default_rng(0)


class Bare(Windows):
    def cut(self):
        raise NotImplementedError

    def read(self, piece):
        raise NotImplementedError


def film(length: int, size: tuple[int, int] = (8, 12)) -> np.ndarray:
    """(T, H, W, 3) frames, frame t in the shade 3 t with a patch of noise."""
    frames = np.broadcast_to((np.arange(length, dtype=np.uint8) * 3)[:, None, None, None], (length, *size, 3)).copy()
    frames[:, :3, :3] = RNG.integers(0, 256, (length, 3, 3, 3))
    return frames


def expected(frames: np.ndarray, n: int, stride: int, hop: int) -> np.ndarray:
    """(K, C, T, H, W) by plain slicing."""
    starts = range(0, len(frames) - (n - 1) * stride, hop)
    return np.stack([frames[s : s + (n - 1) * stride + 1 : stride].transpose(3, 0, 1, 2) for s in starts])


def png(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "png")
    return buffer.getvalue()


def gif(path: Path, frames: np.ndarray) -> Path:
    first, *rest = [Image.fromarray(frame[..., 0]) for frame in frames]  # grey palettes are exact
    first.save(path, save_all=True, append_images=rest, duration=40, disposal=1)
    return path


def video(path: Path, frames: np.ndarray, codec: str, pixels: str) -> Path:
    av = pytest.importorskip("av", reason="needs PyAV: pip install av")
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25, width=frames.shape[2], height=frames.shape[1], pix_fmt=pixels)
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())
    return path


@given(st.integers(0, 60), st.integers(1, 6), st.integers(1, 5), st.integers(0, 9), st.data())
def test_windows_are_those_of_plain_slicing_in_any_range(length, frames, stride, hop, data) -> None:
    windows = Bare(frames=frames, stride=stride, hop=hop)
    step, span = hop or frames * stride, (frames - 1) * stride + 1
    wanted = [tuple(range(s, s + span, stride)) for s in range(0, length - span + 1, step)]
    short = [tuple(range(0, length, stride))] if not wanted else []
    assert windows.windows(length) == len(wanted or short)
    assert list(windows.clips(range(length), 0, 99)) == wanted + short
    a = data.draw(st.integers(0, len(wanted)))
    b = data.draw(st.integers(a + 1, len(wanted) + 2))
    if wanted:
        assert list(windows.clips(range(length), a, b)) == wanted[a:b]


@pytest.mark.slow
@pytest.mark.parametrize(("n", "stride", "hop"), [(4, 1, 0), (3, 2, 1), (1, 1, 5)])
@pytest.mark.parametrize("kind", ["gif", "video", "folder", "parquet"])
def test_every_kind_of_film_gives_the_same_clips(kind: str, n: int, stride: int, hop: int, tmp_path, ingested) -> None:
    frames = film(21)
    if kind == "gif":
        frames = frames[..., :1].repeat(3, 3)
        gif(tmp_path / "f.gif", frames)
    elif kind == "video":
        video(tmp_path / "f.mkv", frames, "ffv1", "bgr0")  # lossless
    elif kind == "folder":
        (tmp_path / "f").mkdir()
        for t, frame in enumerate(frames):
            (tmp_path / "f" / f"{t:03d}.png").write_bytes(png(frame))
    else:
        table = {"image": [png(frame) for frame in frames], "clip": ["f"] * 21, "frame": range(21), "label": [7] * 21}
        pq.write_table(pa.table(table), tmp_path / "f.parquet", row_group_size=4)
    looked = source_of(str(tmp_path), frames=n, stride=stride)
    if kind == "parquet":
        assert looked == Frames(Parquet(str(tmp_path)), frames=n, stride=stride)
        source = Frames(Parquet(str(tmp_path)), frames=n, stride=stride, hop=hop)
    else:
        assert looked == Clips(str(tmp_path), frames=n, stride=stride)
        source = Clips(str(tmp_path), frames=n, stride=stride, hop=hop)
    wanted = expected(frames, n, stride, hop or n * stride)
    rows = ingested(source, (3, n, 8, 12))
    np.testing.assert_array_equal(rows.images, wanted)
    film_name = {"gif": "f.gif", "video": "f.mkv", "folder": "f", "parquet": "f/f"}[kind]
    assert rows.ids == tuple(f"{film_name}-{k}" for k in range(len(wanted)))
    assert set(rows.label.tolist()) == {7 if kind == "parquet" else -1}


@pytest.mark.parametrize(("ending", "codec"), [("mp4", "mpeg4"), ("mov", "libx264"), ("avi", "mpeg4"), ("webm", "vp9")])
def test_lossy_videos_come_in_the_order_in_which_they_are_shown(ending, codec, tmp_path: Path, ingested) -> None:
    frames = np.broadcast_to((np.arange(24, dtype=np.uint8) * 8 + 30)[:, None, None, None], (24, 32, 48, 3))
    path = video(tmp_path / f"f.{ending}", frames, codec, "yuv420p")
    assert source_of(str(path)) == Clips(str(path), frames=16)
    rows = ingested(source_of(str(path), frames=8), (3, 8, 32, 48))
    shades = rows.images.mean((1, 3, 4)).reshape(-1)
    np.testing.assert_allclose(shades, np.arange(24) * 8 + 30, atol=4)


def test_a_long_film_is_cut_into_pieces_that_mean_the_same_alone(tmp_path: Path) -> None:
    frames = film(130, (3, 3))
    gif(tmp_path / "long.gif", frames)
    gif(tmp_path / "short.gif", frames[:20])
    source = Clips(str(tmp_path), frames=512 // 4, stride=1, hop=1)
    assert source.most == 8
    many = Clips(str(tmp_path), frames=100, hop=1)
    pieces = many.pieces()
    assert [(p.files, p.start, p.stop) for p in pieces] == [
        (("long.gif",), 0, 10),
        (("long.gif",), 10, 20),
        (("long.gif",), 20, 30),
        (("long.gif",), 30, 31),
        (("short.gif",), 0, 10),
    ]
    ids = [raw.id for piece in pieces for raw in many.read(piece)]
    assert ids == [*(f"long.gif-{k}" for k in range(31)), "short.gif-0"]
    (raw,) = many.read(pieces[3])
    np.testing.assert_array_equal(decode(raw.image, raw.name, "L")[0, :, 2, 2], frames[30:130, 2, 2, 0])


def test_films_that_are_short_or_damaged_are_counted_and_spoil_only_themselves(tmp_path: Path, ingested) -> None:
    gif(tmp_path / "a.gif", film(3))
    whole = gif(tmp_path / "b.gif", film(12)).read_bytes()
    (tmp_path / "c.gif").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "d.gif").write_bytes(b"<html>")
    (tmp_path / "e.gif").write_bytes(b"")
    (tmp_path / "g").mkdir()
    for t, frame in enumerate(film(2)):
        (tmp_path / "g" / f"{t}.png").write_bytes(png(frame))
    with pytest.raises(BadImage, match=r"x has frames of several sizes"):
        decode((png(film(1)[0]), png(film(1, (9, 12))[0])), "x")
    source = Clips(str(tmp_path), frames=4)
    raws = [raw for piece in source.pieces() for raw in source.read(piece)]
    assert {raw.id.split("-")[0] for raw in raws} == {"a.gif", "b.gif", "c.gif", "d.gif", "e.gif", "g"}
    rows = ingested(source, (1, 4, 8, 12), on_bad=OnBad.SKIP, grey=True)
    assert [name for name in rows.ids if name[0] == "b"] == ["b.gif-0", "b.gif-1", "b.gif-2"]
    assert {name[0] for name in rows.ids} <= {"b", "c"}
    with pytest.raises(
        ValueError, match=r"clip 0 of a\.gif gives a clip of 3 frames where a clip of 4 frames is asked"
    ):
        ingested(source, (3, 4, 8, 12))
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "1.png").write_bytes(png(film(1)[0]))
    with pytest.raises(ValueError, match="gives a single image where a clip of 4"):
        ingested(source_of(str(tmp_path / "one")), (3, 4, 8, 12))


def test_videos_that_are_no_videos_are_refused_and_open_nothing_else(tmp_path: Path, ingested) -> None:
    whole = video(tmp_path / "w.mkv", film(40), "ffv1", "bgr0").read_bytes()
    frames = tmp_path / "frames"
    frames.mkdir()
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
    concat = f"ffconcat version 1.0\nfile {tmp_path / 'w.mkv'}\n".encode()
    other = video(tmp_path / "w.avi", film(20, (32, 48)), "mpeg4", "yuv420p").read_bytes()
    files = {
        "o.mp4": other,
        "t.mp4": b"text",
        "e.mp4": b"",
        "p.mp4": playlist,
        "p.mkv": playlist,
        "c.avi": concat,
        "h.mkv": whole[:900],
    }
    for name, data in files.items():
        (tmp_path / "bad").mkdir(exist_ok=True)
        path = tmp_path / "bad" / name
        path.write_bytes(data)
        source = source_of(str(path))
        raws = [raw for piece in source.pieces() for raw in source.read(piece)]
        with pytest.raises(BadImage, match=name):
            decode(raws[-1].image, raws[-1].name)


@pytest.mark.parametrize("hop", [0, 1, 3])
def test_the_films_of_one_parquet_file_are_kept_apart_in_every_piece(hop: int, tmp_path: Path) -> None:
    lengths = {"a": 9, "b": 2, "c": 30, "d": 4}
    frames = film(sum(lengths.values()), (5, 5))
    films = [name for name, length in lengths.items() for _ in range(length)]
    table = {"image": [png(frame) for frame in frames], "clip": films, "label": [ord(name) for name in films]}
    pq.write_table(pa.table(table), tmp_path / "x.parquet", row_group_size=7)
    source = Frames(Parquet(str(tmp_path / "x.parquet")), frames=4, hop=hop)
    raws = [raw for piece in source.pieces() for raw in source.read(piece)]
    found = {raw.id: raw for raw in raws}
    at = 0
    for name, length in lengths.items():
        for k, start in enumerate(list(range(at, at + length - 3, hop or 4)) or [at]):
            raw = found.pop(f"x/{name}-{k}")
            assert raw.label == ord(name)
            shades = decode(raw.image, raw.name)[0, :, 4, 4].tolist()
            assert shades == frames[start : min(start + 4, at + length), 4, 4, 0].tolist()
        at += length
    assert not found
    (whole,) = source.pieces()
    for start in range(whole.stop):  # any range alone is the same range
        assert [r.id for r in source.read(Piece(whole.files, start=start, stop=start + 1))] == [raws[start].id]


def test_frames_out_of_order_or_of_no_film_are_refused(tmp_path: Path, refused) -> None:
    data = [png(frame) for frame in film(4)]
    for columns, parts in {
        (("clip", ("a", "b", "a", "b")),): ("mixed up", "sort its rows by 'clip'"),
        (("clip", ("a", None, "a", "a")),): ("row 1 of x.parquet belongs to no film",),
        (("clip", ("a",) * 4), ("frame", (0, 2, 1, 3))): ("frames of a in x.parquet do not count upwards",),
        (("frame", (0, 1, 2, 3)),): ("no rows with a column 'clip'",),
    }.items():
        table = {"image": data} | {name: list(values) for name, values in columns}
        pq.write_table(pa.table(table), tmp_path / "x.parquet")
        with refused(*parts):
            Frames(Parquet(str(tmp_path / "x.parquet")), frames=2).pieces()
    with refused("no column 'clip'"):
        source_of(str(tmp_path / "x.parquet"), frames=2)
    with refused("nothing to cut clips"):
        np.save(tmp_path / "x.npy", np.zeros((1, 2, 2)))
        source_of(str(tmp_path / "x.npy"), frames=2)
    with refused("ask for frames as well"):
        source_of(str(tmp_path), stride=2)
    for wrong in ({"frames": 0}, {"stride": 0}, {"hop": -1}, {"frames": 1025}, {"frames": 600, "stride": 2}):
        with refused("cannot cut clips"):
            Clips("x", **wrong)
    with pytest.raises(ValueError, match="frames, height, width"):
        Ingest(Clips("x"), (3, 0, 8, 8))


def test_real_clips_of_people_and_of_a_tornado(ingested) -> None:
    home = os.environ.get("KINTSUGI_DATA")
    if not home:
        pytest.skip("KINTSUGI_DATA does not name the folder of real data")
    rows = ingested(source_of(f"{home}/tornado_video", frames=8, stride=2), (3, 8, 144, 256))
    assert rows.shape == (3, 8, 144, 256)
    assert len(rows) == (33 - 15) // 16 + 1
    source = source_of(f"{home}/weizmann_actions", frames=16)
    clips = ingested(source, (3, 16, 64, 64))
    films = pq.read_table(f"{home}/weizmann_actions/train-0000.parquet", columns=["clip"])["clip"].to_pylist()
    lengths = [films.count(name) for name in dict.fromkeys(films)]
    assert (len(lengths), sum(lengths)) == (28, 2058)
    assert len(clips) == sum((length - 16) // 16 + 1 for length in lengths)
    still = np.abs(clips.images[:, :, 1:].astype(float) - clips.images[:, :, :-1]).mean()
    mixed = np.abs(clips.images[1:, :, 0].astype(float) - clips.images[:-1, :, 0]).mean()
    assert still < mixed / 2  # frames of one clip are neighbours


def test_the_masks_beside_frames_are_no_frames(tmp_path: Path) -> None:
    folder = tmp_path / "film"
    folder.mkdir()
    for i in range(4):
        for end in (".png", ".mask.png"):
            Image.new("L", (4, 4), 255 * ("mask" in end)).save(folder / f"{i}{end}")
    source = source_of(str(tmp_path), frames=2)
    found = [raw for piece in source.pieces() for raw in source.read(piece)]
    assert len(found) == 2
    assert all(np.asarray(Image.open(io.BytesIO(frame))).max() == 0 for raw in found for frame in raw.image)
