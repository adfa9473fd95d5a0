"""Sizes that have proved themselves, named by how many parameters they have on colour images of 32x32."""

from __future__ import annotations

from enum import Enum

from pipeline.backbones import adm, dit
from pipeline.backbones.magnitude import Preserving


class Preset(Enum):
    """A backbone under `.value`; `dataclasses.replace` gives it a condition, dropout or another style.

    UNET_55M has the resolutions of DDPM++ on 32x32 (Song et al. 2021; Karras et al. 2022), MP_UNET_125M and
    MP_UNET_280M those of EDM2-XS and -S (Karras et al. 2024), DIT_33M and DIT_130M are DiT-S/2 and -B/2.
    """

    UNET_1M = adm.Config(32, (1, 2, 2), 1, (1,), head=32, embedding=64)
    UNET_7M = adm.Config(64, (1, 2, 2), 2, (1,))
    UNET_20M = adm.Config(96, (1, 2, 2), 3, (1,))
    UNET_55M = adm.Config(128, (2, 2, 2), 4, (1,), head=256)
    UNET_125M = adm.Config(128, (1, 2, 3, 4), 3, (2, 3), embedding=512)
    UNET_280M = adm.Config(192, (1, 2, 3, 4), 3, (2, 3), embedding=768)
    MP_UNET_1M = adm.Config(32, (1, 2, 2), 1, (1,), head=32, embedding=64, style=Preserving())
    MP_UNET_7M = adm.Config(64, (1, 2, 2), 2, (1,), style=Preserving())
    MP_UNET_20M = adm.Config(96, (1, 2, 2), 3, (1,), style=Preserving())
    MP_UNET_55M = adm.Config(128, (2, 2, 2), 4, (1,), head=256, style=Preserving())
    MP_UNET_125M = adm.Config(128, (1, 2, 3, 4), 3, (2, 3), embedding=512, style=Preserving())
    MP_UNET_280M = adm.Config(192, (1, 2, 3, 4), 3, (2, 3), embedding=768, style=Preserving())
    DIT_1M = dit.Config(96, 6, 3)
    DIT_10M = dit.Config(256, 8, 4)
    DIT_33M = dit.Config(384, 12, 6)
    DIT_130M = dit.Config(768, 12, 12)
    DIT_300M = dit.Config(1024, 16, 16)
