"""Steps, what they need, what is missing, and running it; knows no Ray.

A *stage* is a frozen dataclass whose fields say what and whose `run` says how. A *step* is a stage among its inputs:
the fields that are themselves steps are its needs. A step's fingerprint covers its stage and, through them, everything
upstream. `plan` says what is missing and why; `run` makes it, independent steps side by side.
"""

from __future__ import annotations

import dataclasses
import functools
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import config
from .flat import differences
from .identity import canonical, fingerprint
from .keys import Key
from .lease import Lease
from .scale import Scale
from .schedule import Event, Schedule, StepFailed
from .shown import table
from .stage import Context, Enough, Stage
from .store import Store, StoreError, slug


@dataclass(frozen=True, eq=False, repr=False)
class Step:
    """A stage among its inputs.

    `label` is for people, `scale` for the cluster, `after` what is to be done first although it is not read:
    none of the three bears identity.
    """

    stage: Stage
    label: str = ""
    scale: Scale = Scale()
    after: tuple[Step, ...] = ()

    @functools.cached_property
    def fingerprint(self) -> str:
        """20 hexadecimal digits that only this stage with these inputs has."""
        return fingerprint(self.stage)

    @property
    def address(self) -> str:
        """`<stage>/<fingerprint>`: where its artifact lies in a store."""
        return f"{type(self.stage).__name__.lower()}/{self.fingerprint}"

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """The stage's whole tree as JSON values; needs appear as their addresses."""
        return config.to_json(self.stage)

    @functools.cached_property
    def needs(self) -> dict[str, Step]:
        """The steps among the stage's fields, by dotted path."""
        return dict(_steps(self.stage, ""))

    @property
    def before(self) -> tuple[Step, ...]:
        """What is to be done before it starts."""
        return *self.needs.values(), *self.after

    def __config__(self) -> dict[str, str]:
        return {"step": self.address}

    def __repr__(self) -> str:
        return f"{self.label} ({self.address})"

    def _repr_html_(self) -> str:
        """In a notebook: everything that is to be done for it, first things first."""
        return table(["step", "stage", "address"], [[s.label, *s.address.split("/")] for s in walk(self)])


@dataclass(frozen=True, eq=False, repr=False)
class Given(Step):
    """A step that is done, known by its address alone: what is built on it has the fingerprint it always had."""

    stage: Stage = dataclasses.field(init=False, default=None)  # type: ignore[assignment]
    known: str = ""

    @classmethod
    def find(cls, store: Store, name: str) -> Given:
        """The artifact that a ref, an address or the beginning of a fingerprint leads to."""
        address = store.find(name)
        return cls(label=name, known=address)

    @property
    def address(self) -> str:
        return self.known

    @property
    def config(self) -> dict[str, Any]:
        return {}

    @property
    def needs(self) -> dict[str, Step]:
        return {}


def step(stage: Stage, label: str = "", scale: Scale | None = None, after: tuple[Step, ...] = ()) -> Step:
    """Put a stage into a graph.

    Raises:
        TypeError: a field has no canonical form.
        ValueError: its seed has more than 64 bits.
    """
    canonical(stage, type(stage).__name__)
    Key(getattr(stage, "seed", 0))
    return Step(stage, label or type(stage).__name__.lower(), scale or Scale(), after)


def walk(*targets: Step) -> list[Step]:
    """The targets and everything that is to be done before them, each address once, in an order in which it may be."""
    seen: dict[str, Step] = {}
    stack = [*reversed(targets)]
    while stack:
        node = stack[-1]
        fresh = [need for need in node.before if need.address not in seen]
        if fresh:
            stack.extend(reversed(fresh))
        else:
            seen.setdefault(stack.pop().address, node)
    return list(seen.values())


@dataclass(frozen=True)
class Planned:
    """One line of a plan: a step, whether it is done, and if not, why it must run."""

    step: Step
    cached: bool
    why: str


def plan(target: Step, store: Store, recipe: str = "") -> list[Planned]:
    """What a run would do, needs first. `recipe` is whose labels say what a step was the last time.

    Raises: ValueError: a step that is missing could not be run.
    """
    refs = store.refs()
    lines = []
    for node in walk(target):
        cached = store.has(node)
        if not cached:
            node.stage.check(store)
            node.stage.suits(node.scale, store)
        why = "cached" if cached else _why(node, store, refs.get(f"{slug(recipe)}/{slug(node.label)}"))
        lines.append(Planned(node, cached, why))
    return lines


def _why(node: Step, store: Store, last: str | None) -> str:
    try:
        manifest = store.manifest(last) if last and last != node.address else None
    except StoreError:
        return "never made, and what had its name cannot be read"
    if manifest is None:
        return "never made"
    moved = differences(manifest["config"], node.config)
    shown = [f"{path}: {_brief(old)} → {_brief(new)}" for path, old, new in moved[:4]]
    more = f" and {len(moved) - 4} more" if len(moved) > 4 else ""
    return "changed " + ", ".join(shown) + more if moved else "a new version of the stage"


def _brief(value: Any) -> str:
    return "nothing" if value is None else str(value)[:60]


def run(
    target: Step | Sequence[Step],
    store: Store,
    tracker: Callable[[Step], Any],
    capacity: tuple[float, float] = (1, 0),
    listen: Callable[[Event], None] = lambda event: None,
) -> dict[str, int]:
    """Make what is missing, side by side while `capacity` lasts; gives {"run": n, "cached": m}.

    What another run is making is waited for, and cached then; if that run fails or dies, it is made here.

    Args:
        target: the step wanted, or several.
        store: where artifacts are and go.
        tracker: a context manager for a step, giving its `Tracker`.
        capacity: (cores, devices) of the cluster.
        listen: called from this thread with each `Event`.

    Raises:
        StepFailed: a step raised; the steps running beside it were let finish, and are kept.
        ValueError: a step wants more than the capacity.
    """
    nodes = walk(*([target] if isinstance(target, Step) else target))
    missing = {node.address: node for node in nodes if not store.has(node)}
    schedule, made, failure = Schedule(missing.values(), store, capacity), 0, None
    for node in nodes:
        if node.address not in missing:
            listen(Event(node, "cached"))
    results: queue.Queue[tuple[Step, BaseException | None, float]] = queue.Queue()
    while schedule.running or (failure is None and (schedule.todo or schedule.elsewhere)):
        for node, lease in schedule.next() if failure is None else ():
            if lease is None:
                listen(Event(node, "cached"))
            elif isinstance(lease, Exception):
                failure = (node, lease)
                break
            elif lease.ours:
                listen(Event(node, "start"))
                threading.Thread(target=_attempt, args=(node, lease, store, tracker, results), daemon=True).start()
            else:
                listen(Event(node, "waiting", since=lease.since()))
        if not schedule.running and not schedule.elsewhere:
            continue
        try:
            node, error, seconds = results.get(timeout=schedule.patience)
        except queue.Empty:
            continue
        del schedule.running[node.address]
        made += error is None
        ended = "done" if error is None else "stopped" if isinstance(error, Enough) else "failed"
        listen(Event(node, ended, seconds))
        failure = failure or (error and (node, error))
    if failure:
        raise StepFailed(*failure) from failure[1]
    return {"run": made, "cached": len(nodes) - made}


def _attempt(node: Step, lease: Lease, store: Store, tracker: Callable[[Step], Any], results: queue.Queue) -> None:
    start, error = time.monotonic(), None
    try:
        with lease, tracker(node) as reporting, store.writing(node, lease) as out:
            node.stage.run(Context(out, store, node.scale, reporting))
    except BaseException as raised:
        error = raised
    results.put((node, error, time.monotonic() - start))


def _steps(value: Any, path: str) -> Iterator[tuple[str, Step]]:
    if isinstance(value, Step):
        yield path, value
    elif isinstance(value, tuple | list | Mapping):
        for name, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _steps(item, f"{path}.{name}" if path else str(name))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _steps(getattr(value, field.name), f"{path}.{field.name}" if path else field.name)
