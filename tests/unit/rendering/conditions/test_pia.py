"""PIA's motion module: it reads a picture beside the latents, through a first convolution of its own."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from animatediff.diffusion.conditioning import Conditioning
from animatediff.errors import UserError
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules, MotionUNet
from animatediff.rendering.animator import Animator
from animatediff.rendering.catalog.catalog import Catalog, expand
from animatediff.rendering.catalog.controls import PiaSpec
from animatediff.rendering.checks.catalog import check
from animatediff.training.initial.motion_modules import fitting_config
from animatediff.training.settings import ModelConfig
from animatediff.weights import motion_modules
from animatediff.weights.base import load_unet
from animatediff.weights.reading.tensors import open_tensors, save_tensors
from tests.support_base import build_base

F = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base, a motion module, the same as PIA's file, a checkpoint with a first convolution of its own."""
    folder = tmp_path_factory.mktemp("pia")
    base = load_unet(str(build_base(folder / "base")))
    motion = MotionModules.for_base(base, MotionConfig())
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for name, parameter in motion.named_parameters():
            if "proj_out" in name:
                parameter.normal_(std=0.1)
        own = base.conv_in.weight
        convolution = {
            "conv_in.weight": torch.randn(own.shape[0], 9, 3, 3) / 9,
            "conv_in.bias": torch.randn(own.shape[0]),
        }
        base.conv_in.weight.normal_(std=0.1)
        base.save_pretrained(folder / "other" / "unet")
    motion_modules.write(str(folder / "motion.safetensors"), motion)
    # As published: without what files that are written here say of themselves.
    tensors = dict(open_tensors(str(folder / "motion.safetensors")).tensors)
    save_tensors(str(folder / "pia.safetensors"), tensors | convolution, {})
    for seed, name in enumerate(("one", "other")):
        pixels = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(folder / f"{name}.png")
    return folder


def catalog(folder, *entries, motion="pia.safetensors", **settings):
    return Catalog.model_validate(
        {
            "base": str(folder / "base"),
            "motion_module": str(folder / motion),
            "prompts": ["x"],
            "entries": [{"name": f"e{i}", **entry} for i, entry in enumerate(entries)],
            "num_inference_steps": 2,
            "num_frames": F,
            "width": 64,
            "height": 64,
        }
        | settings
    )


def pia(folder, name="one", **more):
    return {"pia": {"picture": str(folder / f"{name}.png"), **more}}


class JoinedConvolution(nn.Module):
    """The first convolution as the file has it: of latents, mask and picture, in this order."""

    def __init__(self, weight, bias, picture):
        super().__init__()
        self.weight, self.bias, self.picture = weight, bias, picture

    def forward(self, x):
        picture = self.picture.transpose(1, 2).flatten(0, 1)
        return nn.functional.conv2d(torch.cat([x, picture], dim=1), self.weight, self.bias, padding=1)


def test_the_unet_is_that_of_the_files_own_convolution(folder):
    file = motion_modules.open_file(str(folder / "pia.safetensors"))
    unet = motion_modules.attach(load_unet(str(folder / "base")), file)
    picture = torch.randn(2, 5, F, 8, 8)
    sample, text = torch.randn(2, 4, F, 8, 8), torch.randn(2, 5, unet.base.config.cross_attention_dim)
    plain = MotionUNet(load_unet(str(folder / "base")), file.build())
    assert plain.config.resnet_norm_scope == "clip"  # its UNet3DConditionModel normalises (b c f h w)
    plain.base.conv_in = JoinedConvolution(*file.first_convolution, picture)
    with torch.no_grad():
        found = unet(sample, 500, Conditioning(text, picture=picture))
        wanted = plain(sample, 500, Conditioning(text))
    assert (found - wanted).abs().max() < 1e-5
    with pytest.raises(ValueError, match="reads a picture beside the latents"):
        unet(sample, 500, Conditioning(text))


def test_a_checkpoint_replaces_what_reads_latents_and_nothing_stays_of_it(folder):
    plan = expand(catalog(folder, pia(folder), {"checkpoint": str(folder / "other"), **pia(folder)}))
    first, second = plan.items
    animator = Animator.for_model(plan.models[first.model], device="cpu")
    convolution = open_tensors(str(folder / "pia.safetensors")).tensors
    frames = []
    for item in (first, second, first):
        animator.load(plan.models[item.model])
        frames.append(animator.render(item))
        assert torch.equal(animator._unet.picture_convolution.weight, convolution["conv_in.weight"][:, 4:])
    assert np.array_equal(frames[0], frames[2])
    assert not np.array_equal(frames[0], frames[1])


def test_picture_frame_and_motion_decide_the_clip_and_its_digest(folder):
    kinds = [
        pia(folder),
        pia(folder, "other"),
        pia(folder, frame=-1),
        pia(folder, motion="large"),
        pia(folder) | {"context": {"length": 2, "overlap": 1}},
        pia(folder) | {"second_pass": {"scale": 1.5, "strength": 0.5}},
    ]
    plan = expand(catalog(folder, *kinds))
    assert len({item.digest for item in plan.items}) == len(kinds)
    animator = Animator.for_model(plan.models[plan.items[0].model], device="cpu")
    clips = [animator.render_batch([item])[0] for item in plan.items]
    assert len({clip.frames.tobytes() for clip in clips}) == len(kinds)
    assert [condition.name for condition in clips[0].conditions] == ["PIA"]
    assert clips[2].conditions[0].pictures[0].caption == "frame 2"
    (folder / "renamed.png").write_bytes((folder / "one.png").read_bytes())
    assert expand(catalog(folder, pia(folder, "renamed"))).items[0].digest == plan.items[0].digest


def test_windows_and_guidance_keep_the_picture(folder):
    picture = torch.arange(4.0).reshape(1, 1, 4, 1, 1).expand(1, 5, 4, 2, 2)
    text = torch.zeros(1, 2, 3)
    told = Conditioning(text, negative=Conditioning(text), picture=picture).frames([3, 0])
    assert told.picture[0, 0, :, 0, 0].tolist() == [3, 0]
    assert all(branch.picture is told.picture for branch in told.guidance_branches(is_guided=True))


@pytest.mark.parametrize(
    ("spec", "loop", "similarities"),
    [
        ({"motion": "small"}, False, [1.0, 0.9, 0.85, 0.85, 0.85, 0.8, 0.8, 0.8]),
        ({"motion": "medium", "frame": -1}, False, [0.75, 0.75, 0.78, 0.79, 0.8, 0.8, 0.8, 1.0]),
        ({"motion": "large", "frame": 2}, False, [0.7, 0.8, 1.0, 0.8, 0.7, 0.7, 0.7, 0.7]),
        ({"motion": "small"}, True, [1.0, 0.9, 0.85, 0.85, 0.85, 0.85, 0.85, 0.9]),
        ({"motion": "style_large"}, False, [0.5, *[0.2] * 7]),
    ],
)
def test_similarities_are_pias_own_by_the_distance_to_the_pictures_frame(spec, loop, similarities):
    assert PiaSpec(picture="x.png", **spec).similarities(8, loop=loop) == similarities


@pytest.mark.parametrize(
    ("motion", "entry", "reason"),
    [
        ("pia.safetensors", {}, "is PIA's, which animates a picture: name it, as `pia: {picture: ...}`"),
        ("motion.safetensors", {"frame": 0}, "pia is of PIA's motion module, and .*motion.safetensors is not"),
        ("pia.safetensors", {"frame": 3}, "pia: there is no frame 3 in a clip of 3"),
        ("pia.safetensors", {"picture": "nowhere.png"}, "pia.picture: .*nowhere.png"),
    ],
)
def test_what_cannot_go_together_is_told_before_rendering(folder, motion, entry, reason):
    entry = pia(folder) | {"pia": pia(folder)["pia"] | entry} if entry else {}
    with pytest.raises(UserError, match=reason):
        check(catalog(folder, entry, motion=motion))


def test_it_is_for_rendering_alone(folder, tmp_path):
    uri = str(folder / "pia.safetensors")
    with pytest.raises(UserError, match="is a motion module of PIA"):
        motion_modules.convert(uri, str(tmp_path / "adapter"), to="diffusers")
    with pytest.raises(UserError, match="model.motion_module: .*is a motion module of PIA"):
        fitting_config(load_unet(str(folder / "base")), ModelConfig(motion_module=uri), "base")


def test_one_for_another_base_is_refused(folder, tmp_path):
    tensors = dict(open_tensors(str(folder / "pia.safetensors")).tensors)
    wide = torch.zeros(len(tensors["conv_in.bias"]), 17, 3, 3)
    save_tensors(str(tmp_path / "wide.safetensors"), tensors | {"conv_in.weight": wide}, {})
    with pytest.raises(UserError, match="its first convolution is .*beside which a picture takes 5 channels more"):
        check(catalog(folder, pia(folder), motion_module=str(tmp_path / "wide.safetensors")))
