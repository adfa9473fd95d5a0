"""A folder as diffusers writes a pipeline or a network, read as if a stranger had made it.

`unet/` (or `transformer/`) has the network, `scheduler/` the schedule that it was trained with, `vae/` the autoencoder,
if it works in latents; a network and its schedule may also lie in the folder itself. Nothing of it is run or fetched:
descriptions are small JSON, weights safetensors of which `foreign.py` reads what the description wants. What a
description leaves out is at the default of the class that it names.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from pipeline import config
from pipeline.backbones import diffusers_exact
from pipeline.backbones.diffusers_model import find, package
from pipeline.diffusion.denoiser import Trained
from pipeline.diffusion.discrete import Betas, Discrete, Predicts
from pipeline.diffusion.latents import Autoencoder
from pipeline.diffusion.precond import Preconditioned
from pipeline.learning.foreign import Plan, Taken, shapes

WEIGHTS = "diffusion_pytorch_model.safetensors"
MOST_JSON = 1 << 20  # bytes
LARGEST = 8192  # pixels of a side
PLACES = {"network": ("unet", "transformer"), "scheduler": ("scheduler",), "vae": ("vae",)}
ONCE = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
E = TypeVar("E", bound=Enum)


def part(folder: Path, what: str) -> Path:
    """Where a folder has its `network` or its `scheduler`: below it, or it is the network itself."""
    return next((folder / name for name in PLACES[what] if (folder / name).is_dir()), folder)


def network(folder: Path, side: int | None = None) -> Preconditioned.Config:
    """The network of a folder and its schedule, for squares of `side` (None: of the size that it was trained for).

    Raises ValueError: a file is missing or no description, or the network is told more than a time step, or is not of
    a discrete variance-preserving schedule.
    """
    place = part(folder, "network")
    told = described(place / "config.json")
    kind = find(_class_of(told, place))
    options = options_of(told, kind)
    if options.get("time_embedding_type") == "fourier":
        raise ValueError(
            f"{place} is told the logarithm of its noise: only networks that are told a time step are taken"
        )
    side = options.get("sample_size") if side is None else side
    if type(side) is not int or not 1 <= side <= LARGEST:
        raise ValueError(
            f"sample_size in {place / 'config.json'} is {side!r:.40}: give a side's pixels, up to {LARGEST}"
        )
    channels = options.get("in_channels")
    if type(channels) is not int or not 1 <= channels <= LARGEST:
        raise ValueError(f"in_channels in {place / 'config.json'} is {channels!r:.40}: give a number of channels")
    backbone = diffusers_exact.Config(kind.__name__, options)
    found = Preconditioned.Config((channels, side, side), backbone, schedule(part(folder, "scheduler")))
    shapes(found)  # built without memory, and tried
    return found


def schedule(place: Path) -> Discrete:
    """The schedule that scheduler_config.json describes, whatever sampler it is for.

    Raises ValueError: it is missing, or no discrete variance-preserving schedule that its β tell.
    """
    path = place / "scheduler_config.json"
    told = described(path)
    name, diffusers = _class_of(told, place), package("a scheduler")
    kind = getattr(diffusers, name, None) if name.isidentifier() else None
    if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
        raise ValueError(f"{path} is of {name!r:.60}, which this diffusers has no scheduler of: install a later one")
    takes = inspect.signature(kind.__init__).parameters
    said = {key: told.get(key, takes[key].default) for key in takes if key != "self"}
    if not {"beta_start", "beta_end", "beta_schedule", "num_train_timesteps"} <= said.keys():
        raise ValueError(f"{path} is of {name}, which has no discrete variance-preserving schedule: name another model")
    for key in ("trained_betas", "rescale_betas_zero_snr"):
        if said.get(key):
            raise ValueError(f"{path} sets {key}, from which σ cannot be told: only schedules given by β are taken")
    predicts = _member(Predicts, said.get("prediction_type", Predicts.EPSILON.value), "prediction_type", path)
    betas = _member(Betas, said["beta_schedule"], "beta_schedule", path)
    numbers = {"beta_start": said["beta_start"], "beta_end": said["beta_end"], "steps": said["num_train_timesteps"]}
    return config.from_json(Discrete, {"predicts": predicts.name, "schedule": betas.name, **numbers}, path.name)


def autoencoder(folder: Path, latent: tuple[int, ...]) -> Autoencoder.Config | None:
    """The autoencoder whose latents have this shape (c, h, w); None: the folder has none.

    Raises ValueError: it is another, or has other latents.
    """
    place = folder / "vae"
    if not place.is_dir():
        if (folder / "vqvae").is_dir():
            raise ValueError(f"{folder} has a quantised autoencoder (vqvae): only AutoencoderKL, in vae, is taken")
        return None
    told = described(place / "config.json")
    if (name := _class_of(told, place)) != "AutoencoderKL":
        raise ValueError(f"{place} has a {name!r:.60}: only AutoencoderKL is taken")
    options = options_of(told, package(name).AutoencoderKL)
    channels = options.get("in_channels", 3)
    if type(channels) is not int or channels != options.get("out_channels", 3):
        raise ValueError(f"{place} makes other images than it takes: name another model")
    factor = Autoencoder.Config((1, 1 << 15, 1 << 15), options).factor
    found = Autoencoder.Config((channels, *(side * factor for side in latent[1:])), options)
    if found.latent != tuple(latent):
        raise ValueError(
            f"{place} makes latents {found.latent} and the network takes {tuple(latent)}: name another model"
        )
    shapes(found)
    return found


def weights(place: Path) -> Path:
    """The safetensors of a network's folder. Raises ValueError: there are none."""
    path = place / WEIGHTS
    if not path.is_file():
        there = "only a pickle (.bin), which can run anything when it is opened" if any(place.glob("*.bin")) else "none"
        raise ValueError(f"{place} has no {WEIGHTS}, {there}: write it by save_pretrained, in one file of safetensors")
    return path


def as_diffusers(network: Trained) -> tuple[Plan, frozenset[str]]:
    """The plan for a file as `save_pretrained` writes it, or wrote it before attention's projections were renamed."""
    plan = {}
    for name, shape in shapes(network).items():
        theirs = name.removeprefix("net.").removeprefix("model.")
        if theirs != name:  # all but the centre, which stays zero
            once = next((theirs.replace(now, then) for now, then in ONCE.items() if now in theirs), None)
            plan[name] = Taken(theirs, shape, once=once)
    return plan, frozenset()


def described(path: Path) -> dict[str, Any]:
    """A small JSON object. Raises ValueError: it is missing or something else."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MOST_JSON + 1)
        if len(text) > MOST_JSON:
            raise ValueError(f"it has over {MOST_JSON} bytes")
        found = json.loads(text)
        if not isinstance(found, dict):
            raise ValueError("it is no object")
    except (OSError, ValueError, RecursionError) as error:
        why = "it is not there" if isinstance(error, FileNotFoundError) else " ".join(str(error).split())
        raise ValueError(
            f"{path} cannot be read ({why}): name a folder as save_pretrained of diffusers writes it"
        ) from error
    return found


def options_of(told: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """Every argument of a class as a description has it, or else as its default is; notes (_...) are left out."""
    takes = inspect.signature(kind.__init__).parameters
    defaults = {name: p.default for name, p in takes.items() if p.default is not p.empty}
    found = defaults | {name: value for name, value in told.items() if not name.startswith("_")}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def _class_of(told: Mapping[str, Any], place: Path) -> str:
    name = told.get("_class_name")
    if not isinstance(name, str):
        raise ValueError(f"{place} does not say of what class it is (_class_name): name a folder written by diffusers")
    return name


def _member(kind: type[E], value: Any, key: str, path: Path) -> E:
    known = {member.value: member for member in kind}
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{key} in {path} is {value!r:.40}: only {', '.join(known)} are taken")
    return known[value]
