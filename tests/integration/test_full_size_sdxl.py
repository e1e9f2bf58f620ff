"""SDXL at its published width, on random weights, and what a worker takes that goes from one base to another.

7 GiB of memory and a minute on a CPU that nobody else uses, so marked slow.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from animatediff.diffusion.conditioning import Conditioning
from animatediff.diffusion.size_conditioning import uncropped_time_ids
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules, MotionUNet
from animatediff.models.prompt_encoders import PromptEncoders
from animatediff.sprites.models.parts import make_unet
from animatediff.sprites.models.tokenizer import build_tokenizer
from animatediff.weights import motion_modules
from animatediff.weights.base import load_unet
from animatediff.weights.layouts.architectures import meta_modules
from tests.support_base import build_base
from tests.support_sdxl import build_sdxl, write_motion

pytestmark = pytest.mark.slow


def randomised(module):
    """The module of the meta device in memory, in bfloat16, with weights that keep numbers of their size."""
    module = module.to(torch.bfloat16).to_empty(device="cpu").eval().requires_grad_(False)
    for name, parameter in module.named_parameters():
        if parameter.ndim == 1:
            parameter.fill_(float("norm" in name and name.endswith("weight")))
        else:
            parameter.uniform_(-1, 1).mul_((3 / parameter[0].numel()) ** 0.5)
    return module


@torch.no_grad()
def test_a_step_at_full_width(tmp_path):
    started = time.monotonic()
    parts = meta_modules("sdxl")
    tokenizer = build_tokenizer(["a", "red", "star"], tmp_path)
    texts = {part: randomised(parts[part]) for part in ("text_encoder", "text_encoder_2")}
    for text in texts.values():  # a buffer, which has no memory of its own yet
        text.get_submodule(
            "text_model.embeddings" if hasattr(text, "text_model") else "embeddings"
        ).position_ids = torch.arange(77)[None]
    prompt = PromptEncoders({part: (tokenizer, text) for part, text in texts.items()}).encode("a red star")
    assert (prompt.text.shape, prompt.pooled.shape) == ((1, 77, 2048), (1, 1280))
    assert prompt.text.isfinite().all()
    with torch.device("meta"):
        unet = MotionUNet(parts["unet"], MotionConfig.for_version("sdxl"))
    unet = randomised(unet)
    number = sum(parameter.numel() for parameter in unet.parameters())
    assert number == 2_567_463_684 + 236_779_200
    for module in unet.modules():
        if getattr(module, "positions", None) is not None:
            module.positions.zero_()
    size = {"height": 64, "width": 128}
    conditioning = Conditioning(*prompt, uncropped_time_ids(1, **size, device=torch.device("cpu")))
    built = time.monotonic()
    found = unet(torch.randn(1, 4, 2, 8, 16, dtype=torch.bfloat16), 999, conditioning)
    assert found.shape == (1, 4, 2, 8, 16)
    assert found.isfinite().all()
    taken, peak = time.monotonic() - built, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    told = f"built in {built - started:.0f} s, 2 frames of 128 x 64 in {taken:.0f} s, peak {peak:.1f} GiB"
    print(f"SDXL with SDXL-beta in bfloat16: {told}")  # noqa: T201


_RENDER = """
import json, resource, sys
import torch
from animatediff.rendering.catalog.entries import ModelFiles
from animatediff.rendering.catalog.item import Item
from pipelines.stages.animate.worker import RenderSlices, RenderSpec
from tests.unit.pipelines.stages.animate.stubs import assignment_of

models, output = json.loads(sys.argv[1]), sys.argv[2]
worker = RenderSlices(None, RenderSpec(output, "cpu", 1, ("mp4",), 18, None, None))
settings = {"width": 16, "height": 16, "num_frames": 2, "num_inference_steps": 1}
item = Item(digest="d", entry="e", model="m", prompt="a red circle", seed=0, **settings)
for model in models:
    worker._load(assignment_of([item])._replace(model=ModelFiles(**model))).render(item)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_mib(models, output):
    command = [sys.executable, "-c", _RENDER, json.dumps(models), str(output)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1]) / 1024


def test_going_from_base_to_base_takes_the_memory_of_the_larger_one(tmp_path):
    """Of some hundred megabytes each, so that they stand out against what Python and its packages take."""
    small, xl = build_base(tmp_path / "small"), build_sdxl(tmp_path / "xl")
    make_unet(
        [128, 256, 512, 512], layers_per_block=2, latent_channels=4, latent_size=8, text_width=32
    ).save_pretrained(small / "unet")
    config = dict(load_unet(str(xl)).config) | {"block_out_channels": [128, 256, 512], "attention_head_dim": [4, 4, 8]}
    UNet2DConditionModel.from_config(config).save_pretrained(xl / "unet")
    motion = MotionModules.for_base(load_unet(str(small)), MotionConfig())
    motion_modules.write(str(tmp_path / "small.safetensors"), motion)
    models = {
        "small": {"base": str(small), "motion_module": str(tmp_path / "small.safetensors")},
        "xl": {"base": str(xl), "motion_module": write_motion(tmp_path / "xl.safetensors", xl)},
    }
    alone = {name: peak_mib([model], tmp_path) for name, model in models.items()}
    mixed = peak_mib([models[name] for name in ("small", "xl", "small", "xl")], tmp_path)
    weights = {
        name: sum(f.stat().st_size for f in Path(model["base"]).rglob("*")) / 2**20 for name, model in models.items()
    }
    print(f"peak MiB: alone {alone}, in turn {mixed:.0f}; bases of {weights}")  # noqa: T201
    assert mixed < max(alone.values()) + min(weights.values()) / 2
