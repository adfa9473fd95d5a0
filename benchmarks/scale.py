"""Scale on paper: what n images and g GPUs come to, from costs that were measured and a few that were published.

    PYTHONPATH=. python benchmarks/scale.py
    PYTHONPATH=. python benchmarks/scale.py --batch 8192 --prefixes 16

Prints the tables of docs/scale.md, which says where each assumption is from. Nothing is run: every figure is a product
of the assumptions below, and a ceiling is the rate, in images a second of the whole training, beyond which one resource
does not go. The lowest is the first bottleneck.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import tyro

SETS = (1_000_000, 100_000_000, 1_000_000_000)
GPUS = (1, 8, 64, 256)
GB = 1e9


@dataclass(frozen=True)
class Assumed:
    """Every assumption; times are seconds, sizes bytes, prices US dollars.

    Args:
        image: a packed row of 256 x 256 in colour, uint8 (measured, benchmarks/rows.py).
        noisy: the same in half precision.
        latent: a row of 4 x 32 x 32 in half precision.
        decode: of a processor, for a JPEG of 24 kB (measured).
        pack: for a row (measured).
        damage: for noise on a row (measured).
        read_image: of a processor, for a row of a worker's stream (measured).
        read_latent: the same of a latent (measured).
        threads: that fetch a worker's rows (pipeline/data/stream.py).
        group: rows of a block (pipeline/data/shards.py).
        requests: to an object store for a block (counted on a stand-in: size, footer and data, 1 + 1.4).
        per_prefix: reads a second that S3 promises a prefix.
        prefixes: that a set's shards are spread over.
        rate: images a second of one A100 (published for 8).
        batch: images of a step (published).
        parameters: of the network (assumed: somewhat more than that network has).
        gradient: bytes of a parameter's gradient.
        state: bytes of training state for a parameter (measured).
        save: between two checkpoints (the default).
        stream: a second to the store from one process (assumed).
        machine: GPUs of one.
        network: a second, of a machine (400 Gbit).
        seen: images seen in a training (published).
        evaluations: of the network to restore a row from σ = 0.2 (Heun, 64 levels: `Rounds.steps`).
        forward: of a training step's time, for an evaluation (assumed: a third).
        cores: that prepare a set.
        gpu_hour: (published beside the rate).
        core_hour: (an example of AWS's: 0.68 for a c5.4xlarge of 16).
        month: of a GB in S3 Standard, first 50 TB.
    """

    image: float = 197_390
    noisy: float = 393_216
    latent: float = 8_192
    decode: float = 0.847e-3
    pack: float = 0.468e-3
    damage: float = 3.798e-3
    read_image: float = 1.387e-3
    read_latent: float = 0.043e-3
    threads: int = 4
    group: int = 256
    requests: float = 2.4
    per_prefix: float = 5_500
    prefixes: int = 1
    rate: float = 1_100 / 8
    batch: int = 2_048
    parameters: float = 1e9
    gradient: float = 4
    state: float = 16.02
    save: float = 300
    stream: float = 200e6
    machine: int = 8
    network: float = 50e9
    seen: float = 1_126_400_000
    evaluations: int = 35
    forward: float = 1 / 3
    cores: int = 64
    gpu_hour: float = 2.0
    core_hour: float = 0.68 / 16
    month: float = 0.023


def main(assumed: Assumed = Assumed()) -> None:
    """Print every table, each under its name."""
    for name, lines in tables(assumed).items():
        print(f"{name}\n\n{lines}\n")


def tables(a: Assumed) -> dict[str, str]:
    """Every table as Markdown, by name."""
    return {
        "sets": sets(a),
        "images": ceilings(a, a.image, a.read_image, shared=False),
        "latents": ceilings(a, a.latent, a.read_latent, shared=False),
        "shared": ceilings(a, a.latent, a.read_latent, shared=True),
        "first": first(a),
        "checkpoints": checkpoints(a),
        "rounds": rounds(a),
    }


def limits(a: Assumed, gpus: int, row: float, read: float, shared: bool, held: bool = False) -> dict[str, float]:
    """The ceilings in images a second; `shared`: each worker reads its share alone; `held`: rows are in memory."""
    machines = max(1, math.ceil(gpus / a.machine))
    here = min(gpus, a.machine)
    more = 1 if shared else gpus  # how often the whole training's rows are read
    exchanged = a.gradient * a.parameters * 2 * (machines - 1) / machines
    found = {
        "GPUs": gpus * a.rate,
        "gradients": a.batch / (exchanged / a.network) if exchanged else math.inf,
        "reading": a.threads / read * (gpus if shared else 1),
        "network": a.network / (row * here / gpus if shared else row * here),
        "requests": a.per_prefix * a.prefixes * a.group / (a.requests * more),
    }
    return {name: rate for name, rate in found.items() if not held or name in ("GPUs", "gradients")}


def ceilings(a: Assumed, row: float, read: float, shared: bool) -> str:
    """For every number of GPUs: the ceilings, which is the lowest, what a training takes then."""
    lines = []
    for gpus in GPUS:
        found = limits(a, gpus, row, read, shared)
        least = min(found, key=lambda name: found[name])
        hours = a.seen / found[least] / 3600
        wait = 1 - found[least] / found["GPUs"]
        store = found[least] * row * (1 if shared else gpus) / GB
        cells = [f"{gpus:,}", *(number(rate) for rate in found.values()), f"**{least}**", number(hours)]
        lines.append([*cells, f"{100 * wait:.0f}%", number(hours * gpus * a.gpu_hour), f"{store:,.2f}"])
    head = ["GPUs", "by GPUs", "by gradients", "by reading", "by network", "by requests", "first", "hours"]
    return table([*head, "GPUs wait", "$", "GB/s from the store"], lines)


def sets(a: Assumed) -> str:
    """What a set takes before it is learned from, and while it is kept."""
    lines = []
    for n in SETS:
        ingest, damage = n * (a.decode + a.pack) / 3600, n * (a.damage + a.pack) / 3600
        stored = [n * size / 1e12 for size in (a.image, a.noisy, a.latent)]
        month = 1000 * a.month * (stored[0] + stored[1])
        shards = n / (4 * a.group)
        lines.append(
            [
                f"{n:,}",
                *(f"{size:,.3g}" for size in stored),
                number(month),
                number(ingest),
                number(damage),
                number((ingest + damage) / a.cores),
                number((ingest + damage) * a.core_hour),
                f"{shards * 8 / 1e6:,.3g}",
            ]
        )
    head = ["images", "images TB", "noisy TB", "latents TB", "$ a month", "ingest, core hours", "corrupt, core hours"]
    return table([*head, f"hours on {a.cores} cores", "$ once", "index MB"], lines)


def first(a: Assumed) -> str:
    """The first bottleneck for every size of set and number of GPUs, with as many GB of rows as a worker may hold."""
    lines = []
    for n in SETS:
        for name, row, read in (("images", a.image, a.read_image), ("latents", a.latent, a.read_latent)):
            held = n * row < 16 * 2**30
            cells = []
            for gpus in GPUS:
                found = limits(a, gpus, row, read, shared=False, held=held)
                least = min(found, key=lambda key: found[key])
                training = a.seen / found[least] / 3600
                prepared = n * (a.decode + a.damage + 2 * a.pack) / 3600 / a.cores
                cells.append(f"preparing, then {least}" if prepared > training else least)
            lines.append([f"{n:,} {name}{', in memory' if held else ''}", *cells])
    return table(["set", *(f"{gpus} GPU{'s' if gpus > 1 else ''}" for gpus in GPUS)], lines)


def checkpoints(a: Assumed) -> str:
    """What checkpoints weigh, on the way out and back."""
    size = a.state * a.parameters
    lines = []
    for gpus in GPUS:
        here = min(gpus, a.machine)
        lines.append(
            [
                f"{gpus:,}",
                f"{size / GB:,.1f}",
                f"{size / a.save / 1e6:,.0f}",
                number(size / a.stream),
                f"{gpus * size / GB:,.0f}",
                number(max(here * size / a.network, size / a.stream)),
                number(gpus * a.save / 3600),
            ]
        )
    head = ["GPUs", "GB", "MB/s on average", "s to write", "GB read at a restart", "s to read"]
    return table([*head, "GPU hours lost at most"], lines)


def rounds(a: Assumed) -> str:
    """A round of sfbd: restoring every row, beside a training."""
    each = a.rate / (a.evaluations * a.forward)
    lines = []
    for n in SETS:
        restoring = n / each / 3600
        training = a.seen / a.rate / 3600
        lines.append([f"{n:,}", number(restoring), number(restoring * a.gpu_hour), f"{restoring / training:,.3g}"])
    return table(["rows", "GPU hours to restore them once", "$", "over a training's"], lines)


def number(value: float) -> str:
    """Three digits, or none after the point where there are more."""
    if math.isinf(value):
        return "none"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(head: list[str], lines: list[list[str]]) -> str:
    """A Markdown table."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    main(tyro.cli(Assumed))
