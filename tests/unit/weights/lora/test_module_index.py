"""One module for each name, in the full-size models."""

import pytest
from diffusers import UNet2DConditionModel

from animatediff.weights.layouts.architectures import meta_modules
from animatediff.weights.lora.module_index import ModuleIndex
from tests.support_lora import flat
from tests.support_weights import unet_to_ldm


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_no_two_modules_of_a_model_share_a_name(kind):
    states = {part: module.state_dict() for part, module in meta_modules(kind).items()}
    targets = ModuleIndex(states, is_motion_lora=False)
    for name in states["unet"]:
        path = name.rpartition(".")[0]
        for spelled in (path, unet_to_ldm(name, kind).rpartition(".")[0]):
            assert targets.find(f"lora_unet_{flat(spelled)}") == targets.find(spelled) == [("unet", path)]
    for part, prefix in (("text_encoder", "lora_te1_text_model_"), ("text_encoder_2", "lora_te2_text_model_")):
        for name in states.get(part, ()):
            path = name.rpartition(".")[0]
            assert targets.find(prefix + flat(path.removeprefix("text_model."))) == [(part, path)]
    assert targets.absent_part("lora_te2_text_projection") == (None if kind == "sdxl" else "text_encoder_2")
    assert targets.find("lora_unet_encoder_conv_in") == []


def test_a_unet_with_more_than_the_original_layout_names():
    """An LCM's guidance input has no original name; diffusers' names still work."""
    unet = UNet2DConditionModel(
        down_block_types=["DownBlock2D"],
        up_block_types=["UpBlock2D"],
        block_out_channels=[8],
        norm_num_groups=4,
        time_cond_proj_dim=4,
    )
    targets = ModuleIndex({"unet": unet.state_dict()}, is_motion_lora=False)
    assert targets.find("lora_unet_time_embedding_cond_proj") == [("unet", "time_embedding.cond_proj")]
    assert targets.find("input_blocks.0.0") == []
