"""Recipes of noisy images: who learns what at which levels, rounds that end by noisy data alone, and toy runs."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass, replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import graph
from pipeline.backbones import mlp, unet
from pipeline.data.bands import cells
from pipeline.data.hiding import check_whole
from pipeline.data.manifest import Manifest, name
from pipeline.data.reader import InMemory
from pipeline.data.records import Examples
from pipeline.data.shards import write_shard
from pipeline.diffusion.denoiser import Network
from pipeline.diffusion.exact import Gaussian
from pipeline.diffusion.levels import LogNormal
from pipeline.diffusion.precond import Preconditioned
from pipeline.diffusion.sample import Ancestral, Heun
from pipeline.graph import Context, Scale, Stage, step
from pipeline.learning.weights import pack
from pipeline.objectives.ambient import Ambient, Weighting
from pipeline.objectives.consistency import Consistent
from pipeline.store import Store
from stages.ambient import Learned, TrainAmbient, course, divided, moments, told_noise, whole
from stages.corrupt import load
from stages.denoise import Denoise, _denoise, denoised
from stages.noisy import Harm
from stages.proximal import Chosen, decide
from stages.recipes.ambient import ambient
from stages.recipes.compare import ROUNDS, Method, compare, wanted
from stages.recipes.memorisation import memorisation
from stages.recipes.sfbd import Begin, sfbd
from stages.rounds import Rounds
from stages.train import Fit
from stages.versus import Trial, Versus

SHAPE, NOISE, ROWS = (1, 2, 2), 0.5, 11
TINY = mlp.Config(width=8, blocks=1)
LOUD = Fit(levels=LogNormal(3.0, 1.2))  # that teaches at levels where sampling no longer goes
IT: Any = SimpleNamespace(address="it")


def of(recipe, **options) -> dict[str, graph.Step]:
    return {node.label: node for node in graph.walk(recipe(**options))}


def noisy_rows(count: int = ROWS) -> Examples:
    y = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(0))
    return Examples.from_x([f"row-{i}" for i in range(count)], y)


class Law(Network):
    """A Gaussian's denoiser as a network."""

    config = SimpleNamespace(shape=SHAPE)

    def __init__(self):
        super().__init__()
        self.here = torch.nn.Parameter(torch.zeros(()))
        self.law = Gaussian(torch.zeros(SHAPE), 0.09 * torch.eye(4))

    def forward(self, x, sigma, cond=None):
        return self.law(x, sigma)


@dataclass(frozen=True)
class Rows(Stage):
    """Noisy rows in three shards."""

    def run(self, at: Context) -> None:
        rows, cuts = noisy_rows(), [0, 5, 6, ROWS]
        for i, (first, end) in enumerate(itertools.pairwise(cuts)):
            with at.out.writing(name(i)) as file:
                write_shard(file, rows.take(range(first, end)))
        Manifest.of(np.diff(cuts), SHAPE, "float16").write(at.out)


@dataclass(frozen=True)
class Model(Stage):
    """A network that nobody trained."""

    def run(self, at: Context) -> None:
        torch.manual_seed(0)
        for file, content in pack(Preconditioned.Config(SHAPE, TINY).build()).items():
            at.out.write(file, content)


@dataclass(frozen=True)
class Said(Stage):
    """A round that was, or was not, the last."""

    over: bool

    def run(self, at: Context) -> None:
        at.out.write("proximal.json", json.dumps({"over": self.over}))


def made(target: graph.Step, store: Store) -> Store:
    for node in graph.walk(target):
        if not store.has(node):
            with store.writing(node) as out:
                node.stage.run(Context(out, store, Scale(), SimpleNamespace(metrics=lambda *a, **k: None)))
    return store


@pytest.fixture
def store(tmp_path, monkeypatch) -> Store:
    def each(function, items, at, load=None):
        held = [] if load is None else [cache(load)]
        return (function(item, *held) for item in items)

    monkeypatch.setattr("pipeline.engine.shards.each", each)
    return Store(str(tmp_path / "store"))


@dataclass(frozen=True)
class Weights(Stage):
    """Weights that can be told apart."""

    number: int

    def run(self, at: Context) -> None:
        at.out.write("denoiser.json", f"described {self.number}")
        at.out.write("weights.safetensors", f"weights {self.number}")


@dataclass(frozen=True)
class Best(Stage):
    """Which of four rounds was the best."""

    round: int

    def run(self, at: Context) -> None:
        at.out.write("proximal.json", json.dumps({"round": self.round, "rounds": 4, "over": True}))


@pytest.mark.parametrize("best", [0, 2])
def test_the_model_of_the_best_round_is_chosen_not_the_last(store, best):
    target = step(Chosen(tuple(step(Weights(k)) for k in range(4)), step(Best(best))))
    found = made(target, store).artifact(target.address)
    assert found.read("denoiser.json") == f"described {best}".encode()
    assert found.read("weights.safetensors") == f"weights {best}".encode()


@pytest.mark.parametrize("sampler", [Heun(steps=8), Ancestral(steps=8)])
def test_every_row_is_restored_once_and_the_same_in_any_batch(store, sampler):
    """T8 and T10: ids, order and bytes know nothing of batches; the path starts at the rows' own noise."""
    found = {}
    for batch in (1, 4, 256):
        target = step(Denoise(step(Model()), step(Rows()), NOISE, sampler, batch=batch))
        found[batch] = load(made(target, store).artifact(target.address))
        assert found[batch].ids == noisy_rows().ids
    assert all(np.allclose(rows.images, found[1].images, atol=1e-3) for rows in found.values())
    assert found[1].images.dtype == np.float16


@pytest.mark.parametrize("sampler", [Heun(steps=8), Ancestral(steps=8)])
def test_a_row_is_restored_by_its_id_and_its_own_noise_wherever_it_stands(sampler):
    """In another order, in other batches."""
    rows = noisy_rows()
    own = np.linspace(0.05, 0.4, len(rows)).astype(np.float32)
    rows = Examples.from_x(rows.ids, rows.x(), operator={"sigma": own})
    data = SimpleNamespace(file=lambda _: None, address="rows")
    turned, found = rows.take(range(len(rows))[::-1]), []
    for stored, batch in ((rows, 256), (turned, 4)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("stages.denoise.read_shard", lambda *_, stored=stored: stored)
            asked = Denoise(step(Model()), step(Rows()), None, sampler, batch=batch)
            found.append(_denoise(asked, data, 0, Law)[0])  # pyright: ignore[reportArgumentType]
    assert found[1].ids == rows.ids[::-1]
    np.testing.assert_allclose(found[1].images[::-1], found[0].images, atol=1e-3)


def test_what_is_restored_is_the_end_of_the_path_from_the_noise():
    """For N(0, v) data the probability flow scales y by √(v/(v + s²))."""
    data = SimpleNamespace(file=lambda _: None, address="rows")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stages.denoise.read_shard", lambda *_: noisy_rows())
        asked = Denoise(step(Model()), step(Rows()), NOISE, Heun(steps=400))
        rows, _ = _denoise(asked, data, 0, Law)  # pyright: ignore[reportArgumentType]
    want = noisy_rows().x() * math.sqrt(0.09 / (0.09 + NOISE**2))
    torch.testing.assert_close(rows.x(), want.clamp(-1, 1), rtol=5e-3, atol=1e-3)


def test_rows_that_do_not_fit_or_come_out_as_nothing_are_named(store):
    target = step(Denoise(step(Model()), step(Rows()), None))
    with pytest.raises(ValueError, match="do not say how much noise"):
        made(target, store)

    loud, sigma = SimpleNamespace(address="rows"), np.full(ROWS, NOISE)
    sigma[2] = 500.0
    rows = replace(noisy_rows(), operator={"sigma": sigma})
    with pytest.raises(ValueError, match=rf"{rows.ids[2]} of rows holds noise of σ = 500, more than the sampler"):
        denoised(Denoise(step(Model()), step(Rows()), None), rows, Law(), loud)  # pyright: ignore

    class Broken(Law):
        def forward(self, x, sigma, cond=None):
            return super().forward(x, sigma) * torch.where(torch.arange(len(x)).view(-1, 1, 1, 1) == 3, math.nan, 1.0)

    data = SimpleNamespace(file=lambda _: None, address="rows")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stages.denoise.read_shard", lambda *_: noisy_rows())
        named = noisy_rows().ids[3]
        with pytest.raises(ValueError, match=rf"not finite, such as {named}:"):
            _denoise(Denoise(step(Model()), step(Rows()), NOISE), data, 0, Broken)  # pyright: ignore


def test_once_it_is_over_nothing_is_restored_or_trained(store):
    model, over = step(Model()), step(Said(True))
    restored = step(Denoise(model, step(Rows()), NOISE, unless=over))
    trained = step(TrainAmbient((Learned(restored),), TINY, start=model, unless=over))
    made(trained, store)
    kept, given = (store.artifact(each.address) for each in (trained, model))
    assert kept.read("weights.safetensors") == given.read("weights.safetensors")
    assert Manifest.open(store.artifact(restored.address).file).rows == 0


def test_rounds_end_with_the_first_that_does_not_come_nearer():
    said = None
    for distance, over, best in [(0.5, False, 0), (0.3, False, 1), (0.4, True, 1), (0.1, True, 1)]:
        said = decide(distance, said, 1)
        assert (said["over"], said["round"]) == (over, best)
    patient = None
    for distance in (0.5, 0.6, 0.4):
        patient = decide(distance, patient, 2)
    assert patient == {"distance": 0.4, "best": 0.4, "round": 2, "rounds": 3, "over": False}


def test_the_spread_of_the_data_is_told_without_the_noise():
    """Of rows N(m, v) with noise s, half of them clean: m and v, not v + s²."""
    generator = torch.Generator().manual_seed(1)
    x0 = 0.2 + 0.3 * torch.randn(4000, *SHAPE, generator=generator)
    y = x0 + 0.5 * torch.randn(x0.shape, generator=generator)
    parts = [
        whole(InMemory(Examples.from_x([f"{s}{i}" for i in range(4000)], x)), Learned(step(Rows()), s), Ambient())
        for x, s in ((x0, 0.0), (y, 0.5))
    ]
    centre, spread = moments(parts)
    assert float(centre.mean()) == pytest.approx(0.2, abs=0.02)
    assert spread == pytest.approx(0.3, abs=0.01)


def test_a_row_that_is_left_out_for_its_noise_does_not_count_in_the_spread_either():
    """The 30 of one row would take 900/401 off the variance of all."""
    sigma = np.append(np.full(400, 0.1), 30.0).astype(np.float32)
    x = 0.3 * torch.randn(401, *SHAPE, generator=torch.Generator().manual_seed(2))
    rows = replace(Examples.from_x([str(i) for i in range(401)], x), operator={"sigma": sigma})
    stage = TrainAmbient((Learned(step(Rows()), None),), TINY, Fit(images=64))
    parts = divided(InMemory(rows), stage.rows[0], SimpleNamespace(address="it"), Ambient())  # pyright: ignore
    made = course(parts, stage, None, torch.device("cpu"))
    assert made.state.model.config.precond.sigma_data == pytest.approx((0.09 - 0.01) ** 0.5, rel=0.05)


def test_rows_with_noise_of_their_own_teach_above_it_in_groups():
    sigma = np.linspace(0.1, 0.8, 40).astype(np.float32)
    rows = Examples(tuple(map(str, range(40))), np.zeros((40, *SHAPE), np.float16), operator={"sigma": sigma})
    found = divided(InMemory(rows), Learned(step(Rows()), None), SimpleNamespace(address="it"), Ambient())  # pyright: ignore
    assert sum(len(part) for part, *_ in found) == 40
    for part, floors, where in found:
        assert np.allclose(floors, [sigma[int(i)] for i in part.ids(range(len(part)))])
        assert where.low == pytest.approx(Ambient().least(float(floors.max())))
    assert sum(where.weight for *_, where in found) == pytest.approx(40)
    assert max(where.low for *_, where in found) == pytest.approx(Ambient().least(0.8))
    assert len(found) >= 8, "a row is held to its own noise or next to it"


def test_a_start_gives_its_weights_and_the_backbone_its_dropout():
    torch.manual_seed(0)
    start = Preconditioned.Config(SHAPE, TINY).build()
    part = [whole(InMemory(noisy_rows()), Learned(step(Rows()), NOISE), Ambient())]
    dropped = TrainAmbient((Learned(step(Rows()), NOISE),), mlp.Config(8, 1, dropout=0.5), Fit(images=64))
    state = course(part, dropped, start, torch.device("cpu")).state
    assert state.model.config.backbone.dropout == 0.5
    for found, given in zip(state.model.state_dict().values(), start.state_dict().values(), strict=True):
        assert torch.equal(found, given)
    other = TrainAmbient((Learned(step(Rows()), NOISE),), mlp.Config(16, 1), Fit(images=64))
    with pytest.raises(ValueError, match="another network"):
        course(part, other, start, torch.device("cpu"))


def test_a_training_of_noisy_rows_alone_says_where_it_ends_but_for_consistency():
    part = [whole(InMemory(noisy_rows()), Learned(step(Rows()), NOISE), Ambient())]
    asked = TrainAmbient((Learned(step(Rows()), NOISE),), TINY, Fit(images=64))
    assert course(part, asked, None, torch.device("cpu")).found == {"least": pytest.approx(Ambient().least(NOISE))}
    consistent = replace(asked, objective=Consistent())
    assert course(part, consistent, None, torch.device("cpu")).found == {}


def test_shifts_of_noisy_rows_are_refused():
    asked = TrainAmbient((Learned(step(Rows()), NOISE),), TINY, Fit(images=64, shift=1))
    with pytest.raises(ValueError, match="repeats edges"):
        course([whole(InMemory(noisy_rows()), asked.rows[0], Ambient())], asked, None, torch.device("cpu"))


def test_sfbd_starts_each_round_where_the_last_one_ended():
    found = of(sfbd, rounds=Rounds(most=3))
    assert found["round/1/restored"].stage.model is found["pretrained"]
    for k in (2, 3):
        assert found[f"round/{k}/restored"].stage.model is found[f"round/{k - 1}"]
        assert found[f"round/{k}"].stage.start is found[f"round/{k - 1}"]
        assert found[f"round/{k}"].stage.unless is found[f"round/{k - 1}/proximal"]
        learned = found[f"round/{k}"].stage.rows
        assert [(each.data.label, each.noise) for each in learned] == [
            ("data/clean", 0.0),
            (f"round/{k}/restored", 0.0),
        ]
    assert "unharmed" not in str(sorted(found)), "nobody has the originals of noisy images"


@pytest.mark.parametrize("stochastic", [False, True])
def test_rounds_restore_along_the_flow_or_by_draws_as_they_are_told(stochastic):
    asked = {node.label: node for node in graph.walk(sfbd(rounds=Rounds(stochastic=stochastic)))}["round/1/restored"]
    assert isinstance(asked.stage.sampler, Ancestral if stochastic else Heun)


def test_what_a_round_learns_from_is_as_its_options_say():
    def lessons(**how):
        rows = of(sfbd, rounds=Rounds(most=1, **how))["round/1"].stage.rows
        return {row.data.label: (row.noise, row.weight, row.below) for row in rows}

    assert lessons(residual=0.125)["round/1/restored"] == (0.125 * 0.2, None, None)
    direct = lessons(direct=True, share=0.2)
    assert direct == {
        "data/clean": (0.0, 0.2, None),
        "round/1/restored": (0.0, 0.4, None),
        "data/noisy": (0.2, 0.4, None),
    }
    apart = lessons(direct=True, only_below=True, cap=4.0)
    assert apart["round/1/restored"][2] == pytest.approx(0.2 * math.sqrt(4 / 3))


def test_ambient_samples_of_noisy_images_alone_end_at_their_noise():
    alone = of(ambient, harm=Harm(clean=0))
    least = 0.2 * math.sqrt(4 / 3)
    assert alone["samples/ambient"].stage.sampler.sigma_min == pytest.approx(least)
    assert alone["evaluate/ambient"].stage.least == pytest.approx(least)
    for harm, more in ((Harm(), {}), (Harm(clean=0), {"consistency": 1.0})):
        assert of(ambient, harm=harm, **more)["samples/ambient"].stage.sampler.sigma_min == Heun().sigma_min
    fading = of(ambient, harm=Harm(clean=0), weighting=Weighting.FADING)
    assert fading["samples/ambient"].stage.sampler.sigma_min == pytest.approx(0.2)


def test_compared_methods_see_equally_many_images_and_the_same_ones():
    """Counted along the steps that train, whatever the recipe says that it has spent."""
    every = ",".join(method.value for method in Method)
    target = compare(methods=every, seeds=2, fit=Fit(images=64_000))
    seen = {}
    for trial in target.stage.trials:
        images, model = 0, trial.evaluation.stage.model
        while model is not None:
            images, model = images + model.stage.fit.images, model.stage.onward or model.stage.start
        seen[trial.method, trial.seed] = images
        assert trial.images == images, "what the table says"
    assert len(seen) == 2 * len(wanted(every))
    for (method, _), images in seen.items():
        if method != "clean_early":
            assert 64_000 - 12 * 64 <= images <= 64_000, method
    labels = {node.label: node for node in graph.walk(target)}
    sources = [labels["seed 0/sfbd/1"].stage.rows[0].data, labels["seed 0/omni"].stage.rows[0].data]
    assert sources[0] is sources[1] or sources[0].address == sources[1].address
    assert len({node.address for node in graph.walk(target) if node.label == "seed 0/pretrained"}) == 1


def test_what_noisy_images_alone_teach_is_measured_and_drawn_no_further_down_whoever_else_has_clean_ones():
    found = {node.label: node.stage for node in graph.walk(compare(seeds=1))}
    least = pytest.approx(0.2 * math.sqrt(4 / 3))
    assert found["seed 0/evaluate/truncated"].least == least
    assert found["seed 0/samples/truncated"].sampler.sigma_min == least
    assert {found[f"seed 0/evaluate/{name}"].least for name in ("ambient", "omni", "sfbd", "clean_only")} == {0.0}


def test_rounds_are_stopped_by_the_noisy_images_and_by_nothing_held_out():
    found = {node.label: node for node in graph.walk(sfbd(rounds=Rounds(most=2)))}
    for k in (0, 1, 2):
        judged, noised = found[f"round/{k}/judged"].stage, found[f"round/{k}/noised"].stage
        assert judged.reference is found["data/noisy"]
        assert noised.corruption.noise == 0.2
        assert judged.drawn[0].samples is found[f"round/{k}/noised"]


def test_where_clean_images_alone_teach_a_network_of_both_has_the_dropout_of_theirs():
    def networks(**more):
        labels = {node.label: node.stage for node in graph.walk(compare(seeds=1, **more)) if "seed 0/" in node.label}
        return {name: labels[f"seed 0/{name}"].backbone for name in ("ambient", "omni", "truncated", "clean_only")}

    few = Harm(noise=0.2)
    found = networks(harm=few)
    assert found["ambient"].dropout_below == (0.2, found["clean_only"].dropout), "its weight fades out at the noise"
    assert found["omni"].dropout_below == (pytest.approx(0.2 * (4 / 3) ** 0.5), found["clean_only"].dropout)
    assert found["truncated"] == replace(found["omni"], dropout_below=None), "no clean image is among its rows"
    mine = {node.label: node for node in graph.walk(ambient(harm=few))}["model"].stage
    assert mine.backbone == found["omni"]
    own = unet.Config(dropout=0.3, dropout_below=(0.4, 0.5))
    assert networks(harm=few, backbone=own)["omni"] == own, "and methods with rounds take it, too"
    for more in ({"harm": Harm(clean=0)}, {"consistency": 1.0}, {"harm": Harm(noisy="digits")}):
        assert {n.label: n for n in graph.walk(ambient(**more))}["model"].stage.backbone.dropout_below is None


def test_what_compare_finds_best_without_clean_images_is_what_sfbd_trains():
    fit, how = Fit(images=96_000), {"stochastic": True, "direct": True, "only_below": True, "cap": 4.0, "stop": False}
    found = {node.label: node for node in graph.walk(compare(harm=Harm(clean=0), seeds=1, rounds=3, fit=fit))}
    third = replace(fit, images=32_000)
    mine = sfbd(harm=Harm(clean=0), begin=Begin.GAUSSIAN, rounds=Rounds(most=3, **how), fit=third)
    labels = {node.label: node for node in graph.walk(mine)}
    assert labels["round/3"].address == found["seed 0/em_omni/3"].address
    assert labels["evaluate/sfbd"].address == found["seed 0/evaluate/em_omni"].address


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Harm(clean=-1), "clean is -1"),
        (lambda: Harm(clean=1), "one image has no spread"),
        (lambda: ambient(harm=Harm(noise=100.0)), "rows with noise 100.0 teach from σ = 115 only"),
        (lambda: compare(harm=Harm(noise=69.5), fit=LOUD), "sampling begins at sampler.sigma_max = 80"),
        (lambda: Harm(noise=0.0), "noise is 0.0"),
        (lambda: sfbd(harm=Harm(noisy="digits")), "noise of its own"),
        (lambda: compare(backbone=TINY), "alike, but for dropout"),
        (lambda: memorisation(harm=Harm(clean=5, count=10)), "clean is 5"),
        (lambda: sfbd(harm=Harm(clean=0)), "needs clean images"),
        (lambda: sfbd(begin=Begin.GAUSSIAN, views=10), "two ways to begin"),
        (lambda: compare(methods="sfbd,omnii"), "no method 'omnii'; did you mean 'omni'"),
        (lambda: compare(methods=" "), "name methods"),
        (lambda: compare(seeds=0), "seeds is 0"),
        (lambda: Rounds(most=0), "give a round"),
        (lambda: Rounds(share=1.0), "share is 1.0"),
        (lambda: Rounds(residual=1.0), "residual is 1.0"),
        (lambda: Rounds(only_below=True), "add direct"),
        (lambda: Learned(step(Rows()), noise=-0.1), "noise is -0.1"),
        (lambda: Learned(step(Rows()), noise=0.5, below=0.4), "cannot teach below"),
        (lambda: TrainAmbient(()), "no rows"),
        (lambda: Denoise(step(Model()), step(Rows()), 0.0), "noise is 0.0"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(build, says):
    with pytest.raises(ValueError, match=says):
        build()


def test_noise_is_a_fifth_unless_images_arrived_with_their_own():
    assert Harm().level == 0.2
    assert Harm(noise=0.5).level == Harm(noisy="x", noise=0.5).level == 0.5
    assert Harm(noisy="x").level is None


def test_rows_that_say_their_own_noise_are_not_told_another():
    own = Manifest.of([3], SHAPE, "float16", {"damage": ["sigma"]})
    told_noise(own, IT, None)
    with pytest.raises(ValueError, match=r"leave out noise, which is 0\.2"):
        told_noise(own, IT, 0.2)
    for more in ({"damage": ["mask", "sigma"]}, {"hides": True}):
        with pytest.raises(ValueError, match="learned as grey"):
            check_whole(Manifest.of([3], SHAPE, "float16", more), IT)


def test_the_clean_images_have_the_share_that_is_asked_for_at_every_level():
    clean, *others = of(sfbd, rounds=Rounds(most=1, share=0.2, direct=True))["round/1"].stage.rows
    where = [whole(InMemory(noisy_rows()), row, Ambient(cap=1.5))[2] for row in (clean, *others)]
    found = cells(where, LogNormal())
    for low in {cell.low for cell in found}:
        band = [cell for cell in found if cell.low == low]
        mine = sum(cell.count for cell in band if cell.set == 0)
        assert mine / sum(cell.count for cell in band) == pytest.approx(0.2, abs=0.002)


def test_every_method_with_rounds_is_one_of_the_methods():
    assert set(ROUNDS) < set(Method)


@dataclass(frozen=True)
class Measured(Stage):
    """What was found of a method."""

    error: float

    def run(self, at: Context) -> None:
        at.out.write("metrics.json", json.dumps({"denoising_error": self.error}))
        numbers = {"frechet": {"value": 2 * self.error}}
        at.out.write("judgement.json", json.dumps({"numbers": dict.fromkeys("abcd", numbers)}))


def test_the_table_has_means_intervals_and_the_way_that_was_gone(store):
    errors = {"a": [1.0, 1.2, 1.1], "b": [0.7, 0.9, 0.6], "c": [0.5, 0.6, 0.4], "d": [2.0, 2.1, 2.2]}
    trials = []
    for method, values in errors.items():
        for seed, value in enumerate(values):
            found = step(Measured(value))
            trials.append(Trial(method, seed, found, step(Rows()), found, 100))
    target = step(Versus("It", tuple(trials), ("d", "a"), "c"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stages.versus._first", lambda data: b"")
        quiet = SimpleNamespace(metrics=lambda *a, **k: None, picture=lambda *a: None)
        for node in graph.walk(target):
            if not store.has(node):
                with store.writing(node) as out:
                    node.stage.run(Context(out, store, Scale(), quiet))
    said = store.artifact(target.address).json("versus.json")
    assert said["b"]["gap_closed"]["seeds"] == pytest.approx([0.6, 0.5, 5 / 7])
    error = said["b"]["denoising_error"]
    half = 4.302652729911275 * np.std([0.7, 0.9, 0.6], ddof=1) / 3**0.5  # Student's t, 2 degrees of freedom
    assert (error["mean"], error["high"]) == pytest.approx((2.2 / 3, 2.2 / 3 + half))
    page = store.artifact(target.address).read("report.html").decode()
    assert "Over 3 seeds b has the lowest held-out denoising error: 0.7333" in page
    with pytest.raises(ValueError, match="same seeds"):
        Versus("It", tuple(trials[1:]), ("a",))
