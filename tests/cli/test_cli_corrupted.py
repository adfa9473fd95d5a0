"""The recipe `corrupted`: any corruption from the command line or a file, and what is told of images wrong by ratio."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from doubles import pixels, png
from PIL import Image

from pipeline import config
from pipeline.data.records import Examples
from pipeline.data.shards import write_shard
from pipeline.data.sources import Folder
from pipeline.graph import step
from pipeline.physics.conditions import ClassMap, Swap, Symmetric, TokenRemoval
from pipeline.physics.corruption import Corruption, Noisy
from pipeline.physics.masks import PixelMask
from pipeline.physics.mixture import Mixture
from pipeline.place import Place
from pipeline.store import Store
from stages import conditions
from stages.conditions import Told, Worsen
from stages.corrupt import load
from stages.ingest import Ingest
from stages.recipe import read_yaml

NOISY, MASK = "{is: pipeline.physics.corruption.Noisy, noise: 0.59}", "{is: pipeline.physics.masks.PixelMask, p: 0.5}"
MIXTURE = f"{{is: pipeline.physics.mixture.Mixture, parts: [[0.7, {NOISY}], [0.3, {MASK}]]}}"
JPEG = "{is: pipeline.physics.blackbox.BlackBox, filter: {is: pipeline.physics.blackbox.Jpeg, quality: 10}}"
SWAP = "{is: pipeline.physics.conditions.Swap, ratio: 0.5}"


@pytest.fixture
def photos(tmp_path):
    """40 images of 8x8 in 4 classes, with captions of five words."""
    for i in range(40):
        place = tmp_path / "photos" / f"class-{i % 4}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i}.png").write_bytes(png(pixels(i)))
        (place / f"{i}.txt").write_text(f"one two three four {i}")
    return tmp_path / "photos"


def made(store="runs", name="corrupted/data") -> Examples:
    return load(Store(store).artifact(Store(store).refs()[name]))


def test_a_mixture_and_wrong_labels_from_the_command_line_end_to_end(alone, photos, tmp_path):
    words = ("--data", photos, "--corruption", MIXTURE, "--label-condition", SWAP, "--count", "30", "--labels")
    said = alone("run", "corrupted", *words, "--json")
    assert said.code == 0, said.err
    assert said.json["metrics"]["rows"] == 30
    assert 0.2 < said.json["metrics"]["wrong_labels"] < 0.8
    assert said.json["set"].startswith(f"file://{tmp_path}/runs/objects/worsen/")
    assert f"set: {said.json['set']}\n" in said.out, "it does not say where the set is"
    rows, seen = made(), made(name="corrupted/data/images")
    components = np.bincount(rows.operator["component"][:, 0])
    assert components.sum() == 30
    assert (components > 0).all()
    right = {f"class-{i % 4}/{i}.png": i % 4 for i in range(40)}
    np.testing.assert_array_equal(rows.operator["wrong_label"], rows.label != [right[text] for text in rows.ids])
    assert rows.images.tobytes() == seen.images.tobytes()
    page = (tmp_path / said.json["report"]).read_text()
    assert page.count("data:image/png;base64") == 4  # before, told, changed, and the census
    census = Store("runs").artifact(Store("runs").refs()["corrupted/census"]).json("census.json")["sets"]["corrupted"]
    masked = components[1] / 30
    assert census["observed share"]["mean"] == pytest.approx(1 - masked / 2, abs=0.06), "wrong labels hide the damage"
    assert alone("plan", "corrupted", *words, "--json").json["missing"] == 0


@pytest.mark.slow
def test_a_file_and_the_command_line_name_the_same_set(alone, photos, tmp_path):
    options = {"data": str(photos), "corruption": yaml.safe_load(JPEG), "caption_condition": yaml.safe_load(SWAP)}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(options))
    said = alone("run", "corrupted", "--config", "mine.yaml", "--json")
    assert said.code == 0, said.err
    assert said.json["metrics"]["changed_rms"] > 0.01, "a black box has a picture of what it changes"
    assert {"observed", "noise_rms"}.isdisjoint(said.json["metrics"])
    words = ("--data", photos, "--corruption", JPEG, "--set", f"caption_condition={SWAP}")
    assert alone("plan", "corrupted", *words, "--json").json["target"] == said.json["target"]
    assert set(made().caption) <= {f"one two three four {i}" for i in range(40)}
    later = alone("plan", "corrupted", "--config", "mine.yaml", "--corruption", NOISY, "--json").json
    assert later["target"] != said.json["target"], "the command line is stronger than the file"
    words = ("--config", "mine.yaml", "--corruption", NOISY.replace("0.59", "0.25"))
    quieter = alone("plan", "corrupted", *words, "--json").json
    words = ("--config", "mine.yaml", "--set", "corruption.noise=0.25", "--corruption", NOISY)
    assert alone("plan", "corrupted", *words, "--json").json["target"] == quieter["target"] != later["target"]


def test_what_is_measured_is_what_was_done(alone, photos):
    noisy = alone("run", "corrupted", "--data", photos, "--corruption", NOISY, "--json").json["metrics"]
    assert noisy["noise_stated"] == pytest.approx(0.59, rel=1e-5)
    assert noisy["noise_rms"] == pytest.approx(0.59, rel=4 / np.sqrt(2 * 16 * 64))
    assert noisy["observed"] == pytest.approx(1)
    masked = alone("run", "corrupted", "--data", photos, "--corruption", MASK, "--json").json["metrics"]
    assert masked["noise_rms"] == pytest.approx(0, abs=1e-3)
    assert masked["observed"] == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(16 * 64 / 3))


def test_films_become_corrupted_clips(alone, tmp_path):
    for i in range(2):
        stills = [Image.fromarray(pixels(9 * i + t)) for t in range(9)]
        stills[0].save(tmp_path / f"{i}.gif", save_all=True, append_images=stills[1:], duration=40)
    gamma = "{is: pipeline.physics.blackbox.BlackBox, filter: {is: pipeline.physics.blackbox.Gamma, gamma: 2}}"
    words = ("--frames", "4", "--corruption", gamma)
    said = alone("run", "corrupted", "--data", tmp_path, "--store", tmp_path / "s", *words, "--json")
    assert said.code == 0, said.err
    assert made(str(tmp_path / "s")).images.shape == (4, 3, 4, 8, 8)


@pytest.mark.parametrize(
    ("option", "value", "part"),
    [
        ("--corruption", "{is: pipeline.physics.masks.PixelMask, q: 1}", "there is no 'corruption.q'"),
        ("--corruption", "{is: os.system}", "names os.system"),
        ("--corruption", "{noise: 0.5}", "must say which Corruption it is"),
        ("--corruption", "{is: pipeline.physics.corruption.Noisy, noise: -1}", "noise must be a finite number of at"),
        ("--corruption", "[", "is not plain YAML"),
        ("--label-condition", "{is: pipeline.physics.conditions.TokenRemoval, ratio: 0.1}", "is not for a label"),
        ("--label-condition", "{is: pipeline.physics.conditions.Swap, ratio: 2}", "a share from 0 to 1"),
        ("--corruptoin", NOISY, "did you mean '--corruption'?"),
    ],
)
def test_a_corruption_that_cannot_be_is_one_sentence(alone, photos, option, value, part):
    alone("run", "corrupted", "--data", photos, option, value).refused(part)


def worsened(here, store, photos, condition, told=Told.LABEL, **options):
    source = Folder(str(photos), captions=True)
    full = step(Ingest(source, (1, 8, 8)))
    target = step(Worsen(full, condition, told, **options))
    here(target, store)
    artifact = store.artifact(target.address)
    return load(store.artifact(full.address)), load(artifact), artifact.json("dataset.json")


@pytest.mark.parametrize("condition", [Symmetric(0.5, 4), ClassMap(0.5, (1, 0, 3, 2)), Swap(0.5)], ids=str)
def test_labels_told_wrong_are_marked_and_nothing_else_changes(here, photos, tmp_path, condition):
    before, after, said = worsened(here, Store(str(tmp_path / "s")), photos, condition)
    wrong = after.operator["wrong_label"]
    np.testing.assert_array_equal(wrong, before.label != after.label)
    assert said["wrong_label"] == {"known": 40, "wrong": int(wrong.sum()), "ratio": 0.5}
    assert 8 <= wrong.sum() <= 32
    assert (before.ids, before.caption) == (after.ids, after.caption)
    assert before.images.tobytes() == after.images.tobytes()
    if isinstance(condition, ClassMap):
        assert (after.label[wrong] == before.label[wrong] ^ 1).all()


@pytest.mark.parametrize("condition", [Swap(0.5), TokenRemoval(0.5)], ids=str)
def test_captions_lie_by_id_whatever_the_shards_and_apart_from_labels(here, photos, tmp_path, condition, monkeypatch):
    store = Store(str(tmp_path / "s"))
    before, after, _ = worsened(here, store, photos, condition, Told.CAPTION)
    np.testing.assert_array_equal(after.operator["wrong_caption"], np.array(before.caption) != np.array(after.caption))
    _, labels, _ = worsened(here, store, photos, Swap(0.5))
    assert (labels.operator["wrong_label"] != after.operator["wrong_caption"]).any(), "one lie decides the other"
    monkeypatch.setattr("pipeline.data.folders.PIECE", 7)
    monkeypatch.setattr("pipeline.data.ids.FEWEST", 2)
    monkeypatch.setattr("pipeline.engine.tasks.each", lambda function, items, at: reversed(list(map(function, items))))
    _, other, said = worsened(here, Store(str(tmp_path / "t")), photos, condition, Told.CAPTION)
    assert said["shards"] == 6
    assert other.caption == after.caption, "it depends on how the set is cut into shards"


def test_a_small_pool_bounds_what_is_swapped_with(here, photos, tmp_path):
    _, after, _ = worsened(here, Store(str(tmp_path / "s")), photos, Swap(1.0), Told.CAPTION, pool=3)
    assert len(set(after.caption)) <= 3
    assert after.operator["wrong_caption"].all()


def test_rows_without_a_label_stay_without_and_a_set_without_any_is_refused(here, tmp_path):
    for i in range(6):
        place = tmp_path / "p" / ("c" if i < 3 else "")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i}.png").write_bytes(png(pixels(i)))
    _, after, said = worsened(here, Store(str(tmp_path / "s")), tmp_path / "p", Symmetric(1.0, 4))
    assert sorted(after.label == -1) == [False] * 3 + [True] * 3
    assert said["wrong_label"]["known"] == said["wrong_label"]["wrong"] == 3
    with pytest.raises(RuntimeError, match="no row has a caption that could be told wrong: give captions"):
        worsened(here, Store(str(tmp_path / "s")), tmp_path / "p", TokenRemoval(0.5), Told.CAPTION)


def test_what_was_told_wrong_is_not_told_wrong_again(tmp_path):
    shard = Examples(("a",), pixels(0)[None, None], np.zeros(1, np.int64), {"wrong_label": np.ones(1, bool)})
    place = Place(str(tmp_path))
    with place.writing("shards/000000.parquet") as file:
        write_shard(file, shard)
    stage = Worsen(step(Ingest(Folder("x"), (1, 8, 8))), Symmetric(0.5, 4))

    class Given:
        address, file = "given", staticmethod(place.open)

    with pytest.raises(ValueError, match="told wrong already: take the set before that"):
        conditions._worsen(stage, Given(), [], 0)


def test_a_mixture_from_python_is_that_of_the_command_line():
    said = config.from_json(Corruption, read_yaml(MIXTURE, "x"))
    assert said == Mixture(parts=((0.7, Noisy(noise=0.59)), (0.3, PixelMask(p=0.5))))
