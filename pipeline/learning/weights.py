"""A denoiser on disk: `denoiser.json` says what to build, `weights.safetensors` fills it; never a pickle."""

from __future__ import annotations

import json
from collections.abc import Callable

import torch
from torch import nn

from pipeline import config

DESCRIPTION, WEIGHTS = "denoiser.json", "weights.safetensors"


def pack(model: nn.Module) -> dict[str, bytes]:
    """The two files of a module that keeps its configuration in `.config`."""
    import safetensors.torch

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    return {
        DESCRIPTION: json.dumps(config.to_json(model.config), indent=1).encode(),
        WEIGHTS: safetensors.torch.save(tensors),
    }


def unpack(read: Callable[[str], bytes], device: str | torch.device = "cpu") -> nn.Module:
    """The module in evaluation mode, without gradients, from a function that gives a file's bytes by name.

    Raises:
        ValueError: the files describe no denoiser of this project, or the weights do not fit it.
    """
    import safetensors.torch

    try:
        described = json.loads(read(DESCRIPTION))
        tensors = safetensors.torch.load(read(WEIGHTS))
    except (json.JSONDecodeError, UnicodeDecodeError, safetensors.SafetensorError) as error:
        raise ValueError(
            f"{DESCRIPTION} and {WEIGHTS} cannot be read ({error}): train again or fetch them anew"
        ) from error
    model = config.find_class(described.get("is"), object, DESCRIPTION)
    built = config.from_json(model, described).build()
    try:
        built.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{WEIGHTS} does not fit {DESCRIPTION}: {reason}") from error
    return built.eval().requires_grad_(False).to(device)
