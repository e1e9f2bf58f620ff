"""The reference's SparseCtrl encoders, its UNets, and what they made of their inputs."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file

from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionUNet

# Those too large for the repository lie beside some checkouts.
_FOLDERS = (Path(__file__).parents[3] / "golden", Path(__file__).parents[5] / "shared/golden")


class Golden(NamedTuple):
    """A file of the reference's inputs and outputs."""

    tensors: dict
    base_config: dict

    def network(self):
        """Its encoder's weights, by the checkpoint's own names behind `controlnet.`."""
        return {name: tensor for name, tensor in self.tensors.items() if name.startswith("controlnet.")}

    def latents(self):
        """(2 c f h w): the unconditional and the conditional row see the same."""
        return self.tensors["latents"].repeat(2, 1, 1, 1, 1)

    def frames(self):
        return self.tensors["condition_frames"].tolist()

    def residual(self, name):
        return self.tensors[name].transpose(1, 2).flatten(0, 1)  # b c f h w -> (b f) c h w

    def unet(self):
        weights = {n.removeprefix("unet."): w.float() for n, w in self.tensors.items() if n.startswith("unet.")}
        model = MotionUNet(UNet2DConditionModel(**self.base_config), MotionConfig.for_version("v3")).eval()
        model.motion.load_state_dict({n: w for n, w in weights.items() if "motion_modules" in n and "pe" not in n[-2:]})
        model.base.load_state_dict({n: w for n, w in weights.items() if "motion_modules" not in n})
        return model.requires_grad_(False)


def read(name):
    """Read a file, or skip the test where it is not there."""
    path = next((path for folder in _FOLDERS if (path := folder / f"{name}.safetensors").is_file()), None)
    if path is None:
        pytest.skip(f"{name} is not beside this checkout")
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["unet2d_config"])
    return Golden(load_file(path), config)


def spread(tensor, num_rows=2):
    return torch.cat([tensor] * num_rows)
