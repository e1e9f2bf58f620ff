"""SDXL in miniature with random weights, in its own layout: for tests of shapes, files and parity.

Its pictures are coloured noise, as those of `support_base`.
"""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from animatediff.models.config import MotionConfig, Version
from animatediff.models.motion_unet import MotionModules
from animatediff.sprites.models.tokenizer import build_tokenizer
from animatediff.sprites.scenes.world import caption_words
from animatediff.weights import motion_modules
from animatediff.weights.base import load_text_encoders, load_unet, load_vae
from animatediff.weights.motion_schedule import PUBLISHED
from tests.support_weights import ldm_file

TEXT_WIDTHS = (16, 32)
"""Of the two text encoders; a token of the UNet's has both."""
MAX_TOKENS = 24


def build_sdxl(folder: Path, *, seed: int = 0) -> Path:
    """Write the base into a folder that is not there; the same seed gives the same bytes."""
    files = folder.with_name(f"{folder.name}_tokenizer")
    files.mkdir(parents=True)
    tokenizer = build_tokenizer(caption_words(), files, max_length=MAX_TOKENS)
    # As in SDXL, the second pads with the first word, and not with the end.
    second = CLIPTokenizer.from_pretrained(files, model_max_length=MAX_TOKENS, pad_token="!")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = StableDiffusionXLPipeline(
            vae=AutoencoderKL(
                down_block_types=["DownEncoderBlock2D"] * 4,
                up_block_types=["UpDecoderBlock2D"] * 4,
                block_out_channels=[8, 8, 16, 16],
                norm_num_groups=4,
                scaling_factor=0.13025,
            ),
            text_encoder=CLIPTextModel(_text_config(tokenizer, TEXT_WIDTHS[0], "quick_gelu")),
            text_encoder_2=CLIPTextModelWithProjection(_text_config(second, TEXT_WIDTHS[1], "gelu")),
            tokenizer=tokenizer,
            tokenizer_2=second,
            unet=_unet(),
            scheduler=EulerDiscreteScheduler(),
        )
    pipeline.save_pretrained(folder)
    return folder


def write_motion(path: Path, base: Path, *, version: Version = "sdxl", seed: int = 0) -> str:
    """Write a motion module that moves what the base draws, with the schedule of its version; its path."""
    unet = load_unet(str(base))
    config = MotionConfig.for_version(version).model_copy(update={"norm_num_groups": unet.config.norm_num_groups})
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        motion = MotionModules.for_base(unet, config)
    with torch.no_grad():
        for name, parameter in motion.named_parameters():
            if "proj_out" in name:
                parameter.normal_(std=0.1, generator=generator)
    motion_modules.write(str(path), motion, schedule=PUBLISHED[version].model_dump())
    return str(path)


def write_personal_files(folder: Path, other: Path) -> None:
    """Write what makes a base of `build_sdxl` a personalised one.

    `single`: another such base as one file, as SDXL was published. `kohya` and `diffusers`: one LoRA of the UNet and
    both text encoders, in both layouts; `te2`: its part for the second text encoder. `grey`: a learned word, for both
    text encoders; `half`: for the first alone.
    """
    modules = {part: encoder for part, (_, encoder) in load_text_encoders(str(other)).items()}
    states = {part: module.state_dict() for part, module in modules.items()}
    states |= {"unet": load_unet(str(other)).state_dict(), "vae": load_vae(str(other)).state_dict()}
    save_file(ldm_file(states, "sdxl"), folder / "single.safetensors")
    attention = "down_blocks.1.attentions.0.transformer_blocks.0.attn1"
    layer = "text_model_encoder_layers_0_self_attn_v_proj"
    te1, te2 = (_kohya(f"lora_te{n}_{layer}", width, width) for n, width in zip((1, 2), TEXT_WIDTHS, strict=True))
    of_unet = _kohya(f"lora_unet_{attention.replace('.', '_')}_to_q", 32, 32)
    save_file(of_unet | te1 | te2, folder / "kohya.safetensors")
    save_file(te2, folder / "te2.safetensors")
    path = "text_encoder_2.text_model.encoder.layers.0.self_attn.v_proj"
    diffusers = {f"unet.{attention}.to_q": list(of_unet.values()), path: list(te2.values())}
    diffusers["text_encoder" + path.removeprefix("text_encoder_2")] = list(te1.values())
    tensors = {f"{n}.lora_{ab}.weight": f for n, pair in diffusers.items() for ab, f in zip("AB", pair, strict=True)}
    save_file(tensors, folder / "diffusers.safetensors")
    pair = {
        f"clip_{name}": torch.randn(2, width, generator=torch.Generator().manual_seed(width))
        for name, width in zip("lg", TEXT_WIDTHS, strict=True)
    }
    save_file(pair, folder / "grey.safetensors")
    save_file({"clip_l": pair["clip_l"]}, folder / "half.safetensors")


def _kohya(name: str, into: int, out: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(len(name))
    down, up = (torch.randn(shape, generator=generator) for shape in ((2, into), (out, 2)))
    return {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}


def _unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        block_out_channels=[16, 32, 32],
        transformer_layers_per_block=[1, 1, 2],
        attention_head_dim=[2, 4, 4],
        norm_num_groups=8,
        cross_attention_dim=sum(TEXT_WIDTHS),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + TEXT_WIDTHS[1],
    )


def _text_config(tokenizer: CLIPTokenizer, width: int, activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=4,
        num_attention_heads=4,
        hidden_act=activation,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
