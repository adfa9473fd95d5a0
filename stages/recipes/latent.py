"""latent: a pretrained diffusion model tuned to images that may only be seen noisy, in its latents, by adapters alone.

Images become latents once, by the model's own autoencoder, get noise once, and teach low-rank adapters of the network
above that noise by double Tweedie, below it by consistency ("Consistent Diffusion Meets Tweedie", Daras, Dimakis and
Daskalakis, arXiv 2404.10177). A model without an autoencoder is tuned in pixels.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.backbones import adm
from pipeline.backbones.backbone import Backbone
from pipeline.backbones.lowrank import Adapters
from pipeline.diffusion.discrete import Discrete
from pipeline.diffusion.sample import Heun, Sampler
from pipeline.graph import Scale, Step, step
from pipeline.learning import pretrained as folders
from pipeline.learning.optim import AdamW
from pipeline.metrics.judging import Judging
from pipeline.objectives.ambient import Ambient, Weighting
from pipeline.objectives.consistency import Consistent
from pipeline.physics.corruption import Clean, Noisy
from stages.adopt import Adopt, Names, Weights
from stages.ambient import Learned
from stages.census import Census
from stages.compare import Compare, Contestant, Shown
from stages.corrupt import Corrupt, Part
from stages.ending import ending
from stages.evaluate import Evaluate
from stages.extractors import extractor
from stages.finetune import Tune
from stages.images import Images
from stages.judge import Drawn, Judge
from stages.latents import Decode, Encode
from stages.sample import Sample
from stages.sets import Stored
from stages.train import Fit, Train


def latent(
    images: Images = Images(),
    pretrained: str = "",
    noise: float = 0.5,
    clean: int = 0,
    count: int | None = None,
    test: int = 256,
    adapters: Adapters = Adapters(),
    consistency: float = 0.0,
    weighting: Weighting = Weighting.FULL,
    cap: float = 4.0,
    samples: int = 256,
    seed: int = 0,
    scale: Scale = Scale(),
    judging: Judging = Judging(),
    sampler: Sampler = Heun(),
    fit: Fit = Fit(16_000, 16, AdamW(lr=1e-3), cosine=False),
    pretraining: int = 400,
    backbone: Backbone = adm.Config(16, (1, 2), 1, (1,), head=32, embedding=64, dropout=0.1),
    base_fit: Fit = Fit(images=48_000),
) -> Step:
    """Tune a pretrained diffusion model to noisy images, by low-rank adapters in its latents.

    Args:
        images: the images; their size and colours are the model's if not given.
        pretrained: folder of the model, as diffusers writes it: unet, scheduler and, of latents, vae. If not given, a
            small network is trained first, in pixels, on some clean images.
        noise: σ of what is learned from, in latents (of about unit variance) or, without an autoencoder, in pixels.
        clean: how many images are learned from without noise.
        count: how many with it; all that are left if not given.
        test: how many are held out, to measure with.
        adapters: what of the network is trained.
        consistency: weight of consistency, which teaches below the noise where no clean image does; 0: nothing does,
            and samples end at the noise.
        weighting: whether noise levels near that of a row count fully or fade out.
        cap: how near, with full weight: noise levels at which noise² makes up less than 1 − 1/cap of σ².
        samples: how many images each model draws, to be judged.
        seed: of every random choice.
        scale: workers of each training step, and CPUs and GPUs of each worker.
        judging: in which features samples are judged, and how.
        sampler: how they are drawn.
        fit: how the adapters are trained; large networks want lower rates, such as 1e-4.
        pretraining: how many clean images the network without a folder is trained on.
        backbone: that network.
        base_fit: how it is trained.
    """
    if not noise > 0 or clean < 0 or test < 2 or samples < 2 or pretraining < 2:
        raise ValueError(
            f"noise is {noise}, clean {clean}, test {test}, samples {samples}, pretraining {pretraining}: give noise "
            "above 0, clean from 0 and 2 at least of the others"
        )
    one, coder = replace(scale, workers=1), None
    if pretrained:
        folder, pretraining = Path(pretrained), 0
        network = folders.network(folder)
        described = folders.autoencoder(folder, network.shape)
        place = folders.weights(folders.part(folder, "network"))
        start = step(Adopt(Weights.of(place), network, Names.DIFFUSERS), "pretrained")
        shape = network.shape if described is None else described.shape
        colour = {1: False, 3: True}.get(shape[0])
        images = replace(
            images, size=images.size or shape[1], colour=colour if images.colour is None else images.colour
        )
        if tuple(images.shape) != tuple(shape):
            raise ValueError(f"images are {images.shape} and the model is of {shape}: leave out size and colour")
        if described is not None:
            file = Weights.of(folders.weights(folder / "vae"))
            coder = step(Adopt(file, described, Names.DIFFUSERS), "autoencoder")
        if isinstance(network.precond, Discrete):
            sampler = replace(sampler, sigma_max=min(sampler.sigma_max, network.precond.highest))
    wide, full = images.wide, images.ingest("ingest")

    def rows(name: str, first: int, many: int | None) -> Step:
        return step(Corrupt(full, Part(first, many, seed), Clean(), seed), f"data/{name}", wide)

    def encoded(name: str, data: Step) -> Step:
        return data if coder is None else step(Encode(coder, data), f"latents/{name}", one)

    held, many = rows("test", 0, test), rows("private", test + clean + pretraining, count)
    few = rows("clean", test, clean) if clean else None
    sets = {"private": many, "test": held} | ({} if few is None else {"clean": few})
    looked = Census(tuple(Stored(name, data) for name, data in sets.items()), seed)
    census = step(looked, "census", wide)
    if not pretrained:
        taught = rows("pretraining", test + clean, pretraining)
        start = step(Train(taught, backbone, base_fit, seed), "pretrained", scale, (census,))
    noisy = step(Corrupt(encoded("private", many), Part(), Noisy(noise=noise), seed), "data/noisy", wide)
    learned = (Learned(noisy, noise), *(() if few is None else (Learned(encoded("clean", few)),)))
    plain = Ambient(weighting=weighting, cap=cap)
    learns = Consistent(weighting=weighting, cap=cap, weight=consistency) if consistency else plain
    tuned = step(Tune(start, learned, adapters, fit, seed, learns), "model", scale, (census,))
    least = 0.0 if clean or consistency else plain.least(noise)

    how, eye = extractor(judging, images.shape, lambda: many, held, one)
    measured, contestants = encoded("test", held), []
    for name, (model, low) in {"tuned": (tuned, least), "pretrained": (start, 0.0)}.items():
        down = ending(sampler, low)
        drawn = step(Sample(model, samples, down, seed, decoder=coder), f"samples/{name}", one)
        contestants.append(Contestant(name, step(Evaluate(model, measured), f"evaluate/{name}", one), drawn))
    drawn_by = tuple(Drawn(c.name, c.samples) for c in contestants)
    judged = step(Judge(drawn_by, held, many, how, eye), "judge", wide)
    seen = noisy if coder is None else step(Decode(coder, noisy), "decoded/noisy", one)
    shown = (
        Shown("noisy" + " latents, decoded" * (coder is not None), seen),
        *(() if few is None else (Shown("clean", few),)),
    )
    title = "A pretrained diffusion model tuned to noisy images"
    report = Compare(title, tuple(contestants), shown, "pretrained", census=census, judgement=judged)
    return step(report, "report")
