"""The names that EDM2 gives the weights of our magnitude-preserving U-Net, which is its configuration G.

Karras et al. 2024 (arXiv 2312.02696); names as in the networks published with it. Ours has as many frequencies of the
noise level as the embedding is long: where theirs has fewer, those that are added get the weight zero, so that nothing
changes. Theirs adds 1e-4 to every length that it divides by, and clips what is beyond ±256; ours does neither, and what
the two compute differs by about that share a layer. Weights that know labels are refused: theirs have no feature for an
image without one.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.nn import functional

from pipeline.backbones import adm
from pipeline.backbones.magnitude import Preserving
from pipeline.diffusion.denoiser import Trained
from pipeline.diffusion.precond import Preconditioned
from pipeline.learning.foreign import Plan, Taken, shapes

PARTS = {"conv1": "conv_res0", "affine": "emb_linear", "conv2": "conv_res1", "skip": "conv_skip", "out": "attn_proj"}
UNUSED = frozenset({"logvar_fourier.freqs", "logvar_fourier.phases", "logvar_linear.weight"})


def as_edm2(network: Trained) -> tuple[Plan, frozenset[str]]:
    """The plan for a file with the names of EDM2, and those of the learned uncertainty, which sampling has no use for.

    Raises ValueError: the network is another one.
    """
    backbone = network.backbone if isinstance(network, Preconditioned.Config) else None
    if not isinstance(backbone, adm.Config) or not isinstance(backbone.style, Preserving) or backbone.coordinates:
        raise ValueError(
            "the network is none of EDM2: name adm.Config with style magnitude.Preserving and no coordinates"
        )
    if backbone.condition is not None:
        raise ValueError("EDM2 has no feature for an image without a label: only networks without condition are taken")
    if len(network.shape) != 3 or network.shape[1] != network.shape[2]:
        raise ValueError(f"the shape is {tuple(network.shape)}: EDM2's networks are for square images (C, N, N)")
    wanted, side = shapes(network), network.shape[-1]
    noise, long = backbone.width * backbone.multipliers[0], backbone.embedding
    if noise > long:
        raise ValueError(f"embedding is {long} and EDM2 has {noise} frequencies of noise: name a longer one")

    def padded(tensor: Tensor) -> Tensor:
        return functional.pad(tensor, (0, long - noise))

    plan = {
        "net.embed.frequencies": Taken("unet.emb_fourier.freqs", (noise,), padded),
        "net.embed.phases": Taken("unet.emb_fourier.phases", (noise,), padded),
        "net.embed.level.weight": Taken("unet.emb_noise.weight", (long, noise), padded),
        "net.stem.conv.weight": Taken(f"unet.enc.{side}x{side}_conv.weight", wanted["net.stem.conv.weight"]),
        "net.head.conv.weight": Taken("unet.out_conv.weight", wanted["net.head.conv.weight"]),
        "net.head.gain": Taken("unet.out_gain", (), _alone),
    }
    theirs = dict(_blocks(backbone, side))
    for name, shape in wanted.items():
        block, _, part = name.removesuffix(".weight").rpartition(".")
        if block not in theirs:
            continue
        if part == "gain":
            plan[name] = Taken(f"{theirs[block]}.emb_gain", (), _alone)
        elif part == "qkv":
            plan[name] = Taken(f"{theirs[block]}.attn_qkv.weight", shape, _qkv(backbone.heads(shape[1])))
        else:
            plan[name] = Taken(f"{theirs[block]}.{PARTS[part]}.weight", shape)
    return plan, UNUSED


def _blocks(backbone: adm.Config, side: int) -> Iterator[tuple[str, str]]:
    """(our name, theirs) of every block."""
    last = len(backbone.multipliers) - 1
    for level in range(last + 1):
        size = f"{side >> level}x{side >> level}"
        risen = last - level
        if level:
            yield f"net.down.{level}.0", f"unet.enc.{size}_down"
        for i in range(backbone.blocks):
            yield f"net.down.{level}.{i + bool(level)}", f"unet.enc.{size}_block{i}"
        if level == last:
            yield from ((f"net.middle.{i}", f"unet.dec.{size}_in{i}") for i in range(2))
        else:
            yield f"net.widen.{risen}", f"unet.dec.{size}_up"
        for i in range(backbone.blocks + 1):
            yield f"net.up.{risen}.{i}", f"unet.dec.{size}_block{i}"


def _alone(tensor: Tensor) -> Tensor:
    return tensor.reshape(1)


def _qkv(heads: int):
    """Rows in the order (head, channel, q k v) brought to (q k v, head, channel)."""

    def ordered(tensor: Tensor) -> Tensor:
        return tensor.unflatten(0, (heads, -1, 3)).permute(2, 0, 1, *range(3, tensor.ndim + 2)).reshape(tensor.shape)

    return ordered
