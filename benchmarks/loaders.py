"""Ways to bring the same images to a training loop, each as batches (64, 3, 32, 32) float32 in [-1, 1], shuffled.

Ours read packed rows. The others read PNG files, alone, in WebDataset tars and in MosaicML's shards, with two worker
processes of torch's DataLoader, as their manuals have it; once MosaicML's also reads packed arrays.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline.data.manifest import Manifest, name
from pipeline.data.reader import InMemory, Reader
from pipeline.data.records import Examples
from pipeline.data.shards import read_shard, write_shard
from pipeline.data.stream import Streamed
from pipeline.place import Place

BATCH, SHARD, WORKERS = 64, 4096, 2
Loader = Callable[[int], Iterator[Tensor]]  # seed -> batches


def pictures(count: int) -> np.ndarray:
    """Images (count, 3, 32, 32) uint8, smooth with a little noise: their PNGs are as long as photographs' are."""
    draw = np.random.default_rng(0)
    waves = draw.normal(size=(count, 3, 4, 4)).repeat(8, 2).repeat(8, 3)
    return np.clip(128 + 50 * waves + draw.normal(scale=4, size=waves.shape), 0, 255).astype(np.uint8)


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(file, "png")
    return file.getvalue()


def packed(images: np.ndarray, folder: Path) -> Place:
    """The images as a set of shards."""
    place, counts = Place(str(folder)), []
    for i, start in enumerate(range(0, len(images), SHARD)):
        part = images[start : start + SHARD]
        with place.writing(name(i)) as file:
            write_shard(file, Examples(tuple(map(str, range(start, start + len(part)))), part))
        counts.append(len(part))
    Manifest.of(counts, images.shape[1:], "uint8").write(place)
    return place


def loaders(images: np.ndarray, folder: Path) -> dict[str, Loader]:
    """Every loader whose packages are installed, once its files are written under `folder`."""
    encoded = [png(image) for image in images]
    place = packed(images, folder / "packed")
    manifest = Manifest.open(place.at)
    held = InMemory(Examples.concat([read_shard(place.at(name(i))) for i in manifest.filled().tolist()]))
    made = {"kintsugi streamed": ours(Streamed(place, manifest)), "kintsugi in memory": ours(held)}
    made["torch DataLoader, PNG files"] = torch_files(encoded, folder / "png")
    if find_spec("webdataset"):
        made["webdataset, PNG in tars"] = tars(encoded, folder / "tars")
    if find_spec("streaming"):
        made["MosaicML streaming, PNG"] = mosaic(encoded, folder / "mds", "png")
        made["MosaicML streaming, packed"] = mosaic(list(images), folder / "mds-packed", "ndarray:uint8:3,32,32")
    return made


def ours(reader: Reader) -> Loader:
    return lambda seed: (rows.x() for rows in reader.batches(BATCH, seed))


def as_x(batch: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(batch).astype(np.float32)).div_(127.5).sub_(1)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).transpose(2, 0, 1)


def endless(make: Callable[[int], Iterator[Tensor]]) -> Loader:
    def stream(seed: int) -> Iterator[Tensor]:
        while True:
            yield from make(seed)
            seed += 1

    return stream


class Files(Dataset):
    """PNG files in a folder."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> np.ndarray:
        with Image.open(self.paths[i]) as image:
            return pixels(image)


def torch_files(encoded: list[bytes], folder: Path) -> Loader:
    folder.mkdir()
    paths = [folder / f"{i:06d}.png" for i in range(len(encoded))]
    for path, data in zip(paths, encoded):
        path.write_bytes(data)
    how = {"batch_size": BATCH, "shuffle": True, "drop_last": True, "num_workers": WORKERS, "collate_fn": as_x}
    loader = DataLoader(Files(paths), persistent_workers=True, **how)
    return endless(lambda seed: iter(loader))


def tars(encoded: list[bytes], folder: Path) -> Loader:
    import webdataset as wds

    folder.mkdir()
    starts = range(0, len(encoded), 1024)
    for i, start in enumerate(starts):
        with tarfile.open(folder / f"{i:06d}.tar", "w") as tar:
            for j, data in enumerate(encoded[start : start + 1024], start):
                member = tarfile.TarInfo(f"{j:06d}.png")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    urls = f"{folder}/{{000000..{len(starts) - 1:06d}}}.tar"
    rows = wds.WebDataset(urls, shardshuffle=100, seed=0).shuffle(1000).decode("pil").to_tuple("png")
    rows = rows.map(lambda row: pixels(row[0])).batched(BATCH, collation_fn=as_x, partial=False)
    loader = DataLoader(rows, batch_size=None, num_workers=WORKERS, persistent_workers=True)
    return endless(lambda seed: iter(loader))


def mosaic(rows: list, folder: Path, kind: str) -> Loader:
    from streaming import MDSWriter, StreamingDataset

    with MDSWriter(out=str(folder), columns={"image": kind}) as out:
        for row in rows:
            out.write({"image": row if kind != "png" else Image.open(io.BytesIO(row))})
    data = StreamingDataset(local=str(folder), shuffle=True, batch_size=BATCH)

    def collate(batch: list[dict]) -> Tensor:
        return as_x([pixels(row["image"]) if kind == "png" else row["image"] for row in batch])

    loader = DataLoader(data, BATCH, num_workers=WORKERS, collate_fn=collate, drop_last=True, persistent_workers=True)
    return endless(lambda seed: iter(loader))
