"""A denoiser as a folder that diffusers loads: its network, and in words and numbers what makes that a denoiser."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.backbones import diffusers_model
from pipeline.backbones.condition import Embedded
from pipeline.diffusion.denoiser import Network
from pipeline.diffusion.precond import EDM, Preconditioned
from pipeline.learning.export import Made, difference, plain

NOTE, CENTRE = "preconditioning.json", "centre.safetensors"
FORMULAS = {
    "denoiser": "D = centre + c_skip (x - centre) + c_out F, with F = model(c_in (x - centre), timestep).sample",
    "c_skip": "sigma_data^2 / (sigma^2 + sigma_data^2)",
    "c_out": "sigma sigma_data / sqrt(sigma^2 + sigma_data^2)",
    "c_in": "1 / sqrt(sigma^2 + sigma_data^2)",
    "timestep": "1000 (ln sigma - ln 0.002) / (ln 80 - ln 0.002)",
    "centre": f"the tensor 'centre' of {CENTRE}",
}


def diffusers(network: Network, told: Mapping[str, Any]) -> Made:
    """The files that `from_pretrained` reads, `preconditioning.json` with `told`, and the centre.

    Raises ValueError: the network is none of diffusers.
    """
    import safetensors.torch

    if not (
        isinstance(network, Preconditioned)
        and isinstance(network.net, diffusers_model.Borrowed)
        and isinstance(network.config.precond, EDM)
    ):
        backbone = getattr(network.config, "backbone", network.config)
        kind = type(backbone).__module__.rsplit(".", 1)[-1]
        raise ValueError(
            f"diffusers loads only networks of its own and this is a {kind}: export to torchscript or onnx"
        )
    spread = network.config.precond.sigma_data
    network = plain(network)
    borrowed: Any = network.net
    note = {
        **told,
        **FORMULAS,
        "sigma_data": spread,
        "input": "hidden_states" if borrowed.tokens else "sample",
        "padded": list(borrowed.padded),  # with zeros on the right and below; what is beyond `shape` is cut off F
        "condition": _condition(borrowed),
    }
    with tempfile.TemporaryDirectory() as folder:
        borrowed.model.save_pretrained(folder)
        files = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
        read: Any = copy.deepcopy(network)
        read.net.model = type(borrowed.model).from_pretrained(folder).eval()
    files[CENTRE] = safetensors.torch.save({"centre": network.centre.contiguous()})
    files[NOTE] = json.dumps(note, indent=1).encode()
    return Made(files, difference(network, read, "diffusers"))


def _condition(borrowed: Any) -> str | None:
    if borrowed.classes or borrowed.tokens:
        return f"class_labels, integers (B,); none is {max(1, borrowed.classes)}"
    if isinstance(borrowed.config.condition, Embedded):
        return f"encoder_hidden_states (B, 1, {borrowed.config.condition.size}); none is zeros"
    return None
