"""Videos: the frames of a video file, decoded one by one by PyAV (the optional extra `video`).

The container is taken for what its suffix says and never guessed at: of FFmpeg's formats some are playlists, which
would open other files and addresses. The size is compared with the cap for images before a frame is decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any

import numpy as np

from pipeline.data.images import MAX_PIXELS, BadImage

FORMATS = {".avi": "avi", ".m4v": "mov", ".mkv": "matroska", ".mov": "mov", ".mp4": "mov", ".webm": "matroska"}
VIDEOS = tuple(FORMATS)


def count_frames(file: IO[bytes], name: str) -> int:
    """How many frames a video has, counted by its packets without decoding any; BadImage where it cannot be read."""
    with _opened(file, name) as (container, stream):
        return sum(1 for packet in container.demux(stream) if packet.size)


def read_frames(file: IO[bytes], name: str) -> Iterator[np.ndarray]:
    """The frames (H, W, 3) uint8 in the order in which they are shown; BadImage where the video is damaged."""
    with _opened(file, name) as (container, stream):
        for frame in container.decode(stream):
            if frame.width * frame.height > MAX_PIXELS:
                raise BadImage(f"{name} has frames of {frame.height}x{frame.width} pixels, more than {MAX_PIXELS}.")
            yield frame.to_ndarray(format="rgb24")


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


@contextmanager
def _opened(file: IO[bytes], name: str) -> Iterator[tuple[Any, Any]]:
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
            if stream.width * stream.height > MAX_PIXELS:
                raise BadImage(f"{name} has frames of {stream.height}x{stream.width} pixels, more than {MAX_PIXELS}.")
            yield container, stream
    except (av.error.FFmpegError, EOFError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise BadImage(f"{name} is truncated or damaged ({reason}).") from error
