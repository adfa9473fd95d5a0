"""Folders of diffusers: what they hold is what diffusers makes of them, and hostile ones are refused in a sentence."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_diffusers import pipeline_at

from pipeline.backbones.lowrank import Adapters, adapt
from pipeline.learning import pretrained
from pipeline.learning.foreign import load
from pipeline.learning.weights import pack, unpack

diffusers = pytest.importorskip("diffusers", reason="the extra `diffusers` is not installed")
TIMES = (0, 7, 400, 990)
SCALED = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder and what it was made of."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pretrained") / "model"
    return folder, pipeline_at(folder, diffusers)


@pytest.fixture
def folder(written, tmp_path):
    """A copy, to be spoilt."""
    return shutil.copytree(written[0], tmp_path / "model")


def taken(folder, part="network"):
    network = pretrained.network(folder)
    found = network if part == "network" else pretrained.autoencoder(folder, network.shape)
    file = pretrained.weights(pretrained.part(folder, part))
    return load(file, found, *pretrained.as_diffusers(found)).eval().requires_grad_(False)


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("predicts", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("betas", [{}, SCALED, {"beta_schedule": "squaredcos_cap_v2"}], ids=["linear", "scaled", "cos"])
def test_it_denoises_as_diffusers_does(written, folder, betas, predicts):
    """D(x, σ_t) is `pred_original_sample` of the scheduler, given the network's output at t."""
    scheduler = diffusers.DDPMScheduler(clip_sample=False, prediction_type=predicts, **betas)
    scheduler.save_pretrained(folder / "scheduler")
    D, unet = taken(folder), written[1]["unet"]
    x, sigmas = torch.randn(2, 4, 4, 4), D.config.precond.sigmas()
    for t in TIMES:
        sigma = sigmas[t].float()
        seen = x / (1 + sigma**2).sqrt()
        with torch.no_grad():
            want = scheduler.step(unet(seen, t).sample, t, seen).pred_original_sample
        torch.testing.assert_close(D(x, sigma.expand(2)), want, rtol=2e-3, atol=2e-5 * float(1 + sigma))


def test_denoiser_json_and_weights_need_no_folder(written):
    D = taken(written[0])
    again = unpack(pack(D).__getitem__)
    assert again.config == D.config
    x, sigma = torch.randn(3, 4, 4, 4), torch.tensor([0.1, 1.0, 100.0])
    torch.testing.assert_close(again(x, sigma), D(x, sigma), atol=1e-6, rtol=1e-6)
    assert set(again.config.backbone.options) >= {"act_fn", "norm_eps", "freq_shift"}  # defaults, too, as they were


def test_the_autoencoder_is_that_of_diffusers(written):
    coder, vae = taken(written[0], "vae"), written[1]["vae"]
    x, z = torch.rand(3, 1, 8, 8) * 2 - 1, torch.randn(2, 4, 4, 4)
    with torch.no_grad():
        mean, image = vae.encode(x).latent_dist.mean, vae.decode(z / 0.7 + 0.2).sample
    torch.testing.assert_close(coder.encode(x), (mean - 0.2) * 0.7)
    torch.testing.assert_close(coder.decode(z), image)
    assert coder.encode(x).shape[1:] == coder.config.latent


def test_names_that_attention_once_had_are_known(written, folder):
    file = pretrained.weights(folder / "unet")
    renamed = {}
    for name, tensor in load_file(file).items():
        for now, then in pretrained.ONCE.items():
            name = name.replace(now, then)
        renamed[name] = tensor
    assert sum(".proj_attn." in name for name in renamed) > 0
    save_file(renamed, file)
    x, sigma = torch.randn(1, 4, 4, 4), torch.ones(1)
    assert torch.equal(taken(folder)(x, sigma), taken(written[0])(x, sigma))


def test_its_attention_is_what_adapters_find(written):
    named = adapt(taken(written[0]).net, Adapters())
    assert {name.split(".attentions.")[1].split(".", 1)[1] for name in named} == {"to_q", "to_k", "to_v", "to_out.0"}


def test_a_network_alone_in_its_folder_is_taken_without_an_autoencoder(written, tmp_path):
    for place in ("unet", "scheduler"):
        shutil.copytree(written[0] / place, tmp_path / "alone", dirs_exist_ok=True)
    network = pretrained.network(tmp_path / "alone")
    assert network == pretrained.network(written[0])
    assert pretrained.autoencoder(tmp_path / "alone", network.shape) is None
    assert pretrained.weights(pretrained.part(tmp_path / "alone", "network")).is_file()


UNET, SCHEDULE, VAE = "unet/config.json", "scheduler/scheduler_config.json", "vae/config.json"


@pytest.mark.parametrize(
    ("file", "values", "says"),
    [
        (UNET, {"_class_name": "AutoencoderKL"}, "is not called as a denoiser"),
        (UNET, {"_class_name": "../../evil"}, "has no network"),
        (UNET, {"_class_name": 3}, "does not say of what class"),
        (UNET, {"what": 1}, "no option 'what'"),
        (UNET, {"block_out_channels": [8]}, "cannot be built"),
        (UNET, {"layers_per_block": 10**8}, "over 32768 tensors"),
        (UNET, {"num_class_embeds": 3}, "told no labels"),
        (UNET, {"out_channels": 8}, r"makes \(8, 4, 4\)"),
        (UNET, {"sample_size": None}, "sample_size"),
        (UNET, {"sample_size": 10**9}, "sample_size"),
        (UNET, {"in_channels": -1}, "in_channels"),
        (UNET, {"time_embedding_type": "fourier"}, "told the logarithm"),
        (SCHEDULE, {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "no discrete variance-preserving schedule"),
        (SCHEDULE, {"_class_name": "os"}, "no scheduler of"),
        (SCHEDULE, {"beta_schedule": "sigmoid"}, "only linear, scaled_linear, squaredcos_cap_v2"),
        (SCHEDULE, {"prediction_type": ["x"]}, "prediction_type"),
        (SCHEDULE, {"trained_betas": [0.1]}, "trained_betas"),
        (SCHEDULE, {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
        (SCHEDULE, {"beta_end": 3.0}, "0 < start <= end < 1"),
        (SCHEDULE, {"num_train_timesteps": 10**9}, "2 to 100000 steps"),
        (VAE, {"_class_name": "VQModel"}, "only AutoencoderKL"),
        (VAE, {"latent_channels": 8}, "the network takes"),
        (VAE, {"latent_channels": "x"}, "latent_channels"),
        (VAE, {"scaling_factor": "x"}, "scaling_factor"),
        (VAE, {"shift_factor": [1]}, "shift_factor"),
        (VAE, {"latents_mean": [0, 0, 0, 0]}, "each channel for itself"),
        (VAE, {"block_out_channels": 7}, "block_out_channels"),
        (VAE, {"out_channels": 3}, "other images than it takes"),
    ],
)
def test_descriptions_that_cannot_be_are_refused(folder, file, values, says):
    change(folder / file, **values)
    with pytest.raises(ValueError, match=says):
        pretrained.autoencoder(folder, pretrained.network(folder).shape)


@pytest.mark.parametrize(
    ("text", "says"),
    [("[" * 10**5, "cannot be read"), ("[]", "no object"), ("{", "cannot be read"), (" " * (2 << 20), "over 1048576")],
)
def test_files_that_are_no_description_are_refused(folder, text, says):
    (folder / UNET).write_text(text)
    with pytest.raises(ValueError, match=says):
        pretrained.network(folder)


def test_weights_that_do_not_fit_are_refused(folder):
    file = pretrained.weights(folder / "unet")
    change(folder / UNET, block_out_channels=[8, 32])
    with pytest.raises(ValueError, match="does not fit the network: of other shapes are"):
        taken(folder)
    file.rename(folder / "unet/diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match=r"only a pickle \(\.bin\)"):
        pretrained.weights(folder / "unet")
    shutil.rmtree(folder / "unet")
    with pytest.raises(ValueError, match="it is not there"):
        pretrained.network(folder)
