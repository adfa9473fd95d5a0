"""A denoiser on disk: `denoiser.json` says what to build, `weights.safetensors` fills it; never a pickle."""

from __future__ import annotations

import json
from collections.abc import Callable

import torch
from torch import nn
from typing_extensions import TypeVar

from pipeline import config
from pipeline.diffusion.denoiser import Network, Trained
from pipeline.learning.state import differing

N = TypeVar("N", bound=Network, default=Network)

DESCRIPTION, WEIGHTS = "denoiser.json", "weights.safetensors"


def pack(model: nn.Module) -> dict[str, bytes]:
    """The two files of a network. Raises: TypeError: the module does not keep its configuration in `.config`."""
    import safetensors.torch

    if not isinstance(model, Network):
        raise TypeError(f"a {type(model).__name__} is no Network: it has no configuration to be built from")

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    return {
        DESCRIPTION: json.dumps(config.to_json(model.config), indent=1).encode(),
        WEIGHTS: safetensors.torch.save(tensors),
    }


def unpack(read: Callable[[str], bytes], device: str | torch.device = "cpu", kind: type[N] = Network) -> N:
    """The module in evaluation mode, without gradients, from a function that gives a file's bytes by name.

    Raises:
        ValueError: the files describe no denoiser of this project, or not of this `kind`, or the weights do not fit.
    """
    import safetensors.torch

    try:
        described = json.loads(read(DESCRIPTION))
        tensors = safetensors.torch.load(read(WEIGHTS))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError, safetensors.SafetensorError) as error:
        raise ValueError(
            f"{DESCRIPTION} and {WEIGHTS} cannot be read ({error}): train again or fetch them anew"
        ) from error
    built = config.from_json(Trained, described, DESCRIPTION).build()
    if told := differing(tensors, built.state_dict(), f"in {WEIGHTS}"):
        raise ValueError(f"{WEIGHTS} does not fit {DESCRIPTION}, fetch both anew: {told}")
    built.load_state_dict(tensors)
    if not isinstance(built, kind):
        raise ValueError(f"this is a {type(built).__name__}, and a {kind.__name__} is needed: name another model")
    return built.eval().requires_grad_(False).to(device)
