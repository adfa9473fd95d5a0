# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Operators and views: what the world does to an image
#
# A measurement is $y = A x_0 + \text{noise}\cdot\epsilon$. A *corruption* is a distribution over the linear maps $A$,
# of which each image gets its own draw, keyed by its id. `look` shows images before, what is told of them, and what
# is hidden.

# %%
import torch

from pipeline.keys import Key
from pipeline.physics.blur import GaussianBlur
from pipeline.physics.boxes import KeepPatch, Subtitle
from pipeline.physics.corruption import Through
from pipeline.physics.linear import unit
from pipeline.physics.masks import LineMask, PixelMask
from pipeline.physics.mixture import Mixture
from pipeline.physics.views import Crop, Pool
from stages.notebook import digits, look

# %% [markdown]
# ## Pixels, lines, patches, subtitles

# %%
look(PixelMask(0.5))

# %%
look(LineMask(0.4))

# %%
look(KeepPatch(0.5, 0.7))

# %%
look(Subtitle(low=0.2, high=0.4))

# %% [markdown]
# ## Blur, and noise on top
#
# A blur hides nothing that is exactly zero, but what it makes small is lost in noise. `noise_rms` is measured from
# the rows, `noise_stated` is what the corruption says.

# %%
look(Through(GaussianBlur((1, 8, 8), 1.0), noise=0.1))

# %% [markdown]
# ## A mixture: each image goes through one of several

# %%
look(Mixture(((0.4, PixelMask(0.7)), (0.3, Subtitle(low=0.2, high=0.4)), (0.3, Through(GaussianBlur((1, 8, 8), 1.0))))))

# %% [markdown]
# ## The laws that every operator keeps
#
# $\langle Ax, y\rangle = \langle x, A^\top y\rangle$, and $P = A^{+}A$ is a projection: what $A$ can see of $x$.

# %%
images = digits(16)
x = images.x()
mask = PixelMask(0.5)
drawn = [mask.draw(images.shape, Key(0).fold("corrupt", name)) for name in images.ids]
A = mask.at({name: torch.tensor([row[name].tolist() for row in drawn]).numpy() for name in drawn[0]}, images.shape)
y = torch.randn(x.shape, generator=Key(1).torch())
print("adjoint:   ", float((A(x) * y).sum()), float((x * A.adjoint(y)).sum()))
print("projection:", float((A.project(A.project(x)) - A.project(x)).abs().max()))

# %% [markdown]
# ## Views: operators with $A A^\top = I$
#
# Noise stays white through them, so a noisy image seen through a view is a noisy view: a diffusion model of the views
# alone says something of the whole image at the same noise level. A crop is one as it is, a pooled image after its
# blocks' means are multiplied by the block's side.

# %%
left, coarse = Crop((1, 8, 8), 0, 0, 8, 5), Pool((1, 8, 8), 2)
for view in (left, coarse):
    dense = view.dense()
    print(
        type(view).__name__,
        tuple(dense.shape),
        "A Aᵀ = I:",
        torch.allclose(dense @ dense.T, torch.eye(len(dense)).double()),
    )

# %% [markdown]
# Any map whose $A A^\top$ is a multiple of $I$ becomes a view by a factor:

# %%
half = 0.5 * left
print(half.isotropy, unit(half).orthonormal)
