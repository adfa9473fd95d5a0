"""What a stage is, and what it is handed when it runs: its place, its inputs, its workers, and whom it reports to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from .artifact import Artifact
from .place import Place
from .scale import Scale

if TYPE_CHECKING:
    from .graph import Step
    from .store import Store


class Enough(Exception):
    """What a tracker raises to say that nobody wants the step any more: training ends, with a checkpoint."""


class Tracker(Protocol):
    """Where a running step reports to; never part of what the step is."""

    def metrics(self, values: Mapping[str, float], at: int) -> None:
        """Scalars at `at` images seen (or rows done). Raises: Enough: they are not wanted any more."""
        ...

    def picture(self, name: str, png: bytes) -> None:
        """A picture for people."""
        ...

    def card(self, name: str, content: Mapping[str, Any]) -> None:
        """A JSON document, e.g. how a number was measured."""
        ...

    def warn(self, text: str) -> None:
        """A sentence that a person was told."""
        ...


@dataclass(frozen=True)
class Context:
    """What a running stage is handed: none of it bears identity."""

    out: Place
    store: Store
    scale: Scale
    tracker: Tracker

    def open(self, need: Step) -> Artifact:
        """The artifact of one of the stage's needs."""
        return self.store.artifact(need.address)


class Stage(ABC):
    """A verb: its fields say what is made, `run` makes it. Bump `version` when `run` changes what it makes."""

    version: ClassVar[int] = 1

    @abstractmethod
    def run(self, at: Context) -> None:
        """Write the artifact's files to `at.out`. May be killed at any point and called again."""

    def check(self, store: Store) -> None:
        """Called before anything runs. Raises: ValueError: what is known by now says that `run` would fail."""
        return

    def suits(self, scale: Scale, store: Store) -> None:
        """Called before anything runs. Raises: ValueError: it cannot be run so wide, as far as is known by now."""
        return
