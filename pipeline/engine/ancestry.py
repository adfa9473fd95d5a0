"""What was made from what, as a picture: one line of boxes a generation, what was there first on top."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pipeline.engine.pictures import as_png, drawing

MANY = 40  # steps from which on those that differ in numbers alone are one box
SWEEPS = 6  # of ordering each line by where its neighbours are
COLOURS = {"data": "#ddcc77", "model": "#88ccee", "other": "#dddddd"}


def ancestry(needs: Mapping[str, Sequence[str]], kinds: Mapping[str, str]) -> bytes:
    """A PNG of steps by their labels; `needs` has the labels that each was made from, `kinds` "data", "model" or else.

    Of more than `MANY` steps those whose labels differ in numbers alone, as seeds do, are one box with an asterisk.
    """
    import networkx as nx

    short = {label: re.sub(r"\d+", "*", label) if len(needs) > MANY else label for label in needs}
    graph = nx.DiGraph()
    graph.add_nodes_from(short.values())
    edges = ((short[need], short[label]) for label, found in needs.items() for need in found if need in short)
    graph.add_edges_from((a, b) for a, b in edges if a != b)
    while not nx.is_directed_acyclic_graph(graph):  # one box for several rounds needs itself
        graph.remove_edge(*nx.find_cycle(graph)[-1][:2])
    rows = [sorted(row) for row in nx.topological_generations(graph)]
    for sweep in range(SWEEPS):
        across = {name: (i + 0.5) / len(row) for row in rows for i, name in enumerate(row)}
        beside = graph.predecessors if sweep % 2 == 0 else graph.successors
        for row in rows:
            row.sort(key=lambda name: _mean([across[other] for other in beside(name)], across[name]))
    place = {name: ((i + 0.5) / len(row), -float(k)) for k, row in enumerate(rows) for i, name in enumerate(row)}
    kind = {short[label]: kinds.get(label, "other") for label in needs}
    drawn = drawing(width=max(7.2, 1.25 * max(map(len, rows))), height=0.9 + 0.62 * len(rows))
    axes = drawn.add_subplot()
    for a, b in graph.edges:
        arrow = {"arrowstyle": "->", "color": "#999999", "shrinkA": 7, "shrinkB": 7, "linewidth": 0.8}
        axes.annotate("", place[b], place[a], arrowprops=arrow)
    for name, (x, y) in place.items():
        box = {"boxstyle": "round,pad=0.3", "facecolor": COLOURS[kind[name]], "edgecolor": "none"}
        axes.annotate(_lines(name), (x, y), ha="center", va="center", fontsize=8, bbox=box)
    axes.set_xlim(0, 1)
    axes.set_ylim(0.5 - len(rows), 0.5)
    axes.set_axis_off()
    return as_png(drawn)


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _lines(label: str) -> str:
    """A label of several parts in two lines; matplotlib would set formulas between dollars."""
    first, slash, rest = label.replace("$", r"\$").partition("/")
    return f"{first}/\n{rest}" if slash and len(label) > 12 else first + slash + rest
