"""Sources read the same from S3 (a real server), from memory and through hf://, as from a local folder."""

from __future__ import annotations

import gzip
import importlib
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from PIL import Image

from pipeline.config import from_json, to_json
from pipeline.data.records import Examples
from pipeline.data.sources import Piece, Source, source_of
from stages.ingest import snapshot

REGISTRY = importlib.import_module("fsspec.registry")._registry
U = np.random.default_rng(0).integers(0, 256, (6, 4, 5)).astype(np.uint8)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def collections(root: Path) -> list[str]:
    """The names in `root` of the same images as a folder, a parquet file, archives, an .npz and an idx file."""
    (root / "folder" / "a").mkdir(parents=True)
    (root / "frames" / "film").mkdir(parents=True)
    for i, u in enumerate(U):
        (root / "folder" / "a" / f"{i}.png").write_bytes(png(u))
        (root / "folder" / "a" / f"{i}.txt").write_text(f"caption {i}")
        (root / "frames" / "film" / f"{i}.png").write_bytes(png(u))
    pq.write_table(pa.table({"image": [png(u) for u in U], "label": range(6)}), root / "rows.parquet")
    for name, mode in (("plain.tar", "w"), ("packed.tar.gz", "w:gz")):
        with tarfile.open(root / name, mode) as tar:
            for path in sorted((root / "folder" / "a").iterdir()):
                tar.add(path, f"a/{path.name}")
    np.savez(root / "rows.npz", images=U)
    data = bytes([0, 0, 8, 3]) + struct.pack(">3I", *U.shape) + U.tobytes()
    (root / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(data))
    (root / "train-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 6]) + bytes(range(6)))
    return ["folder", "rows.parquet", "plain.tar", "packed.tar.gz", "rows.npz", "train-images-idx3-ubyte.gz"]


def same(near: Examples, far: Examples) -> None:
    assert (near.ids, near.caption, near.label.tolist()) == (far.ids, far.caption, far.label.tolist())
    np.testing.assert_array_equal(near.images, far.images)
    np.testing.assert_array_equal(near.images[:, 0], U)


def agree(root: Path, base: str, put: Callable[[Path, str], None], ingested: Callable[..., Examples]) -> None:
    """Every collection, ingested from `root` and from a copy under the URL `base`, is the same."""
    names = collections(root)
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        put(file, str(file.relative_to(root)))
    for name in names:
        far = source_of(f"{base}/{name}")
        assert type(far) is type(source_of(str(root / name)))
        same(ingested(source_of(str(root / name)), (1, 4, 5)), ingested(far, (1, 4, 5)))
        assert far.peek() == ("L", (4, 5))
    clips = ingested(source_of(f"{base}/frames", frames=3), (1, 3, 4, 5))
    np.testing.assert_array_equal(clips.images[:, 0].reshape(6, 4, 5), U)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of an empty bucket on a local S3 server, which only the environment points at."""
    pytest.importorskip("s3fs", reason="needs s3fs: pip install s3fs")
    moto = pytest.importorskip("moto.server", reason="needs moto's server: pip install 'moto[server]'")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    fs = fsspec.filesystem("s3", skip_instance_cache=True)
    bucket = f"pictures-{uuid.uuid4().hex[:8]}"
    fs.mkdir(bucket)
    type(fs).clear_instance_cache()
    yield bucket
    type(fs).clear_instance_cache()
    server.stop()


@pytest.mark.slow
def test_s3_gives_what_a_local_folder_gives_and_its_snapshot_follows_the_files(s3, tmp_path: Path, ingested) -> None:
    fs = fsspec.filesystem("s3")
    agree(tmp_path / "near", f"s3://{s3}/set", lambda file, name: fs.put_file(str(file), f"{s3}/set/{name}"), ingested)
    folder = source_of(f"s3://{s3}/set/folder")
    before = snapshot(folder)
    assert before == snapshot(folder) != ""
    fs.pipe_file(f"{s3}/set/folder/a/0.png", png(U[1]))
    assert snapshot(folder) != before


@pytest.mark.slow
def test_s3_refuses_what_is_not_there_and_names_that_lead_elsewhere(s3, refused) -> None:
    with refused(f"s3://{s3}/gone does not exist"):
        source_of(f"s3://{s3}/gone")
    fs = fsspec.filesystem("s3")
    fs.pipe_file(f"{s3}/odd/a\x07.png", png(U[0]))
    with refused("control characters"):
        source_of(f"s3://{s3}/odd")


def test_memory_gives_what_a_local_folder_gives(tmp_path: Path, ingested) -> None:
    fs = fsspec.filesystem("memory")
    agree(tmp_path / "near", "memory://set", lambda file, name: fs.pipe(f"/set/{name}", file.read_bytes()), ingested)


def test_every_source_and_piece_means_the_same_once_written_down_and_read_elsewhere(tmp_path: Path) -> None:
    sources = [source_of(str(tmp_path / "set" / name)) for name in collections(tmp_path / "set")]
    sources.append(source_of(str(tmp_path / "set" / "frames"), frames=3, stride=2))
    rows = {"image": [png(u) for u in U], "clip": ["a"] * 6, "mask": [png(u) for u in U], "text": ["t"] * 6}
    pq.write_table(pa.table(rows), tmp_path / "frames.parquet")
    sources.append(source_of(str(tmp_path / "frames.parquet")))
    pq.write_table(pa.table({name: rows[name] for name in ("image", "clip")}), tmp_path / "film.parquet")
    sources.append(source_of(str(tmp_path / "film.parquet"), frames=2))
    assert len({type(source) for source in sources}) == 7
    for source in sources:
        again = from_json(Source, json.loads(json.dumps(to_json(source, Source))))
        assert again == source
        pieces = again.pieces()
        assert pieces == source.pieces() != []
        for piece in pieces:
            assert Piece(**json.loads(json.dumps(asdict(piece)))) == pickle.loads(pickle.dumps(piece)) == piece
        assert [raw.id for raw in again.read(pieces[0])] == [raw.id for raw in source.read(pieces[0])]


class Stand(LocalFileSystem):
    """The hub's paths, datasets/owner/name/..., on a local folder: the hub itself cannot be reached from the tests."""

    protocol = "hf"
    home = ""

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        path = str(path)
        return f"{cls.home}/{path.removeprefix('hf://').strip('/')}" if not path.startswith(cls.home) else path


def test_a_data_set_of_the_hub_is_its_parquet_files(tmp_path: Path, monkeypatch, ingested) -> None:
    name = "datasets/owner/name/data"
    (tmp_path / name).mkdir(parents=True)
    images = [{"bytes": png(u), "path": f"{i}.png"} for i, u in enumerate(U)]
    for part in range(2):
        rows = {"image": images[3 * part :][:3], "label": [0, 1, -1], "text": ["a", "b", "c"]}
        pq.write_table(pa.table(rows), tmp_path / name / f"train-0000{part}-of-00002.parquet")
    (tmp_path / "datasets" / "owner" / "name" / "README.md").write_text("---\n")
    monkeypatch.setattr(Stand, "home", str(tmp_path))
    monkeypatch.setitem(REGISTRY, "hf", Stand)
    rows = ingested(source_of("hf://datasets/owner/name"), (1, 4, 5))
    np.testing.assert_array_equal(rows.images[:, 0], U)
    assert rows.label.tolist() == [0, 1, -1] * 2
    assert rows.caption == ("a", "b", "c") * 2


READ = """
import sys
from pipeline.data.sources import source_of
source = source_of("hf://datasets/owner/name")
rows = [raw for piece in source.pieces() for raw in source.read(piece)]
print(source.count(), [(raw.id, raw.label) for raw in rows])
try:
    source_of("hf://datasets/owner/none")
except ValueError as error:
    print(error)
"""


@pytest.mark.slow
def test_the_hubs_own_client_reads_a_data_set_over_http(tmp_path: Path) -> None:
    """Through huggingface_hub itself, from a server on loopback: the hub's address is read when it is imported."""
    pytest.importorskip("huggingface_hub")
    home = tmp_path / "datasets/owner/name"
    (home / "data").mkdir(parents=True)
    (home / "README.md").write_text("---\n")
    for part in range(2):
        images = [{"bytes": png(u), "path": "x"} for u in U[3 * part :][:3]]
        name = home / f"data/train-0000{part}-of-00002.parquet"
        pq.write_table(pa.table({"image": images, "label": [0, 1, 2]}), name)
    words = [sys.executable, str(Path(__file__).with_name("hub.py")), str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as hub:
        try:
            assert hub.stdout is not None
            where = {"HF_ENDPOINT": hub.stdout.readline().strip(), "HF_HUB_CACHE": str(tmp_path / "cache")}
            done = subprocess.run(
                [sys.executable, "-c", READ], env=os.environ | where, capture_output=True, text=True, check=False
            )
        finally:
            hub.terminate()
    assert done.returncode == 0, done.stderr
    read, refused = done.stdout.splitlines()
    ids = [(f"data/train-0000{part}-of-00002-{i}", i) for part in range(2) for i in range(3)]
    assert read.endswith(str(ids))
    assert "does not exist, or cannot be reached" in refused


def mixed(put: Callable[[str, bytes], None]) -> None:
    """A data set as the hub has them: two splits in `data/`, a column called "img", several labels."""
    struct = [{"bytes": png(u), "path": f"{i}.png"} for i, u in enumerate(U)]
    for name, part in {
        "train-00000-of-00002": (0, 2),
        "train-00001-of-00002": (2, 4),
        "test-00000-of-00001": (4, 6),
    }.items():
        file = io.BytesIO()
        start, stop = part
        pq.write_table(pa.table({"img": struct[start:stop], "fine_label": list(range(start, stop))}), file)
        put(f"data/{name}.parquet", file.getvalue())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "memory", "s3", "hf"])
def test_a_split_a_glob_and_columns_are_chosen_anywhere(kind, request, tmp_path: Path, monkeypatch, ingested, refused):
    if kind == "hf":
        monkeypatch.setattr(Stand, "home", str(tmp_path))
        monkeypatch.setitem(REGISTRY, "hf", Stand)
    places = {"file": f"file://{tmp_path}/set", "memory": "memory://hub/set", "hf": "hf://datasets/owner/name"}
    base = f"s3://{request.getfixturevalue('s3')}/set" if kind == "s3" else places[kind]
    fs, root = fsspec.url_to_fs(base)

    def put(name: str, data: bytes) -> None:
        fs.makedirs(f"{root}/data", exist_ok=True)
        fs.pipe_file(f"{root}/{name}", data)

    mixed(put)
    with refused(base, "has the splits test, train"):
        source_of(base)
    with refused("'validation'", "it has test, train"):
        source_of(base, split="validation")
    trained = source_of(base, split="train", label="fine_label")
    found = [
        trained,
        *(source_of(f"{base}/{glob}", label="fine_label") for glob in ("**/train-*.parquet", "data/train*")),
    ]
    for source in found:
        rows = ingested(source, (1, 4, 5))
        np.testing.assert_array_equal(rows.images[:, 0], U[:4])
        assert rows.label.tolist() == [0, 1, 2, 3]
        assert from_json(Source, json.loads(json.dumps(to_json(source, Source)))) == source
    assert {text.split("/")[-1] for text in ingested(trained, (1, 4, 5)).ids} == {
        f"train-0000{part}-of-00002-{row}" for part in (0, 1) for row in (0, 1)
    }
    before = snapshot(trained)
    put("data/train-00001-of-00002.parquet", b"")
    fs.invalidate_cache()
    assert snapshot(trained) != before


@pytest.mark.parametrize(
    ("url", "module", "package"),
    [
        ("hf://datasets/owner/name", "huggingface_hub", "huggingface_hub"),
        ("gs://bucket/set", "gcsfs", "gcsfs"),
        ("s3://bucket/set", "s3fs", "s3fs"),
    ],
)
def test_a_missing_package_is_one_command_away(url, module, package, monkeypatch, refused) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(REGISTRY, url.split(":")[0], raising=False)
    with refused(url, f"`pip install {package}`"):
        source_of(url)


def test_videos_without_their_package_are_one_command_away(tmp_path: Path, monkeypatch, refused) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "x.mp4").write_bytes(b"any")
    with refused("x.mp4 is a video", "pip install av"):
        source_of(str(tmp_path / "x.mp4")).pieces()
