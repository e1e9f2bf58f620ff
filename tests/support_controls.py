"""Small control files of random weights for a base, every layer of which has a say, and pictures to show them."""

from pathlib import Path

import torch
from diffusers import ControlNetModel
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from animatediff.models.control.sparse_control import SparseControlNet
from animatediff.weights.base import load_unet
from animatediff.weights.controls import sparse_control_file
from tests.support import mp4

CLIP_WIDTH = 24


def build_controls(folder: Path, base: Path) -> dict[str, str]:
    """Write a ControlNet, both SparseCtrl variants, an IP-Adapter with its image encoder, pictures and a video.

    Returns:
        Their paths by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: str(folder / f"{name}.safetensors") for name in ("control_net", "rgb", "drawing", "adapter")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = ControlNetModel.from_unet(load_unet(str(base)))
        _randomise(net)
        save_file(net.state_dict(), paths["control_net"])
        for name, variant in (("rgb", "rgb"), ("drawing", "scribble")):
            network = SparseControlNet(load_unet(str(base)), variant)
            _randomise(network)
            sparse_control_file.write(paths[name], network)
        _write_adapter(paths["adapter"], load_unet(str(base)))
        encoder = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=32,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=32,
                patch_size=16,
                projection_dim=CLIP_WIDTH,
            )
        )
        encoder.save_pretrained(folder / "image_encoder")
        pictures = [Image.effect_noise((64, 48), 90).convert("RGB") for _ in range(2)]
    paths["image_encoder"] = str(folder / "image_encoder")
    for name, colour, picture in (("one", "red", pictures[0]), ("other", "blue", pictures[1])):
        paths[name] = str(folder / f"{name}.png")
        Image.blend(picture, Image.new("RGB", picture.size, colour), 0.5).save(paths[name])
    paths["video"] = str(folder / "video.mp4")
    Path(paths["video"]).write_bytes(mp4(40, height=48, width=64, fps=8))
    return paths


def _randomise(network: nn.Module) -> None:
    """Give what is zero before any training random weights."""
    for name, parameter in network.named_parameters():
        if name.startswith("controlnet_") or name.endswith(("proj_out.weight",)):
            nn.init.normal_(parameter, std=0.1)


def _write_adapter(path: str, unet: nn.Module) -> None:
    names = [name.removesuffix(".processor") for name in unet.attn_processors]
    file = {
        "image_proj.proj.weight": torch.randn(4 * 32, CLIP_WIDTH),
        "image_proj.proj.bias": torch.randn(4 * 32),
        "image_proj.norm.weight": torch.ones(32),
        "image_proj.norm.bias": torch.zeros(32),
    }
    for number, name in enumerate(names):
        if name.endswith("attn2"):
            width = unet.get_submodule(name).to_k.out_features
            for part in ("k", "v"):
                file[f"ip_adapter.{number}.to_{part}_ip.weight"] = torch.randn(width, 32) / 4
    save_file(file, path)
