"""Networks of diffusers that are small enough for a test, as options and as a pipeline's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

U_NET = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 8,
}
DIT = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2}
CODER = {
    "in_channels": 1,
    "out_channels": 1,
    "latent_channels": 4,
    "block_out_channels": [4, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "norm_num_groups": 4,
    "scaling_factor": 0.7,
    "shift_factor": 0.2,
}


def pipeline_at(folder: Path, diffusers: Any, vae: bool = True, side: int = 4, **schedule: Any) -> dict[str, Any]:
    """What a folder was made of: `unet`, `scheduler` and `vae`, as diffusers writes them."""
    channels = 4 if vae else 1
    unet = diffusers.UNet2DModel(sample_size=side, in_channels=channels, out_channels=channels, **U_NET)
    made = {"unet": unet.eval(), "scheduler": diffusers.DDPMScheduler(**{"clip_sample": False} | schedule)}
    made |= {"vae": diffusers.AutoencoderKL(**CODER).eval()} if vae else {}
    for name, part in made.items():
        part.save_pretrained(folder / name)
    return made
