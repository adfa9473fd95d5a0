"""Small files that inflate to large ones."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path


def tar_bomb(path: Path, members: int, mib: int, level: int) -> None:
    """A .tar.gz of `members` images that are `mib` MiB of zeros each."""
    with gzip.open(path, "wb", compresslevel=level) as out:
        for i in range(members):
            info = tarfile.TarInfo(f"{i}.png")
            info.size = mib << 20
            out.write(info.tobuf(tarfile.GNU_FORMAT))
            for _ in range(mib):
                out.write(bytes(1 << 20))
