"""`kintsugi data`: every kind of set is counted, every planted duplicate and leak is found, refusals are sentences."""

from __future__ import annotations

import io
import json
import tarfile
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from doubles import BAD, Silent, png

from pipeline import graph
from pipeline.data.similar import cosines
from pipeline.data.sources import source_of
from pipeline.engine import track
from pipeline.graph import step
from pipeline.physics.corruption import Clean, Noisy, Through
from pipeline.physics.masks import PixelMask
from pipeline.physics.views import Crop, Pool
from pipeline.store import Store
from stages.census import Census
from stages.census_page import summary
from stages.corrupt import Corrupt, Part
from stages.ingest import Ingest
from stages.sets import Stored


class Told(Silent):
    """A tracker that keeps what it is shown."""

    shown: dict[str, Any] = {}  # noqa: RUF012

    def card(self, name: str, content: Any) -> None:
        self.shown[name] = content

    picture = card


@pytest.fixture
def data(toy, here, kintsugi, monkeypatch):
    """The command, without Ray and MLflow."""
    monkeypatch.setattr(track, "Tracking", Told)
    return lambda *words: kintsugi("data", *words)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """120 different images (120, 16, 16) uint8 with a spectrum like that of photographs."""
    k, f = np.arange(16), np.random.default_rng(0).standard_normal((120, 16, 16))
    f[:, 0, 0] = 0
    x = cosines(16, 16).T @ (f / (1 + np.hypot(k[:, None], k)) ** 2) @ cosines(16, 16)
    return np.clip(127.5 + 55 * x / x.std((1, 2), keepdims=True), 0, 255).astype(np.uint8)


def folder(path, images: np.ndarray) -> str:
    path.mkdir(exist_ok=True)
    for i, image in enumerate(images):
        (path / f"{i:03d}.png").write_bytes(png(image))
    return str(path)


def as_npy(path, images):
    np.save(path / "x.npy", images)
    return path / "x.npy"


def as_parquet(path, images):
    table = pa.table({"image": [png(image) for image in images], "label": list(range(len(images)))})
    pq.write_table(table, path / "x.parquet")
    return path / "x.parquet"


def as_tar(path, images):
    with tarfile.open(path / "x.tar", "w") as tar:
        for i, image in enumerate(images):
            info = tarfile.TarInfo(f"{i:03d}.png")
            info.size = len(png(image))
            tar.addfile(info, io.BytesIO(png(image)))
    return path / "x.tar"


def as_folder(path, images):
    return folder(path / "folder", images)


@pytest.mark.parametrize("keep", [as_npy, as_parquet, as_tar, as_folder])
def test_every_kind_of_set_is_counted(data, tmp_path, images, keep):
    name = str(keep(tmp_path, images[:20]))
    said = data(name, "--json", "--out", "page/data.html")
    assert said.code == 0, said.err
    found = said.json["sets"][name]
    assert found["rows"] == 20
    assert found["size"] == {"16x16": 20}
    assert found["unreadable"]["count"] == found["constant"] == 0
    assert found["pixels"]["grey"]["mean"] == pytest.approx((images[:20] / 127.5 - 1).mean(), abs=1e-6)
    assert found["format"] == {"array" if keep is as_npy else "PNG": 20}
    assert found["labelled"] == (20 if keep is as_parquet else 0)
    assert (tmp_path / "page" / "data.html").read_text().count("<img") == 1
    assert '"event": "progress"' in said.err
    assert "nothing else to be wrong" in said.out
    assert data(name, "--json").json["sets"] == said.json["sets"]


def test_what_is_wrong_with_a_folder_is_counted_and_said(data, tmp_path, images):
    name = folder(tmp_path / "pictures", images[:8])
    for bad, (content, _) in BAD.items():
        (tmp_path / "pictures" / bad).write_bytes(content)
    (tmp_path / "pictures" / "again.png").write_bytes(png(images[3]))
    (tmp_path / "pictures" / "white.png").write_bytes(png(np.full((9, 16), 255, np.uint8)))
    said = data(name, "--json")
    found = said.json["sets"][name]
    assert found["rows"] == 10
    assert found["unreadable"]["count"] == len(BAD)
    assert "not finite" not in found
    assert found["constant"] == found["repeated"]["equal"] == 1
    assert found["size"] == {"16x16": 9, "9x16": 1}
    for words in (f"{len(BAD)} of 13 images", "1 image of", "of one colour", "equal to an earlier one"):
        assert words in said.out


def test_images_that_are_in_two_sets_are_a_leak_however_they_are_kept(data, tmp_path, images):
    one, two = str(as_npy(tmp_path, images[:40])), folder(tmp_path / "folder", images[37:60])
    said = data(one, "--against", two, "--json")
    (between,) = said.json["between"]
    assert (between["equal"], between["same ids"], said.json["leaks"]) == (3, 0, 1)
    assert [pair[1:] for pair in between["shown"]] == [[f"x-{37 + i}", f"{i:03d}.png"] for i in range(3)]
    assert f"Leak: 3 images of {two} are in {one} too, equal." in said.out


@pytest.mark.slow
@pytest.mark.parametrize("declared", [True, False])
def test_noisy_copies_of_clean_images_are_a_leak(data, tmp_path, images, declared):
    noise = np.random.default_rng(1).standard_normal((60, 16, 16))
    noisy = np.clip(np.rint(images[40:100] + 127.5 * 0.3 * noise), 0, 255).astype(np.uint8)
    one, two = str(as_npy(tmp_path, images[:60])), folder(tmp_path / "noisy", noisy)
    said = data(one, "--against", two, "--json", *(["--sigma", "0.3"] if declared else []))
    found = said.json["between"][0]["through the damage"]
    assert (found["copies"], found["compared"], found["expected by chance"]) == (20, [60, 60], 0)
    assert said.json["leaks"] == 1
    assert said.json["sets"][two]["noise"]["at most"] == pytest.approx(0.3, rel=0.15)
    assert declared or "declared to be without noise" in said.out
    own = data(one, "--against", folder(tmp_path / "other", noisy[20:]), "--json", "--sigma", "0.3")
    assert own.json["leaks"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("corruption", "seen"),
    [
        (Noisy(noise=0.2), 1),
        (Through(Crop((1, 16, 16), 0, 0, 16, 10)), 10 / 16),
        (Through(Pool((1, 16, 16), 2)), 1 / 4),
        (PixelMask(0.5, noise=0.1), 0.5),
    ],
    ids=["noisy", "cropped", "pooled", "masked"],
)
def test_stored_sets_are_known_by_how_they_were_made(data, here, tmp_path, images, corruption, seen):
    np.save(tmp_path / "x.npy", images)
    full = step(Ingest(source_of(str(tmp_path / "x.npy")), (1, 16, 16)))
    clean, leaked, apart = (
        step(Corrupt(full, part, made))
        for part, made in [(Part(0, 50), Clean()), (Part(44, 40), corruption), (Part(84), corruption)]
    )
    store = Store("runs")
    sets = (Stored("clean", clean), Stored("leaked", leaked), Stored("apart", apart))
    here(step(Census(sets)), store)
    found = store.artifact(step(Census(sets)).address)
    told = found.json("census.json")
    share = told["sets"]["leaked"]["observed share"]["mean"]
    assert share == pytest.approx(seen, abs=0.03)
    assert told["sets"]["leaked"]["noise"]["declared"] == pytest.approx(corruption.noise, abs=1e-6)
    leak, none, _ = told["between"]
    assert "Leak: 6 ids are in both clean and leaked." in told["warnings"]
    assert any(text.startswith("Leak: 6 of 40 images of leaked show one of clean") for text in told["warnings"])
    assert not any("apart" in text and "clean" in text for text in told["warnings"])
    assert (leak["same ids"], leak["through the damage"]["copies"]) == (6, 6)
    assert (none["same ids"], none["through the damage"]["copies"]) == (0, 0)
    assert {"set-0.png", "set-1.png", "set-2.png"} < set(found.names())
    assert "the original" in found.read("report.html").decode()
    assert not any(name.startswith("shards") for name in found.names())
    store.point("mine", {"clean": clean.address, "page": step(Census(sets)).address})
    said = data("mine/clean", "--json")
    assert said.json["sets"]["mine/clean"]["rows"] == 50
    data("mine/page").refused("holds no images")


def test_two_noisy_sets_that_show_the_same_images_are_a_leak(here, tmp_path, images):
    np.save(tmp_path / "x.npy", images)
    full = step(Ingest(source_of(str(tmp_path / "x.npy")), (1, 16, 16)))
    one, two = (step(Corrupt(full, Part(k, 40), Noisy(noise=0.2), seed)) for k, seed in [(0, 1), (33, 2)])
    made = step(Census((Stored("one", one), Stored("two", two))))
    here(made, Store(str(tmp_path / "runs")))
    section = summary(Store(str(tmp_path / "runs")).artifact(made.address))
    (between,) = Store(str(tmp_path / "runs")).artifact(made.address).json("census.json")["between"]
    assert (between["same ids"], between["equal"], between["through the damage"]["copies"]) == (7, 0, 7)
    assert section.texts[0] == "Leak: 7 ids are in both one and two."
    assert [row[:2] for row in section.rows] == [["one", 40], ["two", 40]]
    assert [caption[:4] for caption, _ in section.pictures][-2:] == ["one,", "two,"]


def test_damaged_sets_keep_their_masks_and_sigmas_in_the_census(data, tmp_path, images):
    seen = np.random.default_rng(0).random((60, 16, 16)) < 0.7
    sigma = np.linspace(0.1, 0.4, 60).astype(np.float32)
    z = np.random.default_rng(1).standard_normal(images[:60].shape)
    y = np.clip(images[:60] / 255 + sigma[:, None, None] / 2 * z, 0, 1) * seen
    np.savez(tmp_path / "x.npz", images=np.rint(255 * y).astype(np.uint8), mask=seen, sigma=sigma)
    found = data("x.npz", "--json").json["sets"]["x.npz"]
    assert found["observed share"]["mean"] == pytest.approx(seen.mean(), abs=1e-6)
    assert found["observed share"]["min"] == pytest.approx(seen.mean((1, 2)).min(), abs=1e-6)
    assert found["noise"]["declared"] == pytest.approx(np.sqrt((sigma**2).mean()), rel=1e-4)


@pytest.mark.slow
def test_small_images_are_not_called_noisy_for_their_texture(here, tmp_path):
    full = step(Ingest(source_of("digits"), (1, 8, 8)))
    maps = [Crop((1, 8, 8), 0, 0, 8, 5), Pool((1, 8, 8), 2)]
    parts = [step(Corrupt(full, Part(300 * k, 300), Through(map))) for k, map in enumerate(maps)]
    clean = step(Corrupt(full, Part(600, 300), Clean()))
    made = step(Census((Stored("left", parts[0]), Stored("pooled", parts[1]), Stored("clean", clean))))
    here(made, Store(str(tmp_path / "runs")))
    assert Store(str(tmp_path / "runs")).artifact(made.address).json("census.json")["warnings"] == []


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["nowhere"], ["nowhere is neither a file or folder nor in the store"]),
        (["x.npy", "--against", "x.npy"], ["x.npy is named twice"]),
        (["x.npy", "--sigma", "0"], ["--sigma is 0.0", "above 0"]),
        (["x.npy", "--readers", "0"], ["--readers is 0"]),
        (["nan.npy"], ["nan.npy", "not finite"]),
        (["empty"], ["empty"]),
        (["bad"], ["none of the 1 images can be read", "is not an image"]),
        (["x.npy", "--agianst", "y"], ["--against"]),
        ([], ["a set of images"]),
    ],
)
def test_what_cannot_be_looked_at_is_refused_in_one_sentence(data, tmp_path, images, words, parts):
    np.save(tmp_path / "x.npy", images)
    np.save(tmp_path / "nan.npy", np.full((3, 4, 4), np.nan, np.float32))
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "text.png").write_bytes(BAD["text.png"][0])
    data(*words).refused(*parts)


def test_a_census_needs_sets_under_different_names():
    for sets in ((), (Stored("a", graph.Given()), Stored("a", graph.Given()))):
        with pytest.raises(ValueError, match="different names"):
            Census(sets)


@pytest.mark.ray
@pytest.mark.slow
def test_on_a_cluster_it_says_the_same_for_any_number_of_readers(one_ray, kintsugi, tmp_path, images):
    one, two = str(as_npy(tmp_path, images)), folder(tmp_path / "folder", images[100:])
    said = [kintsugi("data", one, "--against", two, "--json", "--readers", str(n), "--store", f"s{n}") for n in (1, 2)]
    told = [{**line.json, "artifact": None} for line in said]
    assert told[0] == told[1]
    assert json.dumps(told[0]["between"]).count("through") == 0
