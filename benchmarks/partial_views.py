"""partial_views on digits over seeds: composed, unregularised, base, its largest parts, clean-only and the ceiling.

    python benchmarks/partial_views.py --seeds 0 1 2
    python benchmarks/partial_views.py --seeds 0 1 2 --network mlp --rounds 0

Every model of a seed sees the same clean images; denoising error is on 411 unseen digits with the same noise for all.
"""

from __future__ import annotations

import contextlib
import io
import json
import statistics
from enum import Enum

import tyro

from stages.__main__ import main as kintsugi


class Network(Enum):
    """The family of every network in a run."""

    UNET = "unet"
    MLP = "mlp"


def _mlp(dropout: float) -> str:
    return f"{{is: pipeline.backbones.mlp.Config, dropout: {dropout}}}"


# Each tuned by hand on splits 100 and 101, by dropout, weight decay, rate and number of images (early stopping).
SETTINGS = {
    Network.UNET: [],
    Network.MLP: [
        f"view_backbone={_mlp(0.3)}",
        f"joint_backbone={_mlp(0.3)}",
        f"completed_backbone={_mlp(0.25)}",
        f"clean_backbone={_mlp(0.5)}",
        f"residual_backbone={_mlp(0.5)}",
        f"ceiling_backbone={_mlp(0.25)}",
        "view_fit.images=192000",
        "view_fit.optim.lr=2e-3",
        "joint_fit.images=256000",
        "joint_fit.optim.lr=2e-3",
        "completed_fit.images=256000",
        "completed_fit.optim.lr=2e-3",
        "clean_fit.images=38400",
        "clean_fit.optim.lr=1e-3",
        "clean_fit.optim.weight_decay=1.0",
        "residual_fit.optim.lr=1e-3",
        "ceiling_fit.images=256000",
        "ceiling_fit.optim.lr=2e-3",
        "ceiling_fit.optim.weight_decay=0.3",
    ],
}
UNREGULARISED = ["residual.output_l2=0", "residual.gate=false", "residual_fit.optim.weight_decay=0"]
COLUMNS = ("composed", "unregularised", "base", "completed", "joint", "clean_only", "ceiling", "ratio", "gap_closed")


def main(
    seeds: tuple[int, ...] = (0, 1, 2), network: Network = Network.UNET, rounds: int = 1, store: str = "runs"
) -> None:
    """Print the table."""
    columns = tuple(name for name in COLUMNS if rounds or name != "completed")
    print("seed  " + "".join(f"{name:>15}" for name in columns), flush=True)
    rows = []
    for seed in seeds:
        regular = _run(seed, rounds, store, SETTINGS[network])
        loose = _run(seed, rounds, store, [*SETTINGS[network], *UNREGULARISED, _undropped(network)])
        row = {name: regular.get(f"denoising_error/{name}", regular.get(name)) for name in columns}
        row["unregularised"] = loose["denoising_error/composed"]
        rows.append(row)
        print(f"{seed:<6}" + "".join(f"{row[name]:15.4f}" for name in columns), flush=True)
    if len(rows) > 1:
        for what, of in (("mean", statistics.mean), ("std", statistics.stdev)):
            print(f"{what:<6}" + "".join(f"{of([row[name] for row in rows]):15.4f}" for name in columns))


def _undropped(network: Network) -> str:
    return f"residual_backbone={_mlp(0)}" if network is Network.MLP else "residual_backbone.dropout=0"


def _run(seed: int, rounds: int, store: str, settings: list[str]) -> dict[str, float]:
    words = ["run", "partial_views", "--seed", str(seed), "--rounds", str(rounds), "--ceiling", "--store", store]
    words.append("--json")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = kintsugi(words + [word for setting in settings for word in ("--set", setting)])
    if code:
        raise SystemExit(code)
    return json.loads(said.getvalue().splitlines()[-1])["metrics"]


if __name__ == "__main__":
    tyro.cli(main, config=(tyro.conf.EnumChoicesFromValues,))
