"""IP-Adapters with random weights for any UNet, in the official layout, and a small image encoder to go with them.

The layout is written down here once more, so that the reader's tests do not lean on the reader.
"""

import math

import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

EMBEDDING_WIDTH, STATES_WIDTH, IMAGE_SIZE = 20, 16, 32  # of `build_image_encoder`
NUM_STATES = 1 + (IMAGE_SIZE // 8) ** 2
HEAD = 64


def projection_shapes(variant, clip_width, d):
    """Shapes of `image_proj.*`; d is the width of the text embeddings."""
    if variant == "base":
        return {"proj.weight": (4 * d, clip_width), "proj.bias": (4 * d,), "norm.weight": (d,), "norm.bias": (d,)}
    if variant == "full-face":
        return {
            **{"proj.0.weight": (clip_width, clip_width), "proj.0.bias": (clip_width,)},
            **{"proj.2.weight": (d, clip_width), "proj.2.bias": (d,), "proj.3.weight": (d,), "proj.3.bias": (d,)},
        }
    if variant == "FaceID":
        return {
            **{"proj.0.weight": (1024, 512), "proj.0.bias": (1024,), "proj.2.weight": (4 * d, 1024)},
            **{"proj.2.bias": (4 * d,), "norm.weight": (d,), "norm.bias": (d,)},
        }
    if variant == "FaceID plus":
        return projection_shapes("FaceID", clip_width, d) | {"perceiver_resampler.proj_in.weight": (d, clip_width)}
    width, inner = 24, HEAD
    shapes = {
        **{"latents": (1, 5, width), "proj_in.weight": (width, clip_width), "proj_in.bias": (width,)},
        **{"proj_out.weight": (d, width), "proj_out.bias": (d,), "norm_out.weight": (d,), "norm_out.bias": (d,)},
    }
    for i in range(4):
        attention, feed_forward = f"layers.{i}.0", f"layers.{i}.1"
        for norm in (f"{attention}.norm1", f"{attention}.norm2", f"{feed_forward}.0"):
            shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
        shapes |= {f"{attention}.to_q.weight": (inner, width), f"{attention}.to_kv.weight": (2 * inner, width)}
        shapes |= {f"{attention}.to_out.weight": (width, inner)}
        shapes |= {f"{feed_forward}.1.weight": (4 * width, width), f"{feed_forward}.3.weight": (width, 4 * width)}
    return shapes


def official_order(unet):
    """The cross-attentions in the order of IP-Adapter's files: down, up, middle."""
    blocks = [*unet.down_blocks, *unet.up_blocks, unet.mid_block]
    attentions = [attention for block in blocks for attention in getattr(block, "attentions", [])]
    return [block.attn2 for attention in attentions for block in attention.transformer_blocks]


def ip_adapter(unet, variant="base", *, seed=0, clip_width=None, token_width=None):
    """The tensors of a file that fits the UNet and `build_image_encoder`, weights such that images count."""
    clip_width = clip_width or (EMBEDDING_WIDTH if variant == "base" else STATES_WIDTH)
    layers = official_order(unet)
    d = token_width or layers[0].to_k.in_features
    shapes = {f"image_proj.{name}": shape for name, shape in projection_shapes(variant, clip_width, d).items()}
    for place, layer in enumerate(layers):
        for letter in "kv":
            shapes[f"ip_adapter.{2 * place + 1}.to_{letter}_ip.weight"] = (layer.to_k.out_features, d)
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) / math.sqrt(shape[-1]) + ("norm" in name and "weight" in name)
        for name, shape in shapes.items()
    }


def write_ip_adapter(path, *args, **options):
    """The path of such a file."""
    save_file(ip_adapter(*args, **options), path)
    return str(path)


def build_image_encoder(folder, *, seed=0, **config):
    """The folder of a CLIP vision model with random weights, as transformers writes it."""
    sizes = {"hidden_size": STATES_WIDTH, "projection_dim": EMBEDDING_WIDTH, "image_size": IMAGE_SIZE}
    layers = {"num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32, "patch_size": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPVisionModelWithProjection(
            CLIPVisionConfig(**{**sizes, **layers, "initializer_factor": 8.0, **config})
        )
        model.save_pretrained(folder)
    return str(folder)
