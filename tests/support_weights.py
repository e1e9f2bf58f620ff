"""What tests of weights files need: SDXL in miniature, hashes, and writers of the original (LDM, sgm) layouts.

The writers are the oracle of the package's reader. So they take nothing from it: where a layer sits in the published
SD 1.x and SDXL files is written down here once more, in the other direction.
"""

import hashlib
import re

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
UNET_TOP = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.3.0.op",
    "down_blocks.1.downsamplers.0.conv": "input_blocks.6.0.op",
    "down_blocks.2.downsamplers.0.conv": "input_blocks.9.0.op",
}
UPSAMPLERS = {
    "sd1": {0: "output_blocks.2.1", 1: "output_blocks.5.2", 2: "output_blocks.8.2"},
    "sdxl": {0: "output_blocks.2.2", 1: "output_blocks.5.2"},
}


def unet_to_ldm(name, kind="sd1"):
    """A diffusers UNet key as the original repositories call it."""
    for new, old in UNET_TOP.items():
        if name.startswith(new + "."):
            return old + name.removeprefix(new)
    match = re.fullmatch(r"(down|mid|up)_blocks?\.(?:(\d+)\.)?(\w+?)\.(\d+)\.(.+)", name)
    side, block, module, layer, rest = match[1], int(match[2] or 0), match[3], int(match[4]), match[5]
    if module == "resnets":
        first, _, end = rest.partition(".")
        rest = f"{UNET_RESNET[first]}.{end}"
    if side == "mid":
        return f"middle_block.{2 * layer if module == 'resnets' else 1}.{rest}"
    if module == "upsamplers":
        return f"{UPSAMPLERS[kind][block]}.{rest}"
    first = 1 if side == "down" else 0
    place = "input" if side == "down" else "output"
    return f"{place}_blocks.{first + 3 * block + layer}.{int(module == 'attentions')}.{rest}"


def control_net_to_ldm(name, hint_layers=6):
    """A diffusers ControlNet key as the original repository calls it, without its `control_model.`."""
    if match := re.fullmatch(r"controlnet_down_blocks\.(\d+)\.(\w+)", name):
        return f"zero_convs.{match[1]}.0.{match[2]}"
    if name.startswith("controlnet_mid_block."):
        return name.replace("controlnet_mid_block.", "middle_block_out.0.")
    if match := re.fullmatch(r"controlnet_cond_embedding\.(?:blocks\.)?(conv_in|conv_out|\d+)\.(\w+)", name):
        layers = ["conv_in", *map(str, range(hint_layers)), "conv_out"]  # every second module is an activation
        return f"input_hint_block.{2 * layers.index(match[1])}.{match[2]}"
    return unet_to_ldm(name)


def vae_to_ldm(name, levels=4):
    """A diffusers VAE key as the original repositories call it."""
    name = re.sub(r"up_blocks\.(\d)", lambda m: f"up.{levels - 1 - int(m[1])}", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    for new, old in (
        ("down_blocks", "down"),
        ("resnets", "block"),
        ("downsamplers.0", "downsample"),
        ("upsamplers.0", "upsample"),
        ("mid_block.attentions.0", "mid.attn_1"),
        ("group_norm", "norm"),
        ("to_q", "q"),
        ("to_k", "k"),
        ("to_v", "v"),
        ("to_out.0", "proj_out"),
        ("conv_norm_out", "norm_out"),
        ("conv_shortcut", "nin_shortcut"),
    ):
        name = name.replace(new, old)
    return name


def vae_file(state):
    """A VAE alone, in the original layout: the attention's matrices are 1x1 convolutions."""
    ldm = {}
    for name, tensor in state.items():
        key = vae_to_ldm(name)
        ldm[key] = tensor[:, :, None, None] if "mid.attn_1" in key and tensor.ndim == 2 else tensor
    return {name: tensor.contiguous() for name, tensor in ldm.items()}


def open_clip_file(state):
    """SDXL's second text encoder as OpenCLIP stores it."""
    state = {name.removeprefix("text_model."): tensor for name, tensor in state.items()}
    ldm = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
        "text_projection": state["text_projection.weight"].T,
        "logit_scale": torch.tensor(4.6),
    }
    for name in state:
        if not name.startswith("encoder.layers."):
            continue
        layer, rest = name.removeprefix("encoder.layers.").split(".", 1)
        block = f"transformer.resblocks.{layer}."
        if match := re.fullmatch(r"self_attn\.q_proj\.(weight|bias)", rest):
            fused = [state[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            ldm[f"{block}attn.in_proj_{match[1]}"] = torch.cat(fused)
        elif not re.match(r"self_attn\.[kv]_proj", rest):
            for new, old in (
                ("self_attn", "attn"),
                ("layer_norm", "ln_"),
                ("mlp.fc1", "mlp.c_fc"),
                ("mlp.fc2", "mlp.c_proj"),
            ):
                rest = rest.replace(new, old)
            ldm[block + rest] = state[name]
    return {name: tensor.contiguous() for name, tensor in ldm.items()}


def ldm_file(states, kind="sd1"):
    """State dicts in diffusers' layout by part -> one state dict in the layout of the published `.safetensors`."""
    text = {
        "sd1": "cond_stage_model.transformer.text_model.",
        "sdxl": "conditioner.embedders.0.transformer.text_model.",
    }
    file = {
        f"model.diffusion_model.{unet_to_ldm(name, kind)}": tensor for name, tensor in states.get("unet", {}).items()
    }
    file |= {f"first_stage_model.{name}": tensor for name, tensor in vae_file(states.get("vae", {})).items()}
    for name, tensor in states.get("text_encoder", {}).items():
        file[text[kind] + name.removeprefix("text_model.")] = tensor
    if "text_encoder_2" in states:
        second = open_clip_file(states["text_encoder_2"])
        file |= {f"conditioner.embedders.1.model.{name}": tensor for name, tensor in second.items()}
    return {name: tensor.contiguous() for name, tensor in file.items()}


def tiny_sdxl(seed=0):
    """SDXL's four modules in miniature: its blocks, linear projections, added embedding and two text encoders."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8,
            down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            block_out_channels=[16, 32, 32],
            transformer_layers_per_block=[1, 2, 3],
            attention_head_dim=[2, 4, 4],
            norm_num_groups=8,
            cross_attention_dim=16 + 32,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 32,
        )
        vae = AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            block_out_channels=[8, 8, 16, 16],
            layers_per_block=1,
            norm_num_groups=4,
        )
        modules = {
            "unet": unet,
            "vae": vae,
            "text_encoder": CLIPTextModel(_text_config(16, "quick_gelu")),
            "text_encoder_2": CLIPTextModelWithProjection(_text_config(32, "gelu")),
        }
    return {part: module.eval() for part, module in modules.items()}


def _text_config(width, activation):
    return CLIPTextConfig(
        vocab_size=99,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=width,
        hidden_act=activation,
        bos_token_id=97,
        eos_token_id=98,
    )


def content_hash(resident):
    """SHA-256 over the names and bytes of all resident weights, as they are now."""
    digest = hashlib.sha256()
    for part, state in sorted(resident._states.items()):
        for name, tensor in sorted(state.items()):
            digest.update(f"{part}.{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
