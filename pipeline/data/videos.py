"""Videos: the frames of a video file, decoded one by one by PyAV (the optional extra `video`).

The container is taken for what its suffix says and never guessed at: of FFmpeg's formats some are playlists, which
would open other files and addresses. The size is compared with the cap for images before a frame is decoded. A file
that ends before the duration that its container states was cut off, which FFmpeg itself passes over in silence: its
frames are good, and after the last one it is bad. (A recording that states no duration cannot be told from a whole
one.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any

import numpy as np

from pipeline.data.images import MAX_PIXELS, BadImage, check_frames

FORMATS = {".avi": "avi", ".m4v": "mov", ".mkv": "matroska", ".mov": "mov", ".mp4": "mov", ".webm": "matroska"}
VIDEOS = tuple(FORMATS)
AHEAD = 32  # frames: twice what codecs may reorder
SLACK = 0.05  # seconds that a stated duration may be off


@dataclass(frozen=True)
class Survey:
    """What the packets of a video say: how many frames, their time stamps as shown, whether it is there to its end.

    `stamps` is int64 (count,) ascending, or (0,) where a frame has none of its own.
    """

    count: int
    stamps: np.ndarray
    whole: bool


def survey(file: IO[bytes], name: str, frames: int = 1) -> Survey:
    """Passes through a video without decoding a frame of it.

    Raises BadImage where it cannot be read, or where clips of `frames` of its frames would be too large.
    """
    with _opened(file, name, frames) as (container, stream):
        stamps, watch = [], _Watch(container)
        for packet in container.demux():
            watch(packet)
            if packet.stream is stream and packet.size:
                stamps.append(packet.pts)
        told = None not in stamps and len(set(stamps)) == len(stamps)
        known = np.sort(np.array(stamps, np.int64)) if told else np.empty(0, np.int64)
        return Survey(len(stamps), known, not watch.torn)


def read_frames(file: IO[bytes], name: str, at: int = -1, frames: int = 1) -> Iterator[np.ndarray]:
    """The frames (H, W, 3) uint8 in the order in which they are shown; BadImage as `survey`, or where it is damaged.

    `at` is the time stamp of the first one wanted, -1 the beginning: decoding starts at a key frame before it.
    """
    with _opened(file, name, frames) as (container, stream):
        watch = _Watch(container)
        late = at >= 0 and not _reaches(container, stream, at)
        if at >= 0:
            container.seek(0 if late else _early(stream, at), stream=stream)
        for packet in container.demux():
            watch(packet)
            for frame in packet.decode() if packet.stream is stream else ():
                _check(frame.height, frame.width, frames, name)
                if at < 0 or (frame.pts is not None and frame.pts >= at):
                    yield frame.to_ndarray(format="rgb24")
        if watch.torn:
            raise BadImage(f"{name} ends after {watch.end:.2f} of {watch.stated:.2f} seconds; it seems truncated.")


def _early(stream: Any, at: int) -> int:
    """A time stamp so far before `at` that frames are not shown before a key frame there and decoded after it."""
    return max(0, at - int(AHEAD / float(stream.average_rate or AHEAD) / float(stream.time_base)))


def _reaches(container: Any, stream: Any, at: int) -> bool:
    """Whether seeking ends up at or before `at`, which a damaged or a missing index does not promise."""
    container.seek(_early(stream, at), stream=stream)
    first = next((packet for packet in container.demux(stream) if packet.pts is not None), None)
    return first is not None and first.is_keyframe and first.pts <= at


class _Watch:
    """Looks at every packet, of sound too, for where the file ends, against where its container says that it does."""

    def __init__(self, container: Any) -> None:
        self.stated, self.end, self.slack = (container.duration or 0) / 1e6, 0.0, SLACK
        first = container.streams.video[0]
        if container.format.name == "avi" and first.average_rate:  # of a file cut off, FFmpeg makes the duration less
            self.stated = max(self.stated, first.frames / float(first.average_rate))

    def __call__(self, packet: Any) -> None:
        if packet.pts is None and packet.dts is None:
            return
        start = packet.dts if packet.pts is None else packet.pts
        self.end = max(self.end, float((start + (packet.duration or 0)) * packet.time_base))
        rate = getattr(packet.stream, "average_rate", None)
        self.slack = max(self.slack, 1.5 / float(rate)) if rate else self.slack

    @property
    def torn(self) -> bool:
        """Whether more than a frame is missing at the end."""
        return self.end + self.slack < self.stated


@dataclass
class _Seekable:
    """A file in which seeking before its beginning fails as FFmpeg expects it to, by a number."""

    file: IO[bytes]

    def read(self, count: int) -> bytes:
        return self.file.read(count)

    def tell(self) -> int:
        return self.file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        here = self.file.tell()
        start = (0, here, self.file.seek(0, 2))[whence]
        if start + offset < 0:
            self.file.seek(here)
            return -1
        return self.file.seek(start + offset)


def _check(height: int, width: int, frames: int, name: str) -> None:
    if height * width > MAX_PIXELS:
        raise BadImage(f"{name} has frames of {height}x{width} pixels, more than {MAX_PIXELS}.")
    check_frames((height, width), frames, name)


@contextmanager
def _opened(file: IO[bytes], name: str, frames: int) -> Iterator[tuple[Any, Any]]:
    try:
        import av
        import av.error
    except ImportError as error:
        raise ValueError(f"{name} is a video, which PyAV decodes: run `pip install av` first.") from error
    try:
        with av.open(
            _Seekable(file), format=FORMATS[PurePosixPath(name).suffix.lower()], metadata_errors="replace"
        ) as container:
            if not container.streams.video:
                raise BadImage(f"{name} has no pictures, only other streams.")
            stream = container.streams.video[0]
            _check(stream.height, stream.width, frames, name)
            yield container, stream
    except (av.error.FFmpegError, EOFError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise BadImage(f"{name} is truncated or damaged ({reason}).") from error
