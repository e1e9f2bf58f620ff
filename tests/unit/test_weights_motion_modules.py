import pytest
import torch
from safetensors.torch import load_file, save_file

from animatediff.errors import UserError
from animatediff.models.config import MotionConfig
from animatediff.models.motion_module import sinusoidal_positions
from animatediff.models.motion_unet import MotionModules
from animatediff.weights import motion_modules

VERSIONS = ["v1", "v2", "v3", "sdxl"]


def make(version):
    torch.manual_seed(0)
    channels = (32, 64, 64) if version == "sdxl" else (32, 32, 64, 64)
    motion = MotionModules(
        MotionConfig.for_version(version),
        down=[[c, c] for c in channels],
        mid=64,
        up=[[c, c, c] for c in reversed(channels)],
    )
    for parameter in motion.parameters():
        torch.nn.init.normal_(parameter)
    return motion


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("version", VERSIONS)
def test_round_trip(version, tmp_path):
    motion = make(version)
    uri = str(tmp_path / "motion_module.safetensors")
    motion_modules.write(uri, motion)
    again = motion_modules.read(uri)
    assert again.config == motion.config
    assert same(again, motion)
    keys = load_file(uri).keys()
    block = "down_blocks.0.motion_modules.1.temporal_transformer.transformer_blocks.0."
    assert {block + f"attention_blocks.0.to_{n}.weight" for n in "qkv"} <= keys
    assert block + "ff.net.0.proj.weight" in keys


@pytest.mark.parametrize("version", VERSIONS)
def test_published_layout_is_recognised(version, tmp_path):
    """Official files have no metadata but position tables, and the official trainer prefixes `module.`."""
    motion = make(version)
    state = {f"module.{name}": tensor for name, tensor in motion.state_dict().items()}
    table = sinusoidal_positions(motion.config.max_frames, 32)[None]
    for i in range(2):
        name = f"down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.{i}"
        state[f"module.{name}.pos_encoder.pe"] = table.clone()
    save_file(state, tmp_path / "mm.safetensors")
    read = motion_modules.read(str(tmp_path / "mm.safetensors"))
    assert read.config == motion.config
    assert same(read, motion)


def test_unusable_files_are_named(tmp_path):
    uri = str(tmp_path / "mm.safetensors")
    with pytest.raises(UserError, match="no file or folder"):
        motion_modules.read(uri)
    (tmp_path / "mm.safetensors").write_bytes(b"hello")
    with pytest.raises(UserError, match="not a safetensors file"):
        motion_modules.read(uri)
    save_file({"x": torch.zeros(1)}, uri)
    with pytest.raises(UserError, match="no motion module"):
        motion_modules.read(uri)
    state = make("v3").state_dict()
    del state["up_blocks.0.motion_modules.0.temporal_transformer.proj_out.bias"]
    save_file(state, uri)
    with pytest.raises(UserError, match=r"not a whole motion module.*proj_out.bias"):
        motion_modules.read(uri)
