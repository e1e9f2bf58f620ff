"""SparseCtrl agrees with the reference, alone, in the motion UNet, and in a sampler's step; and means what it says."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from animatediff.diffusion.conditioning import Conditioning, Control
from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.diffusion.samplers import SAMPLERS
from animatediff.diffusion.sampling import classifier_free_guidance, sample
from animatediff.models.config import MotionConfig
from animatediff.models.control.sparse_control import SparseControlNet, picture_frames, sparse_condition
from animatediff.models.motion_unet import MotionUNet
from animatediff.weights.controls import sparse_control_file
from tests.unit.models.control import golden

RESIDUALS, PREDICTION = 1e-3, 1e-4


@pytest.fixture(scope="module", params=["rgb", "scribble", "rgb_encoder"])
def case(request, tmp_path_factory):
    """A golden file, and its encoder as the file's loader builds it."""
    found = golden.read(f"sparsectrl_{request.param}")
    path = tmp_path_factory.mktemp("net") / "net.safetensors"
    save_file(found.network(), path)
    return found, sparse_control_file.open_file(str(path)).build(found.base_config)


def condition(found, network):
    embedded = network.embed(found.tensors["condition_images"], found.frames(), found.latents().shape[2])
    return golden.spread(embedded)


def conditioning(found, network, scale=None):
    text = found.tensors["encoder_hidden_states"]
    if scale is None:
        return Conditioning(text)
    scales = torch.full((2, found.latents().shape[2]), scale)
    return Conditioning(text, controls=(Control(network, condition(found, network), scales),))


def test_condition(case):
    found, network = case
    f = found.latents().shape[2]
    pictures = found.tensors["condition_images"]
    built = sparse_condition(pictures, found.frames(), f)
    assert torch.equal(built[:, -1:].float(), found.tensors["conditioning_mask"].float())
    if network.variant == "rgb":
        assert torch.equal(built[:, :-1], found.tensors["controlnet_cond"])


@torch.no_grad()
def test_residuals(case):
    found, network = case
    told = Conditioning(found.tensors["encoder_hidden_states"])
    down, mid = network(found.latents(), found.tensors["timestep"], told, condition(found, network))
    assert len(down) == 12
    for i, residual in enumerate(down):
        assert (residual - found.residual(f"down_residual_{i:02d}")).abs().max() < RESIDUALS, i
    assert (mid - found.residual("mid_residual")).abs().max() < RESIDUALS


@torch.no_grad()
def test_prediction(case):
    found, network = case
    if "noise_pred" not in found.tensors:
        return
    unet = found.unet()
    for scale, name in ((1.0, "noise_pred"), (0.6, "noise_pred_scale_0.6"), (None, "noise_pred_without_control")):
        answer = unet(found.latents(), found.tensors["timestep"], conditioning(found, network, scale))
        difference = (answer - found.tensors[name]).abs()
        if network.variant == "scribble" and scale == 0.6:
            # A norm of the conditional row has two nearly equal values in a group: a scale that is larger by 1e-7
            # moves the prediction by 9e-4, and the file's own rounding, against float64, is 4e-3.
            assert difference[1].max() < 1e-2
            difference = difference[:1]
        assert difference.max() < PREDICTION, name


@torch.no_grad()
def test_one_step_of_a_sampler(case):
    """Guidance gives both halves residuals of their own text, and the step goes where the reference's would."""
    found, network = case
    if "noise_pred" not in found.tensors:
        return
    sampler = SAMPLERS["ddim"](NoiseSchedule(beta_schedule="linear"))
    scheduler = sampler.begin(1)
    negative, positive = conditioning(found, network, 1.0).rows([0]), conditioning(found, network, 1.0).rows([1])
    told = Conditioning(positive.text, negative=negative, controls=positive.controls)
    timestep = int(found.tensors["timestep"])

    def at_golden_timestep(clips, _timestep, told):
        return unet(clips, timestep, told)

    unet = found.unet()
    noise = found.tensors["latents"] / scheduler.init_noise_sigma
    got = sample(at_golden_timestep, sampler, told, noise, num_inference_steps=1, guidance_scale=7.5)
    guided = classifier_free_guidance(*found.tensors["noise_pred"].split(1), 7.5)
    wanted = scheduler.step(guided, scheduler.timesteps[0], found.tensors["latents"]).prev_sample
    # The guided prediction is 14 times as far off as each half's, and is divided by the last timestep's signal.
    signal = float(scheduler.alphas_cumprod[scheduler.timesteps[0]]) ** 0.5
    assert (got - wanted).abs().max() * signal < 14 * PREDICTION


CONFIG = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "attention_head_dim": 4,
}
MOTION = MotionConfig(num_layers=1, num_heads=4, norm_num_groups=4)
SCRIBBLES = torch.rand(1, 3, 2, 64, 64, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def unet():
    torch.manual_seed(0)
    return MotionUNet(UNet2DConditionModel(**CONFIG), MotionConfig(num_heads=4, norm_num_groups=4)).eval()


def fresh(variant):
    torch.manual_seed(1)
    return SparseControlNet(UNet2DConditionModel(**CONFIG), variant, MOTION).eval().requires_grad_(False)


def trained(variant="rgb"):
    """A network none of whose layers is zero."""
    network = fresh(variant)
    for weight in network.parameters():
        weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())) * 0.1)
    return network


LATENTS = torch.randn(1, 4, 6, 8, 8, generator=torch.Generator().manual_seed(3))
TEXT = torch.randn(1, 5, 12, generator=torch.Generator().manual_seed(4))
PICTURES = torch.randn(1, 4, 2, 8, 8, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def predict(unet, *controls):
    return unet(LATENTS, 500, Conditioning(TEXT, controls=controls))


def control(network, pictures=PICTURES, frames=(0, -1), scale=1.0):
    return Control(network, network.embed(pictures, frames, 6), torch.full((1, 6), scale))


@pytest.mark.parametrize(("variant", "pictures"), [("rgb", PICTURES), ("scribble", SCRIBBLES)])
def test_a_fresh_network_changes_nothing(unet, variant, pictures):
    assert torch.equal(predict(unet), predict(unet, control(fresh(variant), pictures)))


def test_scale_zero_is_no_control(unet):
    assert torch.equal(predict(unet), predict(unet, control(trained(), scale=0.0)))


def test_every_frame_set_is_dense(unet):
    pictures = LATENTS.flip(0) * 0.5
    network = trained()
    condition = sparse_condition(pictures, range(6), 6)
    assert torch.equal(condition[:, :-1], pictures)
    assert (condition[:, -1] == 1).all()
    in_another_order = control(network, pictures.flip(2), frames=range(5, -1, -1))
    assert torch.equal(predict(unet, control(network, pictures, range(6))), predict(unet, in_another_order))


def test_no_frame_set_is_still_a_control(unet):
    """Its mask is 0 everywhere, and the network has something to say to that."""
    without_pictures = control(trained(), PICTURES[:, :, :0], frames=())
    assert (predict(unet, without_pictures) - predict(unet)).abs().max() > 1e-3


def test_a_frame_without_a_picture_has_residuals():
    network = trained()
    with torch.no_grad():
        down, _ = network(LATENTS, 500, Conditioning(TEXT), network.embed(PICTURES, (0, -1), 6))
    assert all(residual[1:5].abs().amax((1, 2, 3)).min() > 1e-3 for residual in down)


def test_the_noisy_clips_are_not_looked_at():
    network = trained()
    embedded = network.embed(PICTURES, (0, -1), 6)
    with torch.no_grad():
        one, other = (network(clips, 500, Conditioning(TEXT), embedded) for clips in (LATENTS, LATENTS * 3))
    assert torch.equal(one.mid, other.mid)


def test_text_a_frame_and_a_timestep_a_clip():
    network = trained()
    embedded = network.embed(PICTURES, (0, -1), 6)
    with torch.no_grad():
        one = network(LATENTS, 500, Conditioning(TEXT), embedded)
        other = network(LATENTS, torch.tensor([500]), Conditioning(TEXT[:, None].expand(-1, 6, -1, -1)), embedded)
    assert torch.allclose(one.mid, other.mid, atol=1e-5)


def test_half_precision():
    network = trained()
    half = trained().to(torch.float16)
    with torch.no_grad():
        one = network(LATENTS, 500, Conditioning(TEXT), network.embed(PICTURES, (0, -1), 6))
        told = Conditioning(TEXT.half())
        other = half(LATENTS.half(), 500, told, half.embed(PICTURES, (0, -1), 6))
    assert other.mid.dtype == torch.float16
    assert (one.mid - other.mid).abs().max() < 0.05 * one.mid.abs().max()


def test_frames_count_from_the_end():
    assert picture_frames((0, -1, -4), 6, 3) == [0, 5, 2]


@pytest.mark.parametrize(
    ("frames", "pictures", "message"),
    [
        ((0, 6), 2, "no frame 6 in a clip of 6"),
        ((-7,), 1, "no frame -7 in a clip of 6"),
        ((0, 1, 2), 2, "2 pictures do not go to 3 frames"),
        ((0,), 2, "2 pictures do not go to 1 frames"),
        ((5, -1), 2, "frames 5, -1 of a clip of 6 are the same one"),
    ],
)
def test_frames_that_cannot_be(frames, pictures, message):
    with pytest.raises(ValueError, match=message):
        picture_frames(frames, 6, pictures)


def test_pictures_of_the_other_variant_are_refused():
    with pytest.raises(ValueError, match="is the scribble variant, which takes drawings as pixels"):
        fresh("scribble").embed(PICTURES, (0, 1), 6)
    with pytest.raises(ValueError, match="is the rgb variant, which takes VAE latents"):
        fresh("rgb").embed(SCRIBBLES, (0, 1), 6)


def test_pictures_of_another_size_are_refused():
    network = fresh("scribble")
    embedded = network.embed(SCRIBBLES[..., :32], (0, 1), 6)
    with pytest.raises(ValueError, match="does not fit"):
        network(LATENTS, 500, Conditioning(TEXT), embedded)
