"""The U-Net of EDM2 as its paper describes it, on a state dict with its names: what ours must equal.

Written from Karras et al. 2024 (arXiv 2312.02696, configuration G, appendix B) for square images without labels.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional


def state(channels, side, width, multipliers, blocks, attention, embedding, seed=0):
    """Random weights, named and ordered as EDM2's; gains are drawn, too, for a network whose gains are zero is none."""
    generator, found = torch.Generator().manual_seed(seed), {}

    def draw(name, *shape):
        found[name] = torch.randn(shape, generator=generator)

    def block(name, into, out, rising, attends):
        draw(f"{name}.conv_res0.weight", out, into if rising else out, 3, 3)
        draw(f"{name}.conv_res1.weight", out, out, 3, 3)
        draw(f"{name}.emb_linear.weight", out, embedding)
        draw(f"{name}.emb_gain")
        if into != out:
            draw(f"{name}.conv_skip.weight", out, into, 1, 1)
        if attends:
            draw(f"{name}.attn_qkv.weight", 3 * out, out, 1, 1)
            draw(f"{name}.attn_proj.weight", out, out, 1, 1)
        return out

    draw("unet.emb_fourier.freqs", width)
    draw("unet.emb_fourier.phases", width)
    draw("unet.emb_noise.weight", embedding, width)
    draw("unet.out_gain")
    draw("logvar_linear.weight", 1, 128)
    sizes, here, skips = [f"{side >> level}x{side >> level}" for level in range(len(multipliers))], width, [width]
    draw(f"unet.enc.{sizes[0]}_conv.weight", width, channels + 1, 3, 3)
    for level, size in enumerate(sizes):
        if level:
            skips.append(block(f"unet.enc.{size}_down", here, here, False, False))
        for i in range(blocks):
            here = block(f"unet.enc.{size}_block{i}", here, width * multipliers[level], False, level in attention)
            skips.append(here)
    for level, size in reversed(list(enumerate(sizes))):
        if level == len(sizes) - 1:
            block(f"unet.dec.{size}_in0", here, here, True, True)
            block(f"unet.dec.{size}_in1", here, here, True, False)
        else:
            block(f"unet.dec.{size}_up", here, here, True, False)
        for i in range(blocks + 1):
            into = here + skips.pop()
            here = block(f"unet.dec.{size}_block{i}", into, width * multipliers[level], True, level in attention)
    draw("unet.out_conv.weight", channels, here, 3, 3)
    return found


def denoised(weights, x, sigma, heads, eps, sigma_data=0.5):
    """D(x, σ); `eps` is what is added to every length before it is divided by, 1e-4 in EDM2."""

    def unit(x, axes):
        length = x.float().square().mean(axes, keepdim=True).sqrt()
        return x / (length + eps)

    def product(name, x, gain=1.0):
        weight = weights[name]
        weight = unit(weight, tuple(range(1, weight.ndim))) * gain / math.sqrt(weight[0].numel())
        return x @ weight.T if weight.ndim == 2 else functional.conv2d(x, weight, padding=weight.shape[-1] // 2)

    def silu(x):
        return functional.silu(x) / 0.596

    def mixed(a, b, t):
        return (a + t * (b - a)) / math.sqrt((1 - t) ** 2 + t**2)

    def block(name, x, e, rising):
        skip = f"{name}.conv_skip.weight"
        if not rising:
            x = unit(product(skip, x) if skip in weights else x, (1,))
        h = product(f"{name}.conv_res0.weight", silu(x))
        h = silu(h * (1 + product(f"{name}.emb_linear.weight", e, weights[f"{name}.emb_gain"]))[:, :, None, None])
        h = product(f"{name}.conv_res1.weight", h)
        if rising and skip in weights:
            x = product(skip, x)
        x = mixed(x, h, 0.3)
        if f"{name}.attn_qkv.weight" in weights:
            B, C, H, W = x.shape
            q, k, v = unit(product(f"{name}.attn_qkv.weight", x).reshape(B, heads(C), -1, 3, H * W), (2,)).unbind(3)
            share = (q.transpose(2, 3) @ k / math.sqrt(q.shape[2])).softmax(3)  # of a query's place in every key's
            h = (v @ share.transpose(2, 3)).reshape(B, C, H, W)
            x = mixed(x, product(f"{name}.attn_proj.weight", h), 0.3)
        return x

    total = (sigma**2 + sigma_data**2)[:, None, None, None]
    angles = (sigma.log() / 4)[:, None] * weights["unet.emb_fourier.freqs"] + weights["unet.emb_fourier.phases"]
    e = silu(product("unet.emb_noise.weight", math.sqrt(2) * angles.cos()))
    h, skips = torch.cat([x / total.sqrt(), torch.ones_like(x[:, :1])], 1), []
    for name in dict.fromkeys(".".join(name.split(".")[:3]) for name in weights if name.startswith("unet.enc.")):
        h = functional.avg_pool2d(h, 2) if name.endswith("_down") else h
        h = product(f"{name}.weight", h) if name.endswith("_conv") else block(name, h, e, False)
        skips.append(h)
    for name in dict.fromkeys(".".join(name.split(".")[:3]) for name in weights if name.startswith("unet.dec.")):
        h = h.repeat_interleave(2, 2).repeat_interleave(2, 3) if name.endswith("_up") else h
        if "_block" in name:
            skip = skips.pop()
            n, m = h.shape[1], skip.shape[1]
            h = torch.cat([h / math.sqrt(n), skip / math.sqrt(m)], 1) * math.sqrt((n + m) / 2)
        h = block(name, h, e, True)
    F = product("unet.out_conv.weight", h, weights["unet.out_gain"])
    return sigma_data**2 / total * x + (sigma[:, None, None, None] * sigma_data / total.sqrt()) * F
