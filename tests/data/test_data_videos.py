"""Videos: from its middle a film has the frames that it has from its beginning; one that was cut off is told."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.images import BadImage, decode
from pipeline.data.sources import Clips, Piece
from pipeline.data.videos import read_frames, survey
from stages.ingest import OnBad

av = pytest.importorskip("av", reason="needs PyAV: pip install av")
RNG = np.random.default_rng(0)
CODECS = [
    ("mkv", "ffv1", "bgr0"),
    ("mkv", "libx264", "yuv420p"),
    ("mp4", "libx264", "yuv420p"),
    ("mov", "mpeg4", "yuv420p"),
]
CODECS += [("webm", "libvpx-vp9", "yuv420p"), ("avi", "mpeg4", "yuv420p")]


def moving(length: int, size: tuple[int, int] = (32, 48)) -> np.ndarray:
    """(T, H, W, 3): a bright bar that moves over noise, so that no two frames are alike."""
    frames = RNG.integers(0, 60, (length, *size, 3)).astype(np.uint8)
    for t in range(length):
        frames[t, :, t % size[1]] = 255
    return frames


def video(path: Path, frames: np.ndarray, codec: str, pixels: str, sound: float = 0, **options: str) -> Path:
    """A file with a key frame at every 12th frame, B-frames where the codec has them, and seconds of sound."""
    with av.open(str(path), "w", options=options) as out:
        stream = out.add_stream(codec, rate=25, width=frames.shape[2], height=frames.shape[1], pix_fmt=pixels)
        stream.gop_size, stream.bit_rate = 12, 4_000_000
        if codec in ("libx264", "mpeg4") and path.suffix != ".avi":
            stream.max_b_frames = 3
        voice = out.add_stream("pcm_s16le", rate=8000) if sound else None
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())
        if voice is not None:
            for k in range(int(sound * 10)):
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
                silence.sample_rate, silence.pts = 8000, 800 * k
                out.mux(voice.encode(silence))
            out.mux(voice.encode())
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "codec", "pixels"), CODECS)
def test_every_piece_of_a_long_film_has_the_frames_it_has_when_all_is_read(ending, codec, pixels, tmp_path):
    path = video(tmp_path / f"f.{ending}", moving(120), codec, pixels)
    with path.open("rb") as file:
        every = list(read_frames(file, path.name))
    assert len(every) == 120
    source = Clips(str(path), frames=8, hop=2)
    for piece in cut_finely(source, path):
        for raw in source.read(piece):
            k = int(raw.id.rsplit("-", 1)[1])
            assert (np.stack(raw.image) == np.stack(every[2 * k : 2 * k + 8])).all(), raw.id
        assert k == min(piece.stop, 57) - 1


def cut_finely(source: Clips, path: Path) -> Iterator[Piece]:
    """Pieces of nine clips, each from where the survey says that its first frame is."""
    (whole,) = source.pieces()
    with path.open("rb") as file:
        stamps = survey(file, path.name).stamps
    for a in range(0, 57, 9):
        yield Piece(whole.files, whole.labels, a, a + 9, int(stamps[2 * a]) if len(stamps) else -1)


class Counting(io.FileIO):
    """A file that counts what is read of it."""

    count = 0

    def read(self, size=-1):
        data = super().read(size)
        self.count += len(data)
        return data


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "codec", "pixels"), CODECS[:4])
def test_the_end_of_a_film_is_read_without_its_beginning(ending, codec, pixels, tmp_path):
    path = video(tmp_path / f"f.{ending}", moving(300, (64, 96)), codec, pixels)
    with path.open("rb") as file:
        stamps = survey(file, path.name).stamps
    assert len(stamps) == 300
    with Counting(str(path)) as file:
        assert sum(1 for _ in read_frames(file, path.name, int(stamps[280]))) == 20
        assert file.count < path.stat().st_size / 2


def test_the_pieces_of_a_long_film_say_where_they_begin(tmp_path):
    path = video(tmp_path / "f.mkv", moving(300, (16, 16)), "ffv1", "bgr0")
    pieces = Clips(str(path), frames=64, hop=1).pieces()
    with path.open("rb") as file:
        stamps = survey(file, path.name).stamps
    assert [(p.start, p.stop) for p in pieces] == [(a, min(a + 16, 237)) for a in range(0, 237, 16)]
    assert [p.at for p in pieces] == [-1, *(int(stamps[a]) for a in range(16, 237, 16))]


@pytest.mark.slow
@pytest.mark.parametrize("sound", [0, 4])
@pytest.mark.parametrize("ending", ["mkv", "mp4", "avi", "mov"])
def test_a_film_that_was_cut_off_gives_its_clips_and_one_that_says_so(ending, sound, tmp_path, ingested):
    pixels, codec = ("bgr0", "ffv1") if ending == "mkv" else ("yuv420p", "mpeg4")
    options = {"movflags": "faststart"} if ending in ("mp4", "mov") else {}
    frames = moving(75)
    whole = video(tmp_path / f"w.{ending}", frames, codec, pixels, sound * (ending != "mp4"), **options)
    rows = ingested(Clips(str(whole), frames=5), (3, 5, 32, 48))
    assert len(rows) == 15, "a whole film is called truncated"
    data = whole.read_bytes()
    torn = tmp_path / "torn" / f"t.{ending}"
    torn.parent.mkdir()
    torn.write_bytes(data[: int(len(data) * 0.6)])
    source = Clips(str(torn), frames=5)
    raws = [raw for piece in source.pieces() for raw in source.read(piece)]
    *good, last = raws
    assert (0 if ending == "avi" else 3) <= len(good) < 15
    assert all(decode(raw.image, raw.name).shape == (3, 5, 32, 48) for raw in good)
    with pytest.raises(BadImage, match=rf"t.{ending} (ends after .* it seems truncated|is truncated or damaged)"):
        decode(last.image, last.name)
    with pytest.raises(ValueError, match=r"truncated.*--on-bad skip"):
        ingested(source, (3, 5, 32, 48))
    assert len(ingested(source, (3, 5, 32, 48), on_bad=OnBad.SKIP)) == len(good)


def test_a_recording_that_states_no_duration_is_taken_as_it_is(tmp_path, ingested):
    with io.BytesIO() as out:
        with av.open(Pipe(out), "w", format="matroska") as container:
            stream = container.add_stream("ffv1", rate=25, width=48, height=32, pix_fmt="bgr0")
            for frame in moving(20):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        (tmp_path / "live.mkv").write_bytes(out.getvalue())
    assert len(ingested(Clips(str(tmp_path / "live.mkv"), frames=5), (3, 5, 32, 48))) == 4


class Pipe:
    """A file that can only be written forwards, so that no duration is filled in at the end."""

    def __init__(self, file):
        self.file = file

    def write(self, data):
        return self.file.write(data)
