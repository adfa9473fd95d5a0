"""Options of speed change how a step is computed, not what it is; what cannot be done is done another way, and said."""

from __future__ import annotations

import copy
import traceback
from dataclasses import dataclass

import pytest
import torch
from heard import warned
from tiny_backbone import batches, build, same
from torch import nn

from pipeline.backbones import adm, unet
from pipeline.backbones.magnitude import Preserving
from pipeline.backbones.normed import Normed
from pipeline.diffusion.levels import LogNormal
from pipeline.diffusion.precond import EDM, Preconditioned
from pipeline.keys import Key
from pipeline.learning import speed as speeds
from pipeline.learning.checkpoint import Checkpoints
from pipeline.learning.loop import Clock, Every, fit
from pipeline.learning.posthoc import PostHoc
from pipeline.learning.speed import Speed, blocks
from pipeline.learning.state import State
from pipeline.learning.step import Unable, _seed
from pipeline.learning.weighting import LevelWeight
from pipeline.objectives.denoising import Denoising
from pipeline.objectives.objective import Batch


def picture(dropout=0.0):
    torch.manual_seed(0)
    return State.create(Preconditioned.Config((1, 8, 8), unet.Config(width=8, dropout=dropout)).build())


def pictures(start=0, dtype=torch.uint8):
    while True:
        x = torch.randint(0, 256, (16, 1, 8, 8), generator=Key(2).fold(start).torch(), dtype=torch.uint8)
        yield Batch(x if dtype == torch.uint8 else x.float() / 127.5 - 1)
        start += 16


def run(state, steps=4, source=None, **more):
    clock = more.pop("clock", Clock(16 * steps, 16))
    source = pictures(state.images) if source is None else source
    return fit(state, source, Denoising(), LogNormal(), clock, Key(1), **more)


def test_packed_pixels_are_decoded_on_the_device_to_the_same_bits():
    assert same(run(picture()).tensors(), run(picture(), source=pictures(dtype=torch.float32)).tensors())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["channels_last", "checkpointing", "deterministic"])
def test_an_option_leaves_the_result_alone(name):
    plain, fast = run(picture(0.3)), run(picture(0.3), speed=Speed(**{name: True}))
    for a, b in zip(plain.tensors().values(), fast.tensors().values(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)
    assert not torch.are_deterministic_algorithms_enabled()
    assert all("forward" not in vars(module) for module in fast.model.modules()), "the model is not as it was"


def test_deterministic_is_on_while_it_runs_and_as_it_was_afterwards():
    state, seen = picture(), []
    state.model.net.stem.register_forward_hook(lambda *_: seen.append(torch.are_deterministic_algorithms_enabled()))
    run(state, 1, speed=Speed(deterministic=True))
    run(state, 2)
    assert seen == [True, False]


def test_channels_last_is_how_weights_averages_and_moments_lie_and_a_cut_is_exact(tmp_path):
    fast = Speed(channels_last=True)
    whole, first, second = run(picture(), 4, speed=fast), run(picture(), 2, speed=fast), picture()
    weight = whole.model.net.stem.weight
    for tensor in (weight, whole.average.net.stem.weight, whole.optimiser.state[weight]["exp_avg"]):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
    Checkpoints(tmp_path).save(first)
    Checkpoints(tmp_path).restore(second)
    assert same(run(second, speed=fast).tensors(), whole.tensors())


def test_checkpointing_keeps_less_and_computes_blocks_twice():
    counts = []
    for on in (False, True):
        state, calls = picture(), []
        assert len(blocks(state.model.net)) == 3
        for block in state.model.net.down:
            block.conv1.register_forward_hook(lambda *given, calls=calls: calls.append(1))
        run(state, 1, speed=Speed(checkpointing=on))
        counts.append(len(calls))
    assert counts == [2, 4]


@pytest.mark.parametrize("style", [Normed(), Preserving()], ids=["normed", "preserving"])
def test_checkpointing_computes_blocks_in_lists_of_lists_twice_and_changes_no_gradient(style):
    torch.manual_seed(0)
    small = {"width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (), "embedding": 16}
    network = Preconditioned.Config((1, 4, 4), adm.Config(**small, style=style), EDM(0.5)).build()
    for parameter in network.parameters():  # those that start at zero would hide the blocks behind them
        parameter.data += 0.1 * torch.randn_like(parameter)
    state, calls, gradients = State.create(network), [], []
    network.net.down[1][0].conv1.register_forward_hook(lambda *given: calls.append(1))
    x, sigma = torch.randn(3, 1, 4, 4), torch.tensor([0.1, 1.0, 4.0])
    for on in (False, True):
        network.zero_grad()
        with Speed(checkpointing=on).applied(state) as model:
            model.train()(x, sigma).square().sum().backward()
        gradients.append([p.grad.clone() for p in network.parameters()])
        calls.append(0)
    assert calls == [1, 0, 1, 1, 0]
    assert all(bool(gradient.any()) for gradient in gradients[0])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-5)


def test_in_bf16_the_network_alone_is_rounded():
    seen = []
    state = picture()
    state.model.net.stem.register_forward_hook(lambda module, given, out: seen.append((given[0].dtype, out.dtype)))
    before = copy.deepcopy(state.model)
    run(state, 1, speed=Speed(bf16=True))
    assert seen == [(torch.float32, torch.bfloat16)]
    assert {p.dtype for p in state.model.parameters()} == {torch.float32}
    assert before(torch.zeros(1, 1, 8, 8), torch.ones(1)).dtype == torch.float32
    plain = run(picture(), 1)
    assert not same(state.model.state_dict(), plain.model.state_dict())


class Small(nn.Module):
    """A network that has room for so many rows and counts those it was asked for."""

    def __init__(self, module, room):
        super().__init__()
        self.module, self.room, self.asked = module, room, []

    def forward(self, x, *given):
        self.asked.append(len(x))
        out = self.module(x, *given)
        if len(x) > self.room:
            raise torch.OutOfMemoryError("no room")
        return out


def tight(room, clock, state=None, **more):
    state = State.create(build()) if state is None else state
    state.model.net = Small(state.model.net, room)
    return run(state, clock=clock, source=batches(16, state.images), **more)


def test_where_memory_does_not_suffice_fewer_rows_are_taken_and_the_step_is_the_same():
    with warned("taking 4 at a time"):
        state = tight(5, Clock(32, 16))
    assert state.model.net.asked == [16, 8, 4, 4, 4, 4, 4, 4, 4, 4]
    assert state.meta()["micro"] == state.micro == 4
    want = run(State.create(build()), clock=Clock(32, 16, micro=4), source=batches(16))
    for a, b in zip(want.model.parameters(), state.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(state.model.net.module.calls, want.model.net.calls), "a failed attempt left its mark"


def test_what_was_found_to_fit_is_remembered(tmp_path):
    with warned("taking 8"):
        state = run(State.create(Tight(8)), clock=Clock(16, 16), source=batches(16))
    Checkpoints(tmp_path).save(state)
    again = State.create(Tight(8))
    Checkpoints(tmp_path).restore(again)
    assert again.micro == 8
    run(again, clock=Clock(32, 16), source=batches(16, 16))
    assert again.model.net.asked == [8, 8]


def Tight(room):
    model = build()
    model.net = Small(model.net, room)
    return model


def test_one_row_that_does_not_fit_is_an_error_and_so_is_any_in_a_group():
    with warned("at a time"), pytest.raises(torch.OutOfMemoryError, match="no room"):
        tight(0, Clock(32, 16))
    state = State.create(Tight(8))
    with pytest.raises(Unable, match=r"16 rows do not fit: set scale.micro below 16"):
        run(state, clock=Clock(32, 16), source=batches(16), parallel=state.model)


def preserving():
    torch.manual_seed(0)
    small = {"width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (), "embedding": 16}
    config = Preconditioned.Config((1, 8, 8), adm.Config(**small, style=Preserving(), dropout=0.3))
    return State.create(config.build(), posthoc=PostHoc(), weight=LevelWeight())


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: picture(0.3), preserving], ids=["unet", "preserving"])
def test_a_compiled_loss_is_one_graph_for_all_pieces_of_all_steps(monkeypatch, make):
    """Nothing of it is left to Python, and neither a step's key nor a piece's place is compiled in."""
    graphs, compiler = [], torch.compile

    def backend(graph, given):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(speeds.torch, "compile", lambda f, **more: compiler(f, backend=backend, fullgraph=True, **more))
    torch.compiler.reset()
    clock = Clock(64, 16, micro=4)
    fast = run(make(), clock=clock, speed=Speed(compile=True))
    assert len(graphs) == 1
    for a, b in zip(fast.tensors().values(), run(make(), clock=clock).tensors().values(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


@dataclass
class Broken:
    """A compiler that fails when what it compiled is called for the nth time."""

    after: int = 0

    def __call__(self, module, **options):
        assert options == {"dynamic": False}
        left = [self.after]

        def call(*given):
            left[0] -= 1
            if left[0] < 0:
                raise torch._dynamo.exc.Unsupported("no compiler for this")
            return module(*given)

        return call


@pytest.mark.parametrize("after", [0, 1])
def test_a_compiler_that_fails_costs_a_warning(monkeypatch, after):
    monkeypatch.setattr(speeds.torch, "compile", Broken(after))
    with warned(r"compiling failed .*no compiler for this"):
        state = run(State.create(build(dropout=0.3)), source=batches(16), speed=Speed(compile=True))
    assert same(state.tensors(), run(State.create(build(dropout=0.3)), source=batches(16)).tensors())


def test_among_several_a_compiler_that_fails_is_for_all_to_do_without(monkeypatch):
    monkeypatch.setattr(speeds.torch, "compile", Broken())
    state = State.create(build())
    with pytest.raises(Unable, match=r"cannot be compiled \(no compiler for this") as caught:
        run(state, source=batches(16), speed=Speed(compile=True), parallel=state.model)
    assert caught.value.rows is None


def test_an_error_of_the_model_is_no_error_of_the_compiler(monkeypatch):
    monkeypatch.setattr(speeds.torch, "compile", lambda module, **options: module)

    class Wrong(nn.Module):
        def forward(self, *given):
            raise RuntimeError("shapes do not match")

    state = State.create(build())
    state.model.net.layers[0] = Wrong()
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run(state, source=batches(16), speed=Speed(compile=True))


def test_between_two_looks_the_host_reads_nothing_of_the_device(monkeypatch):
    """Every way from a tensor to a number is watched over 20 steps with no hook due."""
    reads = []
    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "cpu", "numpy"):
        inner = getattr(torch.Tensor, name)

        def watched(self, *given, inner=inner, name=name, **named):
            reads.append(name)
            return inner(self, *given, **named)

        monkeypatch.setattr(torch.Tensor, name, watched)
    batch = next(batches(16))
    quiet = []

    def repeat():
        for step in range(21):
            if step == 20:
                quiet.extend(reads)
            if step == 1:
                reads.clear()
            yield batch

    run(State.create(build()), clock=Clock(21 * 16, 16), source=repeat(), hooks=[Every(21 * 16, lambda s, m: None)])
    assert quiet == []
    assert reads, "the watch is blind: the last step is read"


def test_after_its_first_step_a_run_walks_no_modules_and_writes_no_stack_traces(monkeypatch):
    """On a CPU alone `torch.manual_seed` keeps a stack trace for every GPU that it cannot ask."""
    walks, source = [], batches(16)

    def watched():
        for step in range(8):
            if step == 2:
                walks.clear()
            yield next(source)

    for owner, name in ((nn.Module, "named_modules"), (nn.Module, "named_buffers"), (traceback, "format_stack")):
        inner = getattr(owner, name)
        monkeypatch.setattr(
            owner, name, lambda *given, inner=inner, name=name, **named: walks.append(name) or inner(*given, **named)
        )
    state = run(State.create(build(dropout=0.3), posthoc=PostHoc()), 8, watched())
    assert walks == []
    next(state.model.modules())
    assert walks, "the watch is blind"


def test_a_step_is_seeded_as_torch_would():
    drawn = []
    for seed in (lambda: torch.manual_seed(7), lambda: _seed(torch.device("cpu"), 7)):
        seed()
        drawn.append(torch.rand(4))
    assert torch.equal(*drawn)
