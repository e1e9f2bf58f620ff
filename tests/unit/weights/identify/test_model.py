"""Files of whole weights: false friends next to each other; the published sizes are the oracle."""

from pathlib import Path

import pytest
import torch

import animatediff
from animatediff.commands import main
from animatediff.models.config import MotionConfig
from animatediff.weights import checkpoints
from animatediff.weights.base import load_text_encoder, load_unet, load_vae
from animatediff.weights.convert import _writer as writer
from animatediff.weights.identify.weights_file import identify, identify_uri
from animatediff.weights.reading.tensors import TensorFile
from tests.support_base import build_base
from tests.support_weights import ldm_file
from tests.weights_samples import (
    SDXL_WIDTHS,
    TO_DIFFUSERS,
    TO_HOTSHOT,
    UNET_AROUND,
    assert_told,
    motion_module,
    renamed,
    z,
)

LDM = "model.diffusion_model."


def unet(text=768, channels=4, extra=()):
    return {
        f"{LDM}input_blocks.0.0.weight": z(320, channels, 3, 3),
        f"{LDM}input_blocks.1.1.transformer_blocks.0.attn1.to_k.weight": z(320, 320),
        f"{LDM}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": z(320, text),
        f"{LDM}middle_block.1.transformer_blocks.0.attn2.to_v.weight": z(1280, text),
        **dict(extra),
    }


VAE = {
    "first_stage_model.encoder.down.0.block.0.conv1.weight": z(128, 128, 3, 3),
    "first_stage_model.decoder.conv_in.weight": z(512, 4, 3, 3),
}
CLIP_L = {
    "text_model.embeddings.token_embedding.weight": z(49408, 768),
    "text_model.embeddings.position_ids": z(1, 77, dtype=torch.int64),
    "text_model.encoder.layers.0.self_attn.q_proj.weight": z(768, 768),
}
SD1_TEXT = {f"cond_stage_model.transformer.{name}": tensor for name, tensor in CLIP_L.items()}
SD2_TEXT = {"cond_stage_model.model.token_embedding.weight": z(49408, 1024)}
SDXL_TEXT = {f"conditioner.embedders.0.transformer.{name}": tensor for name, tensor in CLIP_L.items()} | {
    "conditioner.embedders.1.model.token_embedding.weight": z(49408, 1280)
}
REFINER_TEXT = {"conditioner.embedders.0.model.token_embedding.weight": z(49408, 1280)}
EMA = {f"model_ema.diffusion_model{name.removeprefix(LDM).replace('.', '')}": tensor for name, tensor in unet().items()}
SCHEDULE = {"betas": z(1000), "alphas_cumprod": z(1000), "logvar": z(1000)}
SD1 = unet() | VAE | SD1_TEXT

# name: (tensors, what must be told of them)
MODELS = {
    # Motion modules; the numbers of parameters are the published ones.
    "v1": (
        motion_module(frames=24),
        {"family": "motion_module", "version": "v1", "layout": "official", "base": "sd1", "parameters": 417_137_600},
    ),
    "v2": (
        motion_module(mid=True),
        {"family": "motion_module", "version": "v2", "base": "sd1", "parameters": 453_209_280, "note": "Lightning"},
    ),
    "v3": (motion_module(), {"family": "motion_module", "version": "v3", "parameters": 417_137_600, "note": None}),
    "SDXL-beta": (
        motion_module(SDXL_WIDTHS),
        {"family": "motion_module", "version": "sdxl", "base": "sdxl", "parameters": 236_779_200},
    ),
    "AnimateLCM": (
        motion_module(mid=True, frames=0),
        {"family": "motion_module", "version": "animatelcm", "parameters": 453_209_280, "note": "LCM"},
    ),
    "v2 without its tables": (
        motion_module(mid=True, frames=0),
        {"version": "animatelcm", "note": "v2 without its position tables looks the same"},
    ),
    "AnimateLCM with tables": (
        motion_module(mid=True, frames=64),
        {"version": "animatelcm", "note": "guidance of 1 to 2"},
    ),
    "v3 of diffusers": (
        renamed(motion_module(), *TO_DIFFUSERS),
        {"family": "motion_module", "version": "v3", "layout": "diffusers", "parameters": 417_137_600},
    ),
    "HotshotXL": (
        renamed(motion_module(SDXL_WIDTHS, frames=24), *TO_HOTSHOT),
        {
            "family": "motion_module",
            "version": "hotshotxl",
            "layout": "hotshotxl",
            "base": "sdxl",
            "parameters": 236_779_200,
        },
    ),
    "a whole UNet's dump": (
        motion_module() | UNET_AROUND,
        {"family": "motion_module", "version": "v3", "parameters": 417_137_600, "note": "whole UNet"},
    ),
    "PIA": (
        motion_module(mid=True) | {"conv_in.weight": z(320, 9, 3, 3), "conv_in.bias": z(320)},
        {"family": "motion_module", "version": "pia", "base": "sd1", "note": "as pia"},
    ),
    "AnimateLCM-I2V": (
        motion_module(mid=True, frames=0) | {"img_encoder.conv_in.weight": z(320, 4, 3, 3)},
        {"family": "motion_module", "version": "animatelcm-i2v", "note": "image encoder"},
    ),
    "SparseCtrl of pictures": (
        {"controlnet_cond_embedding.weight": z(320, 5, 1, 1), "conv_in.weight": z(320, 4, 3, 3)} | motion_module(),
        {"family": "sparse_control", "version": "rgb", "layout": "official", "base": "sd1"},
    ),
    "SparseCtrl of scribbles": (
        {"controlnet.controlnet_cond_embedding.conv_in.weight": z(16, 4, 3, 3)} | motion_module(),
        {"family": "sparse_control", "version": "scribble"},
    ),
    # Checkpoints.
    "SD 1.x": (
        SD1 | SCHEDULE,
        {
            "family": "checkpoint",
            "version": None,
            "layout": "ldm",
            "base": "sd1",
            "dtype": "float16",
            "note": None,
            "parameters": sum(t.numel() for name, t in SD1.items() if "position_ids" not in name),
        },
    ),
    "SD 1.x with EMA": (
        SD1 | {"model_ema.diffusion_modelinput_blocks00weight": z(320, 4, 3, 3, dtype=torch.float32)},
        {"family": "checkpoint", "base": "sd1", "dtype": "float16", "note": "EMA"},
    ),
    "SD 1.x with nothing but the EMA UNet": (
        EMA | VAE | SD1_TEXT,
        {"family": "checkpoint", "version": None, "layout": "ldm", "base": "sd1", "note": "averaged (EMA) one"},
    ),
    "an EMA UNet of SDXL for inpainting": (
        {
            "model_ema.diffusion_modelinput_blocks00weight": z(320, 9, 3, 3),
            "model_ema.diffusion_modelmiddle_block1transformer_blocks0attn2to_vweight": z(1280, 2048),
        },
        {"family": "checkpoint", "version": "inpainting", "base": "sdxl"},
    ),
    "VAE with its trainer's averages": (
        VAE | {"model_ema.decay": z(), "model_ema.decoderconv_inweight": z(512, 4, 3, 3)},
        {"family": "vae", "layout": "ldm"},
    ),
    "SD 1.x without VAE": (unet() | SD1_TEXT, {"family": "checkpoint", "base": "sd1", "note": "no VAE"}),
    "SD 1.x's UNet": (unet(), {"family": "checkpoint", "base": "sd1", "note": "no text encoder"}),
    "SD 2": (unet(1024) | VAE | SD2_TEXT, {"family": "checkpoint", "base": "sd2", "note": None}),
    "SDXL": (unet(2048) | VAE | SDXL_TEXT, {"family": "checkpoint", "base": "sdxl", "note": None}),
    "SDXL of v-prediction": (unet(2048) | VAE | SDXL_TEXT | {"v_pred": z()}, {"base": "sdxl", "note": "predict v"}),
    "SDXL in miniature": (unet(32) | VAE | SDXL_TEXT, {"family": "checkpoint", "base": "sdxl"}),
    "SDXL refiner": (unet(1280) | VAE | REFINER_TEXT, {"family": "checkpoint", "base": "sdxl-refiner"}),
    "inpainting": (unet(channels=9) | VAE | SD1_TEXT, {"family": "checkpoint", "version": "inpainting", "base": "sd1"}),
    "pix2pix": (unet(channels=8) | VAE | SD1_TEXT, {"family": "checkpoint", "version": "pix2pix", "base": "sd1"}),
    "pix2pix, whole": (
        unet(channels=8, extra={f"{LDM}out.2.weight": z(4, 320, 3, 3)}) | VAE | SD1_TEXT,
        {"family": "checkpoint", "version": "pix2pix", "base": "sd1"},
    ),
    "latents of eight channels": (
        unet(channels=8, extra={f"{LDM}out.2.weight": z(8, 320, 3, 3)}) | VAE | SD1_TEXT,
        {"family": "checkpoint", "version": None, "base": "sd1"},
    ),
    "SD 2 depth": (unet(1024, channels=5) | SD2_TEXT, {"version": "depth", "base": "sd2"}),
    "SD 3": (
        {f"{LDM}joint_blocks.0.context_block.adaLN_modulation.1.bias": z(9216)},
        {"family": "checkpoint", "base": "sd3"},
    ),
    "Flux": ({"double_blocks.0.img_attn.norm.key_norm.scale": z(128)}, {"family": "checkpoint", "base": "flux"}),
    "a UNet of diffusers": (
        {
            "conv_in.weight": z(320, 9, 3, 3),
            "time_embedding.linear_1.weight": z(1280, 320),
            "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": z(320, 768),
        },
        {"family": "checkpoint", "version": "inpainting", "layout": "diffusers", "base": "sd1", "note": "UNet alone"},
    ),
    "CLIP-L": (CLIP_L, {"family": "checkpoint", "layout": "diffusers", "base": None, "note": "text encoder alone"}),
    "OpenCLIP of SD 2": (
        {"text_model.encoder.layers.0.self_attn.q_proj.weight": z(1024, 1024)}
        | {"text_model.embeddings.token_embedding.weight": z(49408, 1024)},
        {"family": "checkpoint", "base": "sd2"},
    ),
    "VAE": (
        {name.removeprefix("first_stage_model."): tensor for name, tensor in VAE.items()},
        {"family": "vae", "layout": "ldm", "base": None},
    ),
    "VAE under its checkpoint's names": (VAE, {"family": "vae", "layout": "ldm"}),
    "VAE of diffusers": (
        {"encoder.down_blocks.0.resnets.0.norm1.weight": z(128), "decoder.conv_in.weight": z(512, 4, 3, 3)},
        {"family": "vae", "layout": "diffusers", "base": None},
    ),
    "VAE of Flux": (
        {"encoder.down.0.block.0.norm1.weight": z(128), "decoder.conv_in.weight": z(512, 16, 3, 3)},
        {"family": "vae", "base": "other", "note": "16 channels"},
    ),
    # Embeddings.
    "embedding of A1111": (
        {"string_to_token.*": z(dtype=torch.int64), "string_to_param.*": z(3, 768, dtype=torch.float32)},
        {
            "family": "textual_inversion",
            "version": "3 vectors",
            "layout": "a1111",
            "base": "sd1",
            "dtype": "float32",
            "parameters": 2304,
        },
    ),
    "embedding of kohya": ({"emb_params": z(1, 1024)}, {"version": "1 vector", "base": "sd2"}),
    "embedding of diffusers": (
        {"<my cat>": z(768)},
        {"family": "textual_inversion", "layout": "diffusers", "version": "1 vector", "base": "sd1"},
    ),
    "embedding of any word": ({"mycat": z(2, 768)}, {"family": "textual_inversion", "version": "2 vectors"}),
    "embedding of SDXL": (
        {"clip_l": z(2, 768), "clip_g": z(2, 1280)},
        {"family": "textual_inversion", "version": "2 vectors", "layout": "a1111", "base": "sdxl", "parameters": 4096},
    ),
    # What else lies in such folders.
    "ControlNet": (
        {"control_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": z(320, 768)},
        {"family": "controlnet", "version": "ControlNet", "layout": "ldm", "base": "sd1"},
    ),
    "ControlNet of diffusers": (
        {
            "conv_in.weight": z(320, 4, 3, 3),
            "time_embedding.linear_1.weight": z(1280, 320),
            "controlnet_cond_embedding.conv_in.weight": z(16, 3, 3, 3),
            "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight": z(640, 2048),
        },
        {"family": "controlnet", "layout": "diffusers", "base": "sdxl"},
    ),
    "ControlNet difference": (
        {
            "difference": z(1),
            "control_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": z(320, 768),
        },
        {"family": "controlnet", "version": "ControlNet difference", "layout": "ldm", "base": "sd1"},
    ),
    "ControlNet union": (
        {
            "controlnet_cond_embedding.conv_in.weight": z(16, 3, 3, 3),
            "task_embedding": z(6, 320),
            "spatial_ch_projs.weight": z(320, 320),
            "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight": z(640, 2048),
        },
        {"family": "controlnet", "version": "ControlNet union", "base": "sdxl"},
    ),
    "ControlNet-XS": (
        {
            "controlnet_cond_embedding.conv_in.weight": z(16, 3, 3, 3),
            "down_blocks.0.base_to_ctrl.0.weight": z(32, 320, 1, 1),
        },
        {"family": "controlnet", "version": "ControlNet-XS", "layout": "diffusers"},
    ),
    "Control-LoRA": (
        {"lora_controlnet": z(0), "input_blocks.4.1.transformer_blocks.0.attn2.to_k.down": z(128, 2048)},
        {"family": "controlnet", "version": "Control-LoRA"},
    ),
    "ControlNet-LLLite": (
        {"lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.down.0.weight": z(64, 640)},
        {"family": "controlnet", "version": "ControlNet-LLLite"},
    ),
    "T2I-Adapter": (
        {"body.0.block1.weight": z(320, 320, 3, 3), "conv_in.weight": z(320, 64, 3, 3)},
        {"family": "t2i_adapter"},
    ),
    "IP-Adapter": (
        {"image_proj.proj.weight": z(3072, 1024), "ip_adapter.1.to_k_ip.weight": z(320, 768)},
        {"family": "ip_adapter", "base": "sd1"},
    ),
    "IP-Adapter FaceID with its LoRA": (
        {
            "image_proj.proj.0.weight": z(1024, 512),
            "ip_adapter.1.to_k_ip.weight": z(640, 2048),
            "ip_adapter.0.to_k_lora.down.weight": z(128, 640),
        },
        {"family": "ip_adapter", "base": "sdxl"},
    ),
    "ESRGAN": ({"body.0.rdb1.conv1.weight": z(32, 64, 3, 3)}, {"family": "upscaler"}),
    "ESRGAN of old": ({"model.1.sub.0.RDB1.conv1.0.weight": z(32, 64, 3, 3)}, {"family": "upscaler"}),
    "a language model": (
        {"model.layers.0.self_attn.q_proj.weight": z(4096, 4096), "lm_head.weight": z(32000, 4096)},
        {"family": "unknown", "base": None, "note": "model.layers.0.self_attn.q_proj.weight, lm_head.weight"},
    ),
    "one bias": ({"fc.bias": z(768)}, {"family": "unknown"}),
    "one number": ({"x": z(1)}, {"family": "unknown"}),
    "nothing": ({}, {"family": "unknown", "parameters": 0, "dtype": None}),
}


@pytest.mark.parametrize("row", MODELS)
def test_each_kind_is_told(row):
    assert_told(*MODELS[row])


def test_own_motion_modules_say_what_they_are():
    config = MotionConfig.for_version("v1")
    tensors = motion_module((32, 32), frames=0)
    found = identify(TensorFile("x", tensors, {"motion_config": config.model_dump_json()}))
    assert (found.family, found.version, found.note) == ("motion_module", "v1", None)


def test_the_hedge_is_for_files_that_leave_it_open():
    config = MotionConfig.for_version("animatelcm").model_dump_json()
    for tensors, metadata in (
        (motion_module(mid=True, frames=64), {}),
        (motion_module(mid=True, frames=0), {"motion_config": config}),
    ):
        found = identify(TensorFile("x", tensors, metadata))
        assert found.version == "animatelcm"
        assert "looks the same" not in found.note


def test_a_checkpoint_of_nothing_but_the_averaged_unet_is_loaded_and_may_be_converted(tmp_path):
    base_folder = str(build_base(tmp_path / "base", layers_per_block=2))
    base = {"unet": load_unet(base_folder), "vae": load_vae(base_folder)}
    base["text_encoder"] = load_text_encoder(base_folder)[1]
    states = {part: module.state_dict() for part, module in base.items()}
    tensors = ldm_file(states)
    path = tmp_path / "ema.ckpt"
    torch.save(
        {
            f"model_ema.diffusion_model{name.removeprefix(LDM).replace('.', '')}"
            if name.startswith(LDM)
            else name: tensor
            for name, tensor in tensors.items()
        },
        path,
    )
    loaded = checkpoints.load(str(path), base)
    assert loaded.keys() == states.keys()
    for part, state in states.items():
        assert loaded[part].keys() == state.keys()
        assert all(torch.equal(loaded[part][name], weight) for name, weight in state.items())
    assert writer(identify_uri(str(path)), "diffusers") is checkpoints.to_diffusers


TEXT = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.text_attention.to_k.weight"
CROSS = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"


@pytest.mark.parametrize(
    ("tensors", "config", "told"),
    [
        (motion_module((64, 64, 64)) | {TEXT: z(64, 128)}, {"text_width": 128}, ("v3", None, 128)),
        (motion_module() | {TEXT: z(320, 768)}, {"text_width": 768}, ("v3", "sd1", 768)),
        (motion_module() | {TEXT: z(320, 1024)}, {"text_width": 1024}, ("v3", "sd2", 1024)),
        (motion_module() | {TEXT: z(320, 1024)}, None, ("v3", "sd2", 1024)),  # whose metadata was lost
        (motion_module(SDXL_WIDTHS) | {TEXT: z(320, 2048)}, {"text_width": 2048}, ("sdxl", "sdxl", 2048)),
        (motion_module(SDXL_WIDTHS), {}, ("sdxl", "sdxl", None)),
        (motion_module((64, 64, 64)), {}, ("sdxl", None, None)),
        (motion_module(), {}, ("v3", "sd1", None)),
        (unet(128), None, (None, "sd1", 128)),  # SD 1.x in miniature: its blocks have names of no other
        (unet(2048), None, (None, "sdxl", 2048)),
        ({f"{CROSS}_lora.down.weight": z(4, 128), f"{CROSS}_lora.up.weight": z(64, 4)}, None, ("LoRA", None, 128)),
        ({"emb_params": z(2, 128)}, None, ("2 vectors", None, 128)),
        ({"clip_l": z(2, 768), "clip_g": z(2, 1280)}, None, ("2 vectors", "sdxl", None)),
    ],
)
def test_the_base_is_that_of_the_text_that_is_read(tensors, config, told):
    version = "sdxl" if told[0] == "sdxl" else "v3"
    metadata = {}
    if config is not None:
        own = MotionConfig.for_version(version).model_copy(update=config)
        metadata = {"motion_config": own.model_dump_json()}
    found = identify(TensorFile("x", tensors, metadata))
    assert (found.version, found.base, found.text_width) == told


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("motion_module.safetensors", "motion_module      v2        unknown (text 128 wide)"),
        ("chalk_style.safetensors", "lora               LoRA      unknown (text 128 wide)"),
        ("brown.safetensors", "textual_inversion  1 vector  unknown (text 128 wide)"),
        ("base", "checkpoint         -         unknown (text 128 wide)"),
    ],
)
def test_the_shipped_files_are_of_no_published_base(capsys, name, row):
    weights = Path(animatediff.__file__).parent / "sprites" / "weights"
    with pytest.raises(SystemExit):
        main(["identify", *map(str, sorted(weights.iterdir()))])
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if line.endswith(f"{name}"))
    assert line.startswith(row)
