"""Half precision beside float32, the golden vectors, and what an attention backend changes.

Where bounds come from: u is the unit roundoff, 2^-11 of float16 and 2^-9 of bfloat16. A prediction is the outcome of
some 250 roundings one after the other (layers, norms, residuals); errors of random sign grow as the square root of
their number, to 16 u of the prediction's length (L2). Float32 is bounded by the golden files' own 2e-5, five times that
on a GPU, which sums in another order.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn.attention import SDPBackend, sdpa_kernel

from animatediff.diffusion.conditioning import Conditioning
from animatediff.models.config import MotionConfig
from animatediff.models.motion_module import MotionModule
from animatediff.models.motion_unet import MotionUNet
from animatediff.models.vae import encode_frames
from animatediff.weights.base import load_vae
from tests.gpu.full_size import make_unet

GOLDEN = Path(__file__).parents[1] / "golden"
UNIT_ROUNDOFF = {torch.float16: 2**-11, torch.bfloat16: 2**-9}
HALVES = list(UNIT_ROUNDOFF)
VERSIONS = ("v1", "v2", "v3")


def bound_of(dtype):
    return 16 * UNIT_ROUNDOFF[dtype]


def distance(found, wanted):
    """The length (L2) of the difference, by that of what is wanted."""
    found, wanted = found.double().cpu(), wanted.double().cpu()
    return ((found - wanted).norm() / wanted.norm()).item()


def float32_bound(device):
    return 2e-5 if device.type == "cpu" else 1e-4


def golden_unet(version):
    path = GOLDEN / f"unet_{version}.safetensors"
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["unet2d_config"])
    tensors = load_file(path)
    weights = {k.removeprefix("weights."): v.float() for k, v in tensors.items() if k.startswith("weights.")}
    model = MotionUNet(UNet2DConditionModel(**config), MotionConfig.for_version(version)).eval()
    of_motion = {name for name in weights if "motion_modules" in name}
    model.motion.load_state_dict({name: weights[name] for name in of_motion if "pos_encoder" not in name})
    model.base.load_state_dict({name: weights[name] for name in weights.keys() - of_motion})
    return model, tensors


@torch.no_grad()
def predict(model, tensors, device, dtype):
    model.to(device, dtype)
    told = Conditioning(tensors["encoder_hidden_states"].to(device, dtype))
    found = model(tensors["sample"].to(device, dtype), tensors["timestep"].to(device), told)
    assert (found.device, found.dtype) == (device, dtype)
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_golden_unets(device, table, version):
    model, tensors = golden_unet(version)
    wanted = tensors["noise_pred"]
    found = predict(model, tensors, device, torch.float32)
    worst = (found.cpu() - wanted).abs().max().item()
    table.check(f"golden UNet {version}, largest difference", worst, dtype=torch.float32, bound=float32_bound(device))
    for dtype in HALVES:
        found = predict(model, tensors, device, dtype)
        table.check(f"golden UNet {version}, relative", distance(found, wanted), dtype=dtype, bound=bound_of(dtype))


@pytest.mark.parametrize(
    ("file", "prefix", "version"), [("motion_module", "w.", "v3"), ("motion_module_sdxl", "weights.", "sdxl")]
)
def test_golden_motion_modules(device, table, file, prefix, version):
    tensors = load_file(GOLDEN / f"{file}.safetensors")
    weights = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix) and "pos_encoder" not in k}
    module = MotionModule(64, MotionConfig.for_version(version))
    module.load_state_dict(weights)
    x, y = (tensors[name].transpose(1, 2).flatten(0, 1) for name in "xy")  # b c f h w -> (b f) c h w
    for dtype in (torch.float32, *HALVES):
        with torch.no_grad():
            found = module.to(device, dtype)(x.to(device, dtype), 16)
        assert (found.device, found.dtype) == (device, dtype)
        what = f"golden {file}, relative"
        table.check(what, distance(found, y), dtype=dtype, bound=bound_of(dtype) if dtype in HALVES else 1e-5)


@pytest.fixture(scope="module")
def unet(size, device):
    """The size's UNet with v3's motion modules that move, and what it is given; float32."""
    torch.manual_seed(0)
    base = make_unet(size.widths, device)
    with torch.device(device):
        model = MotionUNet(base, MotionConfig(norm_num_groups=base.config.norm_num_groups)).eval()
    for path, parameter in model.motion.named_parameters():
        if "proj_out" in path:  # zero at first
            torch.nn.init.normal_(parameter, std=0.02)
    generator, side = torch.Generator().manual_seed(1), size.pixels // 8
    sample = torch.randn(1, 4, size.num_frames, side, side, generator=generator)
    text = torch.randn(1, 77, 768, generator=generator)
    return model, {"sample": sample, "encoder_hidden_states": text, "timestep": torch.tensor([500])}


def test_a_unet_in_half_precision_is_near_to_float32s(unet, device, table, size):
    model, given = unet
    wanted = predict(model, given, device, torch.float32).cpu()
    kept = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    for dtype in HALVES:
        found = predict(model, given, device, dtype)
        what = f"UNet of {sum(p.numel() for p in model.parameters()):,} parameters, relative"
        table.check(what, distance(found, wanted), dtype=dtype, bound=bound_of(dtype))
        model.float().load_state_dict(kept)


def test_a_vae_encodes_in_half_precision_near_to_float32(tiny_base, device, table):
    """One whose numbers are too large for float16 gives latents that are not finite: ingest quarantines such clips."""
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    wanted = torch.from_numpy(encode_frames(load_vae(tiny_base), frames))
    for dtype in HALVES:
        vae = load_vae(tiny_base).to(device, dtype)
        found = torch.from_numpy(encode_frames(vae, frames))
        assert found.shape == (3, 4, 8, 8)
        table.check(
            "VAE's latents beside a CPU's float32, relative",
            distance(found, wanted),
            dtype=dtype,
            bound=bound_of(dtype),
        )
    vae.half()
    with torch.no_grad():
        vae.encoder.conv_in.weight.mul_(1e5)
    is_finite = bool(np.isfinite(encode_frames(vae, frames)).all())
    table.note("latents of a VAE that overflows in float16 are finite", is_finite, dtype=torch.float16, bound=False)
    assert not is_finite


@pytest.mark.parametrize("backend", [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION])
def test_attention_backends_agree(unet, device, table, backend):
    model, given = unet
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    if device.type == "cpu" and backend == SDPBackend.EFFICIENT_ATTENTION:
        pytest.skip("a CPU has no such backend")
    # Two frames: the plain backend keeps all of the attention's scores.
    given = given | {"sample": given["sample"][:, :, :2]}
    found = {}
    for chosen in (backend, SDPBackend.MATH):
        # What a backend cannot compute (heads too wide, float32) another one does; here that is the plain one.
        with sdpa_kernel([chosen, SDPBackend.MATH], set_priority=True):
            found[chosen] = predict(model, given, device, dtype)
    model.float()
    bound = bound_of(torch.float16) if dtype == torch.float16 else 1e-5
    table.check(f"{backend.name} beside MATH, relative", distance(*found.values()), dtype=dtype, bound=bound)
