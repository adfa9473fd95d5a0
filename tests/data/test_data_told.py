"""What is told reaches the network with its image, dropped by (seed, position); what none can hear is refused."""

from __future__ import annotations

from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.backbones import adm, dit, mlp
from pipeline.backbones.captions import Captions
from pipeline.backbones.condition import Condition, Embedded, Labels
from pipeline.data.conditioned import read_column
from pipeline.data.manifest import Manifest, name
from pipeline.data.records import Examples
from pipeline.data.shards import write_shard
from pipeline.diffusion.sample import Heun, samples
from pipeline.graph import Context, step
from pipeline.keys import Key
from pipeline.learning.optim import AdamW
from pipeline.physics.views import Crop
from pipeline.place import Place
from stages.compose import Combine, Seen
from stages.conditioned import cond_of, taught, told
from stages.ingest import Ingest
from stages.joint import Rows, TrainJoint, mixed
from stages.train import Fit, Share, Train, course, opened, reader

N, CLASSES = 2500, 3
OF = step(Ingest(None, (1, 3, 3)))
SMALL = {"width": 8, "multipliers": (1,), "blocks": 1, "attention": (), "embedding": 16}


def stored(place: Place, labels: np.ndarray, images: np.ndarray | None = None) -> SimpleNamespace:
    """What an artifact is to a reader, of two shards; captions and embeddings say the labels again."""
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 1, 3, 3), dtype=np.uint8)
    pixels, half = pixels if images is None else images, len(labels) // 2 - 100
    for i, rows in enumerate((range(half), range(half, len(labels)))):
        told = {"embedding": vectors(labels[rows])}
        part = Examples(
            tuple(f"id-{k}" for k in rows), pixels[rows], labels[rows], told, tuple(map(text, labels[rows]))
        )
        with place.writing(name(i)) as file:
            write_shard(file, part)
    Manifest.of((half, len(labels) - half), (1, 3, 3), "uint8").write(place)
    return SimpleNamespace(place=place, file=place.open, address="corrupt/abc")


def text(label: int) -> str:
    return ("a red cat", "a blue dog", "a green bird")[label] if 0 <= label < CLASSES else ""


def vectors(labels: np.ndarray) -> np.ndarray:
    return np.where(labels[:, None] < 0, 0, 0.5 + labels[:, None] % CLASSES * np.arange(4) / 4).astype(np.float32)


KINDS = {"labels": Labels(CLASSES), "captions": Captions(32), "embeddings": Embedded(4)}
LABELS = np.random.default_rng(1).integers(0, CLASSES, N)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return stored(Place(str(tmp_path_factory.mktemp("set"))), LABELS)


def batch(of, start=0, rank=0, world=1) -> list:
    return list(islice(of(start, rank, world), 4))


def made(data, backbone=adm.Config(**SMALL, condition=Labels(CLASSES)), sets=1, **fit):
    also = (Share(OF),) * (sets - 1)
    return course(Train(OF, backbone, Fit(images=64, batch=16, **fit), 3, also), [data] * sets, torch.device("cpu"))


def heard(condition: Condition, labels: np.ndarray) -> torch.Tensor:
    """What a network of this condition should be told of rows with these labels."""
    columns = {"labels": labels, "captions": np.array(list(map(text, labels)), object), "embeddings": vectors(labels)}
    return condition.told(columns[next(name for name, kind in KINDS.items() if kind == condition)])


@pytest.mark.parametrize("sets", [1, 2])
@pytest.mark.parametrize("memory", [0, 1])
@pytest.mark.parametrize("condition", KINDS.values(), ids=KINDS)
def test_every_image_comes_with_what_is_told_of_it_however_it_is_read(data, memory, sets, condition):
    run = made(data, adm.Config(**SMALL, condition=condition), memory=memory, sets=sets)
    for one in batch(run.batches, start=N - 20):
        assert torch.equal(one.cond, heard(condition, LABELS[one.index % N]))
        assert not condition.untold(one.cond).any()


@pytest.mark.parametrize("memory", [0, 1])
def test_labels_are_dropped_alike_by_all_workers_and_after_a_restart(data, memory):
    read = made(data, memory=memory, unconditional=0.4).batches
    alone = batch(read, start=N - 20)
    shares = zip(*(batch(read, start=N - 20, rank=rank, world=4) for rank in range(4)))
    for one, parts in zip(alone, shares, strict=True):
        assert torch.equal(one.cond, torch.cat([part.cond for part in parts]))
        kept = one.cond >= 0
        np.testing.assert_array_equal(one.cond[kept], LABELS[one.index[kept]])
    for one, again in zip(alone[1:], batch(read, start=N - 20 + 16)):
        assert torch.equal(one.cond, again.cond)
    many = torch.cat([one.cond for one in islice(read(0, 0, 1), 300)])
    assert float((many < 0).float().mean()) == pytest.approx(0.4, abs=4 * (0.24 / 4800) ** 0.5)
    other = batch(made(data, memory=memory, unconditional=0.4).batches, start=N - 20 + 1)
    assert not torch.equal(other[0].cond < 0, alone[0].cond < 0), "the draw does not know the position"


def test_nothing_else_changes_and_a_network_without_classes_is_told_nothing(data):
    plain, labelled = made(data, mlp.Config(width=8, blocks=1), unconditional=0.4), made(data, unconditional=0.4)
    for one, other in zip(batch(plain.batches), batch(labelled.batches)):
        assert one.cond is None
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.index, other.index)
    rows = opened(data, 1)
    assert rows.columns == ()
    assert all(one.cond is None for one in batch(reader(rows, Fit(batch=16, unconditional=0.4), 3)))


@pytest.mark.parametrize("backbone", [adm.Config, dit.Config])
def test_the_loss_knows_the_label(data, backbone):
    """Other labels for the same images and noise, and the very first gradients are others."""
    sizes = SMALL if backbone is adm.Config else {"width": 16, "depth": 1, "heads": 2}
    found = []
    for of in (data, data, SimpleNamespace(**vars(data))):
        run = made(of, backbone(**sizes, condition=Labels(CLASSES)))
        if len(found) == 2:
            inner = run.batches
            turned = lambda *at, inner=inner: (  # noqa: E731
                type(b)(b.x, (b.cond + 1) % CLASSES, b.index, b.offset, b.total) for b in inner(*at)
            )
            run.batches = turned
        found.append(torch.cat([p.detach().flatten() for p in run.run().model.parameters()]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize("condition", KINDS.values(), ids=KINDS)
def test_a_row_of_which_nothing_is_told_is_one_that_was_dropped(tmp_path, condition):
    """Training on rows without labels, captions or embeddings is training on rows whose own were dropped."""
    hidden = np.arange(N) % 3 == 0
    some = stored(Place(str(tmp_path)), np.where(hidden, -1, LABELS))
    for one in batch(made(some, adm.Config(**SMALL, condition=condition)).batches):
        dropped = torch.from_numpy(hidden[one.index])
        assert torch.equal(one.cond, condition.without(heard(condition, LABELS[one.index]), dropped))
        assert torch.equal(condition.untold(one.cond), dropped)
        net = adm.Config(**SMALL, condition=condition).build((1, 3, 3), 1, 1)
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        x = one.decoded().x[dropped]
        quiet = net(x, torch.zeros(int(dropped.sum())), one.cond[dropped])
        torch.testing.assert_close(quiet, net(x, torch.zeros(int(dropped.sum())), None))


@pytest.mark.slow
def test_one_network_learns_each_class_and_all_of_them(tmp_path):
    """Class 0 is dark and class 1 bright: asked for either it draws that one, asked for nothing both."""
    images = np.repeat(np.array([40, 215], np.uint8), 400)[:, None, None, None].repeat(9, 1).reshape(-1, 1, 3, 3)
    data = stored(Place(str(tmp_path)), np.repeat([0, 1], 400), images)
    fit = Fit(images=6_400, batch=32, unconditional=0.3, optim=AdamW(lr=1e-2))
    stage = Train(OF, dit.Config(width=16, depth=1, heads=2, patch=(3,), condition=Labels(2)), fit)
    model = course(stage, [data], torch.device("cpu")).run().result()
    told = torch.tensor([0, 1, -1]).repeat_interleave(40)
    drawn = samples(model, Heun(12), (1, 3, 3), range(120), 0, 120, told).flatten(1).mean(1)
    assert (drawn[:40] < 0).float().mean() > 0.95
    assert (drawn[40:80] > 0).float().mean() > 0.95
    assert 0.2 < (drawn[80:] > 0).float().mean() < 0.8


def test_a_joint_network_is_told_them_too(tmp_path):
    kinds, labels = [torch.randn(7, 1, 3, 3), torch.randn(5, 1, 3, 3)], np.arange(12) % 3
    told_of = (Labels(3), labels)
    seen = list(islice(mixed(kinds, [12, 4], 3, 32, 0, 1, told_of, 0.4), 20))
    halves = zip(*(islice(mixed(kinds, [12, 4], 3, 32, rank, 2, told_of, 0.4), 20) for rank in range(2)))
    for one, parts in zip(seen, halves, strict=True):
        kept = one.cond >= 0
        np.testing.assert_array_equal(one.cond[kept], labels[one.index[kept]])
        assert torch.equal(one.cond, torch.cat([part.cond for part in parts]))
    assert 0.3 < torch.cat([one.cond < 0 for one in seen]).float().mean() < 0.5
    assert next(mixed(kinds, [12, 4], 3, 32, 0, 1)).cond is None


def here(tmp_path) -> Context:
    return Context(Place(str(tmp_path / "out")), None, None, None)  # type: ignore[arg-type]


def network(condition: Condition | None) -> adm.Config:
    return adm.Config(**SMALL, condition=condition)


@pytest.mark.parametrize(("at", "label", "says"), [(N - 1, CLASSES, "label 3"), (2000, 7, "label 7")])
def test_a_row_that_cannot_be_told_is_named_before_anything_is_trained(data, tmp_path, at, label, says):
    labels = LABELS.copy()
    labels[at] = label
    bad = stored(Place(str(tmp_path)), labels)
    with pytest.raises(ValueError, match=f"image 'id-{at}' in .* of corrupt/abc has {says} .* from 0 to 2"):
        taught([data, bad], network(Labels(CLASSES)), here(tmp_path))
    assert taught([data], network(Labels(CLASSES)), here(tmp_path)) == {}
    assert taught([bad], network(None), here(tmp_path)) == {}


@pytest.mark.parametrize("condition", KINDS.values(), ids=KINDS)
def test_rows_of_which_nothing_is_told_are_counted_and_all_of_them_are_refused(data, tmp_path, caplog, condition):
    some = stored(Place(str(tmp_path / "some")), np.where(np.arange(N) < 7, -1, LABELS))
    assert taught([data, some], network(condition), here(tmp_path)) == {"untold": 7}
    assert f"7 of {2 * N} images have no" in caplog.text
    none = stored(Place(str(tmp_path / "none")), np.full(N, -1))
    with pytest.raises(ValueError, match=r"no row has a (label|caption|embedding), of which the network is told"):
        taught([none], network(condition), here(tmp_path))


def test_embeddings_of_an_odd_size_are_told_of_and_those_of_another_length_refused(data, tmp_path, caplog):
    taught([data], network(Embedded(4)), here(tmp_path))
    assert "root mean square" not in caplog.text
    taught([data], network(Embedded(4, scale=0.01)), here(tmp_path))
    rms = float(np.sqrt((vectors(LABELS) ** 2).mean()))
    assert f"condition.scale {1 / rms:.3g} would make it 1" in caplog.text
    with pytest.raises(ValueError, match=r"embeddings are \(4,\) and the network's \(5,\)"):
        taught([data], network(Embedded(5)), here(tmp_path))


def test_a_run_refuses_them_before_it_starts_workers(data, tmp_path, monkeypatch):
    def never(*given):
        raise AssertionError("workers were started")

    monkeypatch.setattr("stages.train.train", never)
    monkeypatch.setattr("stages.joint.train", never)
    bad, fit = stored(Place(str(tmp_path)), np.where(LABELS == 1, CLASSES, LABELS)), Fit(images=64, batch=16)
    here = SimpleNamespace(open=lambda step: bad)
    backbone = adm.Config(**SMALL, condition=Labels(CLASSES))
    joint = TrainJoint((Rows(Crop((1, 3, 3), 0, 0, 3, 2), OF),), OF, backbone=backbone, fit=fit)
    for stage in (Train(OF, backbone, fit), joint):
        with pytest.raises(ValueError, match="has label 3"):
            stage.run(here)


def test_what_makes_no_sense_is_refused(tmp_path):
    for wrong in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="within"):
            Fit(unconditional=wrong)
    for condition in KINDS.values():
        with pytest.raises(ValueError, match="combined without conditions"):
            Combine((Seen(Crop((1, 3, 3), 0, 0, 3, 2), step(Train(OF, network(condition)))),), OF)
    (tmp_path / "x").write_bytes(b"PAR1")
    with open(tmp_path / "x", "rb") as file, pytest.raises(ValueError, match="x is not a shard whose label "):
        read_column(file, "x")
    bare = Examples(("a",), np.zeros((1, 1, 3, 3), np.uint8))
    for condition, lacks in ((Captions(8), "caption"), (Embedded(4), "operator.embedding")):
        with pytest.raises(ValueError, match=f"no column '{lacks}'"):
            cond_of(network(condition), bare)


def test_ids_are_found_by_index_however_rows_are_read(data):
    for memory in (0, 1):
        for sets in (1, 2):
            run = made(data, memory=memory, sets=sets)
            one = batch(run.batches)[0]
            assert run.names(one.index.tolist()) == [f"id-{i % N}" for i in one.index.tolist()]


def test_dropping_is_independent_of_the_label():
    labels = torch.arange(4000) % 2
    kept = told(Labels(2), labels.numpy(), 0.5, Key(0), 0, 4000)
    shares = [float((kept[labels == k] < 0).float().mean()) for k in (0, 1)]
    assert shares == pytest.approx([0.5, 0.5], abs=4 * (0.25 / 2000) ** 0.5)
    assert torch.equal(told(Labels(2), labels.numpy(), 0.0, Key(0), 0, 4000), labels)
