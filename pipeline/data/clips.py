"""Clips: animated GIFs, video files and folders of still frames, cut into clips (T frames) as they are read.

A film is one file or one folder of frames; nothing of it is held but the frames that one clip reaches over. A range of
clips from the middle of a video is decoded from a key frame before it, of an animation from its beginning.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import fsspec
import numpy as np
from PIL import Image

from pipeline.data.folders import MASK, SIGMA, is_image, number, read_beside
from pipeline.data.images import MAX_BYTES, MAX_HELD, BadImage, check_frames, header
from pipeline.data.listing import inside, listing, locate, reading, shown, unread
from pipeline.data.source import Piece, Raw, spans
from pipeline.data.videos import VIDEOS, read_frames, survey
from pipeline.data.windows import Windows

Frame = bytes | np.ndarray
ANIMATIONS = (".gif",)  # a WebP is a still frame
BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
DAMAGED = (EOFError, OSError, ValueError, SyntaxError, IndexError, struct.error, *BOMBS)


@dataclass(frozen=True)
class Film:
    """A film of `length` frames; `stamps` of them (length,) where it can be read from its middle, () else.

    What is not `whole` breaks off, so there is one clip more than its frames give, which is bad.
    """

    name: str
    label: int
    length: int
    stamps: Sequence[int] | np.ndarray = ()
    whole: bool = True


class Films(Windows):
    """Windows of several named films, which lie behind `url`."""

    @abstractmethod
    def films(self) -> Iterator[Film]:
        """Every film; its label is -1 where it has none."""

    @abstractmethod
    def film(self, name: str, at: int = -1) -> Iterator[Frame]:
        """The frames of one, from that of the time stamp `at` on, -1: from the first."""

    def beside(self, name: str) -> Callable[[int], dict[str, Any]]:
        """What is known of the damage of a film's clips, `Raw.damage` by a clip's number."""
        return lambda number: {}

    def cut(self) -> Iterator[Piece]:
        """Short films together, long ones in ranges of clips."""
        names: list[str] = []
        labels: list[int] = []
        held = 0
        for film in self.films():
            count = self.windows(film.length) + (not film.whole and film.length >= self.span)
            if names and held + count > self.most:
                yield Piece(tuple(names), tuple(labels), 0, self.most)
                names, labels, held = [], [], 0
            if count > self.most:
                for a, b in spans([count], self.most):
                    at = int(film.stamps[a * self.step]) if 0 < a * self.step < len(film.stamps) else -1
                    yield Piece((film.name,), (film.label,), a, b, at)
            else:
                names.append(film.name)
                labels.append(film.label)
                held += count
        if names:
            yield Piece(tuple(names), tuple(labels), 0, self.most)

    def read(self, piece: Piece) -> Iterator[Raw]:
        """One film after the other."""
        start, stop = (piece.start, piece.stop) if piece.at < 0 else (0, piece.stop - piece.start)
        for name, label in zip(piece.files, piece.labels, strict=True):
            known = None if label < 0 else label
            number, frames = piece.start - 1, self.film(name, piece.at)
            try:
                damage = self.beside(name)
                for number, clip in enumerate(self.clips(frames, start, stop, shown(name)), piece.start):
                    text = f"clip {number} of {shown(name)}"
                    yield Raw(f"{name}-{number}", clip, known, text, damage=damage(number))
            except BadImage as error:  # from here on, which is counted as one
                yield Raw(f"{name}-{number + 1}", error, known, f"clip {number + 1} of {shown(name)}")


@dataclass(frozen=True)
class Clips(Films):
    """Clips of the animations (GIF) and videos under `url`, or of every folder that holds still frames.

    A folder's frames are its images in the order of their names, numbers in these by their value. The first level of
    folders names the classes where there is more below it; the id of a clip is "<path of the film>-<number>". `damage`
    names what every film must have of "mask" and "sigma": beside x.mp4, x.gif or the folder x lie x.mask.png, for all
    of its frames, and x.sigma; or every frame in the folder has a mask of its own.
    """

    url: str
    damage: tuple[str, ...] = ()

    def unread(self) -> dict[str, int]:
        """What is neither a frame nor a film, nor taken from beside them, in the folder, where it is one."""
        fs, root = locate(self.url)
        beside = (MASK,) * ("mask" in self.damage) + (SIGMA,) * ("sigma" in self.damage)
        return unread(fs, root, lambda name: _is_shown(name) or name.endswith(beside)) if fs.isdir(root) else {}

    def films(self) -> Iterator[Film]:
        """Animations, videos and folders of frames, by name."""
        fs, root = locate(self.url)
        if not fs.isdir(root):
            yield self._file(PurePosixPath(root).name, -1)
            return
        found: dict[str, int] = {}
        for file in listing(fs, root, _is_shown):
            if file.lower().endswith((*ANIMATIONS, *VIDEOS)):
                found[file] = 0
            else:
                folder = file.rpartition("/")[0] or "."
                found[folder] = found.get(folder, 0) + 1
        if not found:
            raise ValueError(
                f"{shown(self.url)} has no films; looked for {', '.join((*VIDEOS, *ANIMATIONS))} and frames."
            )
        tops = [name.split("/")[0] if "/" in name else "" for name in found]
        classes = {top: label for label, top in enumerate(sorted(set(tops) - {""}))}
        for (name, count), top in zip(found.items(), tops, strict=True):
            label = classes.get(top, -1)
            yield Film(name, label, count) if count else self._file(name, label)

    def film(self, name: str, at: int = -1) -> Iterator[Frame]:
        """The frames of an animation or a video, decoded; those of a folder as they are stored."""
        fs, root = locate(self.url)
        path = root if not fs.isdir(root) else root if name == "." else inside(fs, root, name)
        if name.lower().endswith(VIDEOS):
            with reading(fs, path) as file:
                yield from read_frames(file, shown(name), at, self.frames)
        elif fs.isdir(path):
            for file in _stills(fs, path):
                with reading(fs, inside(fs, path, file)) as frame:
                    yield frame.read(MAX_BYTES + 1)
        else:
            with reading(fs, path) as file:
                yield from _animation(file.read(MAX_BYTES + 1), shown(name), self.frames)

    def beside(self, name: str) -> Callable[[int], dict[str, Any]]:
        """The masks of a clip's frames, or the film's, and its sigma."""
        if not self.damage:
            return super().beside(name)
        fs, root = locate(self.url)
        path = root if name == "." else inside(fs, root, name)
        stems = [file.rpartition(".")[0] for file in _stills(fs, path)] if fs.isdir(path) else []
        each = bool(stems) and fs.isfile(f"{path}/{stems[0]}{MASK}")
        own = name if stems else name.rpartition(".")[0]
        told = {
            "mask": None if each else read_beside(fs, root, own, MASK),
            "sigma": number(read_beside(fs, root, own, SIGMA)),
        }

        def of(clip: int) -> dict[str, Any]:
            first = clip * self.step
            here = stems[first : first + self.span : self.stride]
            masks, held = [], 0
            for stem in here if each else ():
                masks.append(read_beside(fs, path, stem, MASK))
                held += len(masks[-1] or b"")
                if held > MAX_HELD:
                    raise BadImage(f"The masks of clip {clip} of {shown(name)} take more than {MAX_HELD >> 20} MiB.")
            return {kind: (told | ({"mask": tuple(masks)} if each else {}))[kind] for kind in self.damage}

        return of

    def _file(self, name: str, label: int) -> Film:
        """The film in one file; of length 0 where that cannot be told, which reading will say."""
        fs, root = locate(self.url)
        with reading(fs, inside(fs, root, name) if fs.isdir(root) else root) as file:
            try:
                if name.lower().endswith(VIDEOS):
                    found = survey(file, shown(name), self.frames)
                    return Film(name, label, found.count, found.stamps, found.whole)
                return Film(name, label, _count(file.read(MAX_BYTES + 1), shown(name)))
            except BadImage:
                return Film(name, label, 0)


def _stills(fs: fsspec.AbstractFileSystem, folder: str) -> list[str]:
    """The frames of a film in a folder, by name, where numbers count as such: 2.png comes before 10.png."""
    here = listing(fs, folder, lambda file: "/" not in file and is_image(file))
    return sorted((file for file in here if not file.lower().endswith(ANIMATIONS)), key=_counted)


def _counted(name: str) -> tuple[list[str | int], str]:
    return [int(part) if i % 2 else part for i, part in enumerate(re.split("([0-9]+)", name))], name


def _is_shown(name: str) -> bool:
    return is_image(name) or name.lower().endswith(VIDEOS)


def _count(data: bytes, name: str) -> int:
    header(data, name)  # its size is checked before anything is decoded
    with Image.open(io.BytesIO(data), formats=("GIF",)) as image:
        try:
            return int(getattr(image, "n_frames", 1))
        except DAMAGED as error:
            raise BadImage(f"{name} is damaged.") from error


def _animation(data: bytes, name: str, frames: int) -> Iterator[np.ndarray]:
    """The frames (H, W, 3), transparency laid on white."""
    count = _count(data, name)
    with Image.open(io.BytesIO(data), formats=("GIF",)) as image:
        for t in range(count):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error", Image.DecompressionBombWarning)
                    image.seek(t)
                check_frames((image.height, image.width), frames, name)  # each one's own: a later one may be larger
                frame = image.convert("RGBA")
            except BadImage:
                raise
            except DAMAGED as error:
                raise BadImage(f"{name} is damaged from frame {t} on.") from error
            white = Image.new("RGBA", frame.size, "white")
            white.alpha_composite(frame)
            yield np.asarray(white.convert("RGB"))
