"""Small files that inflate to large ones."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image


def tar_bomb(path: Path, members: int, mib: int, level: int) -> None:
    """A .tar.gz of `members` images that are `mib` MiB of zeros each."""
    with gzip.open(path, "wb", compresslevel=level) as out:
        for i in range(members):
            info = tarfile.TarInfo(f"{i}.png")
            info.size = mib << 20
            out.write(info.tobuf(tarfile.GNU_FORMAT))
            for _ in range(mib):
                out.write(bytes(1 << 20))


def gif_bomb(path: Path, side: int, frames: int, first: int) -> None:
    """A black animation whose first frame has `first` x `first` pixels and each other one `side` x `side`."""

    def parts(side: int) -> tuple[bytes, bytes]:
        buffer = io.BytesIO()
        Image.new("L", (side, side)).save(buffer, "gif")
        data = buffer.getvalue()
        end = 13 + 3 * (2 << (data[10] & 7))  # of the screen and its palette
        return data[:end], data[end:-1]

    head, one = parts(first)
    path.write_bytes(head + one + parts(side)[1] * (frames - 1) + b";")


def npz_bomb(path: Path, rows: int) -> None:
    """An .npz of `rows` black images of a megabyte each."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("images.npy", "w") as file,
    ):
        head = {"descr": "|u1", "fortran_order": False, "shape": (rows, 1000, 1000)}
        np.lib.format.write_array_header_1_0(file, head)
        for _ in range(rows):
            file.write(bytes(10**6))


def npy_bomb(path: Path) -> None:
    """One image of 8192 x 8192 float64 colours, 1.6 GB of zeros of which the disk keeps nothing."""
    with open(path, "wb") as file:
        head = {"descr": "<f8", "fortran_order": False, "shape": (1, 8192, 8192, 3)}
        np.lib.format.write_array_header_1_0(file, head)
        file.truncate(file.tell() + 8192 * 8192 * 3 * 8)
