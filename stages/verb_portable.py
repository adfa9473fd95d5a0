"""`kintsugi export MODEL` and `kintsugi adopt WEIGHTS`: models out of the store, and into it."""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from pipeline import config, graph
from pipeline.graph import Stage
from pipeline.place import Place
from pipeline.store import Artifact, Store, slug
from stages import recipe as recipes
from stages.arguments import JsonOption, StoreOption, parse
from stages.verbs import model_of

VAE = "-vae"


class Format(Enum):
    """What an exported model is read by."""

    DIFFUSERS = "diffusers"
    TORCHSCRIPT = "torchscript"
    ONNX = "onnx"
    MLFLOW = "mlflow"


@dataclass(frozen=True)
class Export:
    """Write a model for programs that do not know this project: D(x, sigma), preconditioning included."""

    model: Annotated[Positional[str], tyro.conf.arg(help="a model's name, address or fingerprint")]
    format: Annotated[Format, tyro.conf.arg(help="what is to read it")]
    out: Annotated[Path, tyro.conf.arg(help="the file to write; of diffusers and mlflow, the folder")]
    force: Annotated[bool, tyro.conf.arg(help="replace a file, or the folder of an earlier export")] = False
    store: StoreOption = "runs"
    json: JsonOption = False


def export(words: list[str]) -> int:
    """`kintsugi export MODEL --format FORMAT --out PATH`."""
    from pipeline.learning.diffusers_folder import NOTE, diffusers
    from pipeline.learning.export import onnx, torchscript
    from pipeline.learning.weights import unpack

    asked = parse(Export, words, "kintsugi export", Export.__doc__ or "")
    _check_free(asked.out, asked.force, {Format.DIFFUSERS: NOTE, Format.MLFLOW: "MLmodel"}.get(asked.format))
    store = Store(asked.store)
    found = store.artifact(model_of(store, asked.model).address)
    if asked.format == Format.MLFLOW:
        return _drawn(asked, store, found)
    network = unpack(found.read)
    told = {
        "made by": "kintsugi export",
        "model": found.address,
        "shape": list(network.config.shape),
        "what": "D(x, sigma) = E[x0 | x0 + sigma z = x], images in [-1, 1]",
    }
    write = {Format.DIFFUSERS: diffusers, Format.TORCHSCRIPT: torchscript, Format.ONNX: onnx}[asked.format]
    made = write(network, told)
    if asked.format == Format.DIFFUSERS:
        _publish(asked.out, made.files)
    else:
        Place(str(asked.out.absolute().parent)).write(asked.out.name, made.files[""])
    said = {"model": found.address, "out": str(asked.out), "difference": made.difference}
    print(
        json.dumps(said)
        if asked.json
        else f"wrote {asked.out}, which differs from {found.address} by at most {made.difference:.1e}"
    )
    return 0


def _drawn(asked: Export, store: Store, found: Artifact) -> int:
    """A folder that `mlflow.pyfunc.load_model` and `mlflow models serve` take."""
    from stages.verb_register import drawing

    with tempfile.TemporaryDirectory() as beside:
        folder = Path(beside) / "model"
        drawing(store, found).save(folder)
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    _publish(asked.out, files)
    said = {"model": found.address, "out": str(asked.out), "difference": 0.0}
    print(
        json.dumps(said) if asked.json else f"wrote {asked.out}: mlflow models serve -m {asked.out} --env-manager local"
    )
    return 0


def _check_free(out: Path, force: bool, note: str | None) -> None:
    """Raise ConfigError where something else is; `note` is the file by which a folder of ours is known."""
    if re.match(r"\w[\w+.-]+:/", str(out)):
        raise config.ConfigError(f"--out {out} is not on this machine: export to a path here and copy it")
    above = next(parent for parent in out.absolute().parents if parent.exists())
    if not above.is_dir():
        raise config.ConfigError(f"--out {out} is below {above}, which is no folder: name another")
    if note is None:
        if out.is_dir():
            raise config.ConfigError(f"--out {out} is a folder: name a file in it")
        if out.exists() and not force:
            raise config.ConfigError(f"--out {out} exists: name another, or --force to replace it")
    elif out.exists() and not out.is_dir():
        raise config.ConfigError(f"--out {out} is a file: name a folder")
    elif out.is_dir() and any(out.iterdir()):
        if not (out / note).exists():
            raise config.ConfigError(f"--out {out} holds other things: name an empty folder, or a new one")
        if not force:
            raise config.ConfigError(f"--out {out} holds an earlier export: name another, or --force to replace it")


def _publish(out: Path, files: Any) -> None:
    """A folder with these files, at once; an earlier one goes, unless somebody put more into it."""
    ours = {name.split("/")[0] for name in files}
    more = [path.name for path in out.iterdir() if path.name not in ours] if out.is_dir() else []
    if more:
        raise config.ConfigError(f"--out {out} also holds {more[0][:80]}: move it, or name another folder")
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=out.absolute().parent) as beside:
        new = Path(beside) / "new"
        new.mkdir()
        for name, data in files.items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            (new / name).write_bytes(data)
        if out.exists():
            out.rename(Path(beside) / "old")
        new.rename(out)


@dataclass(frozen=True)
class Adopted:
    """Make a model of the store from weights that were trained elsewhere: safetensors, never a pickle.

    Of a folder as diffusers writes it, the autoencoder becomes a model besides, NAME-vae.
    """

    weights: Annotated[
        Positional[Path],
        tyro.conf.arg(help="a .safetensors file of the network's whole state, or a folder of diffusers"),
    ]
    network: Annotated[
        str | None,
        tyro.conf.arg(metavar="YAML", help="what they are the weights of; the denoiser.json beside them if not given"),
    ] = None
    names: Annotated[str, tyro.conf.arg(help="whose names the tensors have: ours, edm2 or diffusers")] = "ours"
    name: Annotated[str | None, tyro.conf.arg(help="what to call the model; the file's name if not given")] = None
    store: StoreOption = "runs"
    json: JsonOption = False


def adopt(words: list[str]) -> int:
    """`kintsugi adopt WEIGHTS`."""
    from pipeline.diffusion.denoiser import Trained
    from stages.adopt import Adopt, Names, Weights

    asked = parse(Adopted, words, "kintsugi adopt", Adopted.__doc__ or "")
    if asked.names not in {names.value for names in Names}:
        raise config.ConfigError(f"--names is '{asked.names}': there are {', '.join(names.value for names in Names)}")
    if asked.weights.is_dir():
        if asked.network is not None:
            raise config.ConfigError(
                f"{asked.weights} is a folder, which says what network it has: leave out --network"
            )
        return _adopted(asked, _of_folder(asked.weights))
    if not asked.weights.is_file():
        raise config.ConfigError(f"{asked.weights} is no file: name the weights, as safetensors")
    where, text = "--network", asked.network
    if text is None:
        where = str(asked.weights.parent / "denoiser.json")
        text = _described(asked.weights.parent / "denoiser.json")
    network = config.from_json(Trained, recipes.read_yaml(text, where), "network")
    return _adopted(asked, {"": Adopt(Weights.of(asked.weights), network, Names(asked.names))})


def _adopted(asked: Adopted, stages: dict[str, Stage]) -> int:
    """Make models of the store, named as asked for and by what each has behind that."""
    store, steps = Store(asked.store), {end: graph.step(stage, f"adopt{end}") for end, stage in stages.items()}
    store.check_writable()
    for one in steps.values():
        graph.run(one, store, lambda step: contextlib.nullcontext())  # read here: neither Ray nor MLflow has a part
    names = {end: slug(f"adopted/{asked.name or asked.weights.stem}{end}") for end in steps}
    for end, name in names.items():
        recipe, _, label = name.partition("/")
        store.point(recipe, {label: steps[end].address})
        if not asked.json:
            print(f"{name} is {steps[end].address}")
    if asked.json:
        said = {"model": steps[""].address, "name": names[""]}
        said |= {"autoencoder": steps[VAE].address} if VAE in steps else {}
        print(json.dumps(said))
    return 0


def _of_folder(folder: Path) -> dict[str, Stage]:
    """What makes models of a folder of diffusers: its network and, if it has one, its autoencoder."""
    from pipeline.learning import pretrained
    from stages.adopt import Adopt, Names, Weights

    network = pretrained.network(folder)
    coder = pretrained.autoencoder(folder, network.shape)
    place = pretrained.weights(pretrained.part(folder, "network"))
    found: dict[str, Stage] = {"": Adopt(Weights.of(place), network, Names.DIFFUSERS)}
    if coder is not None:
        found[VAE] = Adopt(Weights.of(pretrained.weights(folder / "vae")), coder, Names.DIFFUSERS)
    return found


def _described(path: Path) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read((1 << 20) + 1)
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise config.ConfigError(f"{path} is not there or no text: say with --network what network it is") from error
