"""Which Stable Diffusion a base is, and the numbers that others need of it: read once, from its configs."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from diffusers import DDIMScheduler
from transformers import CLIPTextConfig

from animatediff.errors import UserError, any_error_as_user_error, errors_with_field
from animatediff.weights import base_configs
from animatediff.weights.identify.base import BASE_OF_TEXT_WIDTH
from animatediff.weights.layouts.architectures import PARTS, KnownBase
from animatediff.weights.layouts.families import Base
from animatediff.weights.reading.files import local_copy, read_json
from animatediff.weights.reading.hub import reason

_CONFIGURED: dict[str, Any] = {**PARTS, "scheduler": DDIMScheduler}  # any scheduler's class reads any other's config

# What the classes of diffusers and transformers take where an older config has not the field.
_CHANNELS, _SCALING_FACTOR, _TEXT_LAYERS = 4, 0.18215, 12


class BaseFacts:
    """What a base is, on a driver as on a worker. No weights are read, and each config when it is first asked for.

    Args:
        base: a diffusers folder, a URI, or a hub id.

    Raises:
        UserError: by each attribute, that a config cannot be read, or has not what is asked for.
    """

    def __init__(self, base: str) -> None:
        self.base = base

    def read(self) -> Self:
        """Read the configs of UNet and VAE now, for who asks when the base may be out of reach.

        Raises:
            UserError: one of them cannot be read, or the VAE is no AutoencoderKL.
        """
        _ = self.unet, self._vae
        return self

    @cached_property
    def unet(self) -> Mapping[str, Any]:
        """The UNet's config."""
        return load_config(self.base, "unet")

    @property
    def architecture(self) -> KnownBase:
        """Whose layers it has, in any size: SDXL's, with two text encoders, or Stable Diffusion 1.x's."""
        return "sdxl" if self.unet.get("addition_embed_type") == "text_time" else "sd1"

    @property
    def published_base(self) -> Base | None:
        """Which published model it is; None for one of another size."""
        if self.architecture == "sdxl":
            return "sdxl"
        return None if self.text_width is None else BASE_OF_TEXT_WIDTH.get(self.text_width)

    @property
    def text_width(self) -> int | None:
        """Numbers a token of the text embeddings that the UNet attends to; None where its layers differ."""
        width = self.unet.get("cross_attention_dim")
        return width if isinstance(width, int) else None

    @property
    def unet_channels(self) -> int:
        """Channels that the UNet takes: those of the latents, and more in inpainting models and the like."""
        return self.unet.get("in_channels", _CHANNELS)

    @cached_property
    def _vae(self) -> Mapping[str, Any]:
        config = load_config(self.base, "vae")
        if not isinstance(config.get("block_out_channels"), list | tuple):
            name = config.get("_class_name")
            raise UserError(f"the VAE of base {self.base} has the class {name}, an AutoencoderKL is needed")
        return config

    @property
    def latent_factor(self) -> int:
        """Pixels a side that one latent covers: each of the VAE's blocks but the last halves the size."""
        return 2 ** (len(self._vae["block_out_channels"]) - 1)

    @property
    def latent_channels(self) -> int:
        """Channels of the VAE's latents."""
        return self._vae.get("latent_channels", _CHANNELS)

    @property
    def scaling_factor(self) -> float:
        """What the VAE's latents are multiplied by for the UNet."""
        return self._vae.get("scaling_factor", _SCALING_FACTOR)

    @cached_property
    def text_layers(self) -> int:
        """Layers of the (first) text encoder."""
        return load_config(self.base, "text_encoder").get("num_hidden_layers", _TEXT_LAYERS)

    @cached_property
    def prediction_type(self) -> str:
        """What the UNet predicts, in diffusers' words; `epsilon`, as most do, where no scheduler is there to say it."""
        try:
            return str(load_config(self.base, "scheduler").get("prediction_type", "epsilon"))
        except UserError:
            return "epsilon"

    def latent_shape(self, num_frames: int, *, height: int, width: int) -> tuple[int, int, int, int]:
        """Return the shape (f c h w) of the latents of clips of so many pixels, which divide by the latent factor."""
        return num_frames, self.latent_channels, height // self.latent_factor, width // self.latent_factor

    def size_problem(self, side: str, pixels: int) -> str | None:
        """Return why clips cannot have a side of so many pixels, and what to set instead; None where they can."""
        factor = self.latent_factor
        if pixels % factor == 0:
            return None
        return f"{side} {pixels} is no multiple of {factor}, use {max(factor, round(pixels / factor) * factor)}"


def resolve(base: str) -> str:
    """Return what diffusers can open: a local folder's path, or a hub id (`owner/name`) as it is.

    Raises:
        UserError: `base` is a path or URI with no model folder behind it.
    """
    looks_like_hub_id = "://" not in base and base.count("/") == 1 and not base.startswith((".", "/", "~"))
    if looks_like_hub_id and not Path(base).exists():
        return base
    with errors_with_field("base"):
        folder = local_copy(base)
    if not (folder / "model_index.json").is_file():
        raise UserError(f"base {base} is no diffusers model folder: it has no model_index.json")
    return str(folder)


def load_config(base: str, part: str) -> dict[str, Any]:
    """Return the config of a part (`unet`, `vae`, `text_encoder`, `scheduler`), without its weights.

    Raises:
        UserError: the base has no such part, or its config cannot be read or used.
    """
    folder, name = resolve(base), "scheduler_config.json" if part == "scheduler" else "config.json"
    source = config_name(base, part)
    if Path(folder).is_dir():
        config = read_json(Path(folder) / part / name, source)
    else:
        with any_error_as_user_error(f"cannot read {source}", reason):
            if part.startswith("text_encoder"):
                config = CLIPTextConfig.get_config_dict(folder, subfolder=part)[0]
            else:
                config = dict(_CONFIGURED[part].load_config(folder, subfolder=part))
    if part.startswith("text_encoder") and config.get("model_type") == "clip":  # of a whole CLIP
        config = config.get("text_config", config)
    if part != "scheduler":  # of which one word is read, and which may well say that a bound is infinite
        base_configs.check_values(config, source)
    return config


def config_name(base: str, part: str) -> str:
    """Return what a part's config is called in messages."""
    return f"the config of the {part} of base {base}"
