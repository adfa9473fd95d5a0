"""Images seen through a declared operator before they arrived give the rows that our own corruption gives."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from doubles import png
from PIL import Image

from pipeline import graph
from pipeline.data.declared import Declared
from pipeline.data.images import Resize
from pipeline.data.reader import InMemory
from pipeline.data.similar import cosines
from pipeline.data.sources import source_of
from pipeline.graph import step
from pipeline.physics.blur import GaussianBlur
from pipeline.physics.boxes import FixedBox
from pipeline.physics.conditions import Symmetric
from pipeline.physics.corruption import Clean, Corruption, Noisy, Through
from pipeline.physics.luminance import Luminance
from pipeline.physics.masks import FixedMask
from pipeline.physics.sensors import Measured, Poisson
from pipeline.physics.views import Crop, Pool
from pipeline.physics.watermark import Watermark
from pipeline.store import Store
from stages.census import Census
from stages.conditions import Worsen
from stages.corrupt import Corrupt, Part, load
from stages.ingest import Ingest
from stages.sets import Stored

SHAPE, GREY = (3, 8, 8), (1, 8, 8)
LOGO = Watermark(alpha=((0.25, 0.5), (0.95, 0.0)), colour=(((1.0, 0.5), (-1.0, 0.25)),) * 3, top=1, left=2, dilation=0)
CASES: dict[str, Corruption] = {
    "crop": Through(Crop(SHAPE, 1, 2, 5, 4)),
    "pool": Through(Pool(SHAPE, 2)),
    "half a pool, noisy": Through(0.5 * Pool(SHAPE, 2), noise=0.05),
    "pool, noisy": Through(Pool(SHAPE, 2), noise=0.1),
    "blur": Through(GaussianBlur(SHAPE, 1.5)),
    "luminance": Through(Luminance(SHAPE)),
    "box": FixedBox(2, 3, 4, 4),
    "mask": FixedMask(("01101101",) * 7 + ("11111111",)),
    "noise": Noisy(noise=0.1),
    "photons": Measured(Through(0.5 * Pool(SHAPE, 2)), Poisson(400.0)),
    "watermark": LOGO,
}


@pytest.fixture(scope="module")
def smooth() -> np.ndarray:
    """60 different images (60, 8, 8, 3) uint8 with a spectrum like that of photographs, dark and bright enough."""
    k, f = np.arange(8), np.random.default_rng(0).standard_normal((60, 3, 8, 8))
    x = cosines(8, 8).T @ (f / (1 + np.hypot(k[:, None], k)) ** 2) @ cosines(8, 8)
    return np.clip(127.5 + 40 * x / x.std(), 30, 225).astype(np.uint8).transpose(0, 2, 3, 1)


@pytest.fixture
def full(tmp_path, smooth):
    """The step that ingests them."""
    np.savez(tmp_path / "x.npz", images=smooth, labels=np.arange(60))
    return step(Ingest(source_of(str(tmp_path / "x.npz")), SHAPE), "full")


def exported(rows, corruption: Corruption, path, white: float) -> str:
    """A set's rows as anybody would publish them: as pictures, in which white is white."""
    drawn = corruption.over(torch.zeros(1, *SHAPE)) if isinstance(corruption, Watermark) else 0
    shown = rows.x() / white + drawn
    u = ((shown + 1) * 127.5).round().clamp(0, 255).byte().numpy().transpose(0, 2, 3, 1)
    pictures = [png(one[..., 0] if one.shape[-1] == 1 else one) for one in u]
    pq.write_table(pa.table({"id": rows.ids, "image": pictures, "label": rows.label}), path)
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_corrupted_exported_and_declared_is_corrupted(case, here, full, tmp_path):
    corruption, store = CASES[case], Store(str(tmp_path / "s"))
    ours = step(Corrupt(full, Part(5, 40), corruption), "ours")
    here(ours, store)
    rows = load(store.artifact(ours.address))
    white = 2 if case.startswith("pool") else 1
    source = source_of(exported(rows, corruption, tmp_path / "y.parquet", white))
    theirs = step(Ingest(source, rows.shape, seen_through=Declared(corruption, rows.shape)), "theirs")
    part = step(Corrupt(theirs, Part(0, 30), Clean()), "part")
    here(part, store)
    told = store.artifact(theirs.address).json("dataset.json")
    assert told["damage"] == ["operator"]
    again = load(store.artifact(theirs.address))
    assert (again.ids, again.label.tolist(), again.operator) == (rows.ids, rows.label.tolist(), rows.operator)
    rounding = white / 255 + 1e-3  # half a step of 8 bits, and half precision
    seen = torch.from_numpy(Declared(corruption, rows.shape).seen)
    if rows.images.dtype == np.uint8:
        assert again.images.tobytes() == rows.images.tobytes()
    else:
        torch.testing.assert_close(again.x() * seen, rows.x().clamp(-white, white) * seen, rtol=0, atol=rounding)
    assert (again.x() * ~seen).abs().max() <= 1 / 255 + 1e-6
    batches = [
        next(InMemory(load(store.artifact(made.address))).batches(8, 0)) for made in (ours, theirs)
    ]  # what training sees
    torch.testing.assert_close(batches[1].x() * seen, batches[0].x().clamp(-white, white) * seen, rtol=0, atol=rounding)
    for made in (theirs, part, step(Worsen(theirs, Symmetric(0.5, 60)), "told")):
        here(made, store)
        one, two = (Stored("x", made).damage(store, rows.shape, frozenset()) for made in (ours, made))
        assert one == two
        assert one.sigmas(rows) == pytest.approx(two.sigmas(again), rel=0.05)
        assert Stored("x", made).originals(store, rows.ids[:2]) is None
    few = load(store.artifact(part.address))
    assert few.images.tobytes() == again.take([again.ids.index(i) for i in few.ids]).images.tobytes()


def test_the_census_recognises_the_same_images_through_a_declared_operator(here, full, tmp_path):
    store = Store(str(tmp_path / "s"))
    corruption = Through(Pool(SHAPE, 2), noise=0.05)
    clean, ours = step(Corrupt(full, Part(0, 30), Clean())), step(Corrupt(full, Part(22, 30), corruption), "ours")
    here(ours, store)
    rows = load(store.artifact(ours.address))
    source = source_of(exported(rows, corruption, tmp_path / "y.parquet", 2))
    theirs = step(Ingest(source, rows.shape, seen_through=Declared(corruption, rows.shape)))
    told = []
    for damaged in (ours, theirs):
        census = step(Census((Stored("clean", clean), Stored("damaged", damaged))))
        here(census, store)
        told.append(store.artifact(census.address).json("census.json"))
    for one in told:
        assert one["between"][0]["through the damage"]["copies"] == 8
        assert one["sets"]["damaged"]["noise"]["declared"] == pytest.approx(0.05)
    one, two = (said["sets"]["damaged"]["observed share"] for said in told)
    assert one == two
    assert one["mean"] == pytest.approx(0.25, abs=0.03)


def test_what_lies_under_a_declared_mask_is_forgotten(here, tmp_path, smooth):
    np.savez(tmp_path / "x.npz", images=smooth[..., 0], sigma=np.linspace(0.1, 0.2, 60, dtype=np.float32))
    mask = FixedMask(("00111111",) * 8)
    made = step(Ingest(source_of(str(tmp_path / "x.npz")), GREY, seen_through=Declared(mask, GREY)))
    store = Store(str(tmp_path / "s"))
    here(made, store)
    rows = load(store.artifact(made.address))
    assert (rows.images[..., :2] == 128).all()
    np.testing.assert_array_equal(rows.images[:, 0, :, 2:], smooth[..., 2:, 0])
    assert store.artifact(made.address).json("dataset.json")["damage"] == ["operator", "sigma"]
    sigmas = Stored("x", made).damage(store, GREY, frozenset(["sigma"])).sigmas(rows)
    np.testing.assert_allclose(sigmas, np.linspace(0.1, 0.2, 60), rtol=1e-6)
    with pytest.raises(graph.StepFailed, match=r"arrived already damaged \(operator, sigma\)"):
        here(step(Corrupt(made, Part(), Noisy(noise=0.1))), store)


def test_a_mask_is_read_from_a_picture(tmp_path):
    Image.fromarray(np.array([[0, 255], [200, 20]], np.uint8)).save(tmp_path / "m.png")
    assert FixedMask.read(tmp_path / "m.png") == FixedMask(("01", "10"))


POOL = {"is": "pipeline.physics.views.Pool", "shape": [3, 8, 8], "size": 2}


@pytest.fixture
def small(tmp_path, smooth) -> str:
    """The images four times smaller, as a parquet file of 4x4 pixels."""
    means = smooth.reshape(60, 4, 2, 4, 2, 3).mean((2, 4)).round().astype(np.uint8)
    pq.write_table(pa.table({"image": [png(u) for u in means]}), tmp_path / "small.parquet")
    return "small.parquet"


def test_it_is_declared_on_the_command_line_and_in_a_file(alone, small, tmp_path):
    said = alone("run", "corrupted", "--data", small, "--seen-through", json.dumps(POOL), "--json")
    assert said.code == 0, said.err
    assert said.json["metrics"] == {"rows": 60, "observed": pytest.approx(0.25, abs=0.03), "noise_stated": 0}
    page = (tmp_path / said.json["report"]).read_text()
    assert "pseudo-inverse" in page
    assert "the original" not in page
    store = Store("runs")
    rows = load(store.artifact(store.refs()["corrupted/data"]))
    assert rows.images.dtype == np.float16
    assert 1 < rows.x().abs().max() <= 2, "block sums over the side, of images in [-1, 1]"
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"data": small, "seen_through": POOL}))
    assert alone("plan", "corrupted", "--config", "mine.yaml", "--json").json["target"] == said.json["target"]
    noisy = {"is": "pipeline.physics.corruption.Through", "map": POOL, "noise": 0.1}
    words = ("--data", small, "--seen-through", json.dumps(noisy), "--set", "seen_through.noise=0")
    assert alone("plan", "corrupted", *words, "--json").json["target"] == said.json["target"]


@pytest.mark.parametrize(
    ("option", "value", "parts"),
    [
        ("--seen-through", json.dumps(POOL | {"shape": [3, 16, 16]}), ("are (3, 4, 4)", "Through shows (3, 8, 8)")),
        ("--seen-through", "{is: pipeline.physics.masks.PixelMask, p: 0.5}", ("PixelMask draws", "a mask beside each")),
        ("--seen-through", "{is: pipeline.physics.masks.FixedMask, lines: ['01']}", ("FixedMask is 1 x 2",)),
        ("--seen-through", "{is: pipeline.physics.masks.FixedMask, lines: ['00']}", ("hides every pixel",)),
        ("--seen-through", "{is: pipeline.physics.masks.FixedMask, lines: ['012']}", ('of "0" and "1"',)),
        ("--seen-through", "{is: os.system}", ("names os.system",)),
        (
            "--seen-through",
            "{is: pipeline.physics.fourier.FourierLines, shape: [3, 4, 4], lines: [[0, 1, 2, 3]]}",
            ("white",),
        ),
        (
            "--seen-through",
            "{is: pipeline.physics.blackbox.BlackBox, filter: {is: pipeline.physics.blackbox.Jpeg, quality: 10}}",
            ("can only be simulated",),
        ),
        ("--corruption", "{is: pipeline.physics.corruption.Noisy, noise: 0.1}", ("leave out corruption",)),
        ("--size", "8", ("(3, 8, 8) and Through shows (3, 4, 4)",)),
    ],
)
def test_what_cannot_be_declared_is_one_sentence(alone, small, option, value, parts):
    words = [] if option == "--seen-through" else ["--seen-through", json.dumps(POOL)]
    alone("run", "corrupted", "--data", small, *words, option, value).refused(*parts)


def test_images_of_another_size_or_with_masks_are_refused_at_ingest(here, full, tmp_path, smooth):
    store = Store(str(tmp_path / "s"))
    table = {"image": [png(u) for u in smooth[:3]], "mask": [png(np.full((8, 8), 255, np.uint8))] * 3}
    pq.write_table(pa.table(table), tmp_path / "m.parquet")
    stage = Ingest(source_of(str(tmp_path / "m.parquet")), SHAPE, seen_through=Declared(Noisy(noise=0.1), SHAPE))
    with pytest.raises(graph.StepFailed, match="has a mask, and an operator is declared for the whole set"):
        here(step(stage), store)
    stage = Ingest(
        full.stage.source, (3, 4, 4), Resize.STRETCH, seen_through=Declared(Through(Pool(SHAPE, 2)), (3, 4, 4))
    )
    with pytest.raises(graph.StepFailed, match="8x8 pixels, where 4x4 were asked for: resizing"):
        here(step(stage), store)
    with pytest.raises(ValueError, match=r"shape is \(3, 8, 8\) and seen_through is of \(3, 4, 4\)"):
        Ingest(full.stage.source, SHAPE, seen_through=Declared(Through(Pool(SHAPE, 2)), (3, 4, 4)))


def test_a_folder_is_looked_at_through_what_it_is_said_to_have_gone_through(alone, small, smooth, tmp_path):
    """Of the small images 12 show whole ones again, which nobody sees without being told."""
    np.savez(tmp_path / "whole.npz", images=smooth[:12])
    told = alone("data", "whole.npz", "--against", small, "--seen-through", json.dumps(POOL), "--json").json
    (between,) = told["between"]
    assert between["through the damage"]["copies"] == 12
    assert told["sets"][small]["observed share"]["mean"] == pytest.approx(0.25, abs=0.03)
    (between,) = alone("data", "whole.npz", "--against", small, "--json").json["between"]
    assert "through the damage" not in between


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--seen-through", json.dumps(POOL)), ("--against sets went through: name one",)),
        (("--against", "digits", "--seen-through", json.dumps(POOL)), ("are (1, 8, 8) and Through shows (3, 4, 4)",)),
        (("--against", "digits", "--seen-through", "{is: os.system}"), ("names os.system",)),
        (("--against", "digits", "--seen-through", "{"), ("--seen-through", "is not plain YAML")),
    ],
)
def test_what_a_folder_cannot_have_gone_through_is_one_sentence(alone, small, words, parts):
    alone("data", small, *words).refused(*parts)
