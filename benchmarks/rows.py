"""What a row costs on its way to training, in processor time: decoded, packed, damaged, read again.

    PYTHONPATH=. python benchmarks/rows.py --repeats 5

Rows of 256 x 256 in colour, JPEG of quality 90 to begin with, and latents of 4 x 32 x 32 in half precision; one thread,
processor seconds of this process, the same code that `ingest`, `corrupt` and the streamed reader run.
"""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image

from pipeline.data.images import decode
from pipeline.data.manifest import Manifest, name
from pipeline.data.records import Examples
from pipeline.data.shards import write_shard
from pipeline.data.stream import Streamed
from pipeline.physics.corruption import Noisy, corrupt
from pipeline.place import Place

SIDE, ROWS = 256, 512


def main(repeats: int = 5) -> None:
    """Print a line a cost: milliseconds of a processor a row, median (range), and rows a second of one core."""
    torch.set_num_threads(1)
    jpegs = pictures()
    ids = tuple(f"row-{n:06d}" for n in range(ROWS))
    labels = np.full(ROWS, -1)
    with tempfile.TemporaryDirectory() as folder:
        image = Examples(ids, np.stack([decode(j, "x") for j in jpegs]), labels)
        latent = Examples(ids, np.random.default_rng(0).standard_normal((ROWS, 4, 32, 32)).astype(np.float16), labels)
        file = Path(folder) / "one.parquet"
        parts: dict[str, Callable[[], object]] = {
            "decode a JPEG": lambda: [decode(j, "x") for j in jpegs],
            "pack images": lambda: write_shard(file, image),
            "noise on an image": lambda: [noisy(image, n) for n in range(0, ROWS, 16)],
        }
        said = {what: [timed(work) for _ in range(repeats)] for what, work in parts.items()}
        for what, examples in (("read an image", image), ("read a latent", latent)):
            place = shards(Path(folder) / what, examples)
            said[what] = [timed(lambda place=place, k=k: read(place, k)) / 4 for k in range(repeats)]
        said["noise on an image"] = [16 * seconds for seconds in said["noise on an image"]]
        sizes = np.mean([len(j) for j in jpegs]), file.stat().st_size / ROWS
        print(f"a JPEG has {sizes[0]:,.0f} bytes, a packed image {sizes[1]:,.0f}")
    for what, seconds in said.items():
        each = [1e3 * s / ROWS for s in seconds]
        print(
            f"{what:<20} {statistics.median(each):8.3f} ({min(each):.3f} to {max(each):.3f}) ms a row, "
            f"{1e3 / statistics.median(each):10,.0f} rows a second and core"
        )


def pictures() -> list[bytes]:
    """JPEGs of smooth random fields with a little noise, which take about as many bytes as photographs do."""
    generator, made = np.random.default_rng(0), []
    for _ in range(ROWS):
        field = Image.fromarray(generator.integers(0, 256, (24, 24, 3), dtype=np.uint8))
        smooth = np.asarray(field.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).astype(float)
        noisy = (smooth + generator.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8)
        out = io.BytesIO()
        Image.fromarray(noisy).save(out, "JPEG", quality=90)
        made.append(out.getvalue())
    return made


def noisy(rows: Examples, n: int) -> object:
    """One row made noisy, as `corrupt` does, and brought to half precision."""
    x0 = torch.from_numpy(rows.images[n : n + 1]).float() / 127.5 - 1
    return corrupt(Noisy(noise=0.2), x0, [rows.ids[n]], 0)[0].numpy().astype(np.float16)


def shards(folder: Path, rows: Examples) -> Place:
    """Four shards of the same rows, with a manifest."""
    place = Place(str(folder))
    for n in range(4):
        with place.writing(name(n)) as file:
            write_shard(file, rows)
    Manifest.of([ROWS] * 4, rows.images.shape[1:], rows.images.dtype.name).write(place)
    return place


def read(place: Place, seed: int) -> None:
    """Two thousand rows in batches of 64."""
    rows = Streamed(place, Manifest.open(place.at))
    for _ in rows.spans(seed, [(64 * k, 64) for k in range(4 * ROWS // 64)]):
        pass


def timed(what: Callable[[], object]) -> float:
    """Processor seconds of this process, all its threads."""
    start = time.process_time()
    what()
    return time.process_time() - start


if __name__ == "__main__":
    tyro.cli(main)
