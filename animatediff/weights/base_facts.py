"""Which Stable Diffusion a base is, and the numbers that others need of it: read once, from its configs."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self, get_args

from diffusers import DDIMScheduler, DiffusionPipeline
from transformers import CLIPTextConfig

from animatediff.diffusion.noise_schedule import PredictionType
from animatediff.errors import UserError, any_error_as_user_error, errors_with_field
from animatediff.weights import base_configs
from animatediff.weights.identify.base import BASE_OF_TEXT_WIDTH
from animatediff.weights.identify.messages import model_name
from animatediff.weights.identify.model import UNUSUAL_INPUTS
from animatediff.weights.layouts.architectures import CONFIGS, PARTS, KnownBase
from animatediff.weights.layouts.families import Base
from animatediff.weights.prediction import Prediction, of_scheduler
from animatediff.weights.reading.files import local_copy, read_json
from animatediff.weights.reading.hub import reason

_CONFIGURED: dict[str, Any] = {**PARTS, "scheduler": DDIMScheduler}  # any scheduler's class reads any other's config

ZEROES_EMPTY = "force_zeros_for_empty_prompt"
"""What `model_index.json` says of an empty negative prompt; without it, it is so."""

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
    def num_decoder_layers(self) -> int:
        """Layers of the UNet's up blocks: one more a block than `layers_per_block`, which diffusers has as 2."""
        layers, num_blocks = self.unet.get("layers_per_block", 2), len(self.unet.get("up_block_types", range(4)))
        return sum(layers) + num_blocks if isinstance(layers, list | tuple) else (layers + 1) * num_blocks

    @property
    def architecture(self) -> KnownBase:
        """Whose layers it has, in any size: SDXL's, with two text encoders, or Stable Diffusion 1.x's."""
        return "sdxl" if self.unet.get("addition_embed_type") == "text_time" else "sd1"

    @property
    def published_base(self) -> Base | None:
        """Which published model it is, SDXL in any size; None for another of no published size."""
        if self.architecture == "sdxl":
            return "sdxl-refiner" if BASE_OF_TEXT_WIDTH.get(self.text_width or 0) == "sdxl-refiner" else "sdxl"
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

    @property
    def upcasts_vae(self) -> bool:
        """Whether the VAE overflows in half precision, as SDXL's own does.

        diffusers asks only SDXL's configs: others have the field from the class's default.
        """
        return self._vae.get("force_upcast", True) is True and self._has_vae_of_sdxl

    @property
    def _has_vae_of_sdxl(self) -> bool:
        try:
            return self.architecture == "sdxl"
        except UserError:  # a VAE without its UNet is enough to encode
            return self.scaling_factor == CONFIGS["sdxl"]["vae"]["scaling_factor"]

    @property
    def trained_side(self) -> int:
        """Pixels a side of the square pictures that the UNet was made for; 0 where its config does not say."""
        size = self.unet.get("sample_size")
        return size * self.latent_factor if isinstance(size, int) else 0

    @cached_property
    def text_layers(self) -> int:
        """Layers of the text encoder; of SDXL's two, those of the one that has fewer."""
        parts = ("text_encoder", "text_encoder_2") if self.architecture == "sdxl" else ("text_encoder",)
        return min(load_config(self.base, part).get("num_hidden_layers", _TEXT_LAYERS) for part in parts)

    @cached_property
    def zeroes_empty_negative_prompt(self) -> bool:
        """Whether an empty negative prompt stands for zeros, and not for the embedding of no words, as SDXL's does."""
        return self.architecture == "sdxl" and _load_index(self.base).get(ZEROES_EMPTY, True) is not False

    @cached_property
    def prediction(self) -> Prediction | None:
        """What the UNet predicts, as the base's scheduler says; None where there is none, or it does not say it."""
        try:
            return of_scheduler(load_config(self.base, "scheduler"))
        except UserError:
            return None

    @property
    def prediction_type(self) -> str:
        """What the UNet predicts, in diffusers' words; `epsilon`, as most do, where nobody says it."""
        return "epsilon" if self.prediction is None else self.prediction.prediction_type

    def latent_shape(self, num_frames: int, *, height: int, width: int) -> tuple[int, int, int, int]:
        """Return the shape (f c h w) of the latents of clips of so many pixels, which divide by the latent factor."""
        return num_frames, self.latent_channels, height // self.latent_factor, width // self.latent_factor

    def size_problem(self, side: str, pixels: int) -> str | None:
        """Return why clips cannot have a side of so many pixels, and what to set instead; None where they can."""
        factor = self.latent_factor
        if pixels % factor == 0:
            return None
        return f"{side} {pixels} is no multiple of {factor}, use {max(factor, round(pixels / factor) * factor)}"


def find_architecture(base: BaseFacts) -> KnownBase | None:
    """Return whose layers a base has; None where it cannot be read, for who leaves it to others to tell that."""
    try:
        return base.architecture
    except UserError:
        return None


def check_kind(base: BaseFacts) -> None:
    """Refuse a base of a kind that no job takes, though a motion module may fit its layers.

    Raises:
        UserError: the line says what it is, and what to take.
    """
    name, kind = base.base, base.published_base
    if kind not in (None, "sd1", "sdxl"):
        raise UserError(f"base {name} is {model_name(kind)}: take a Stable Diffusion 1.x or SDXL base")
    if base.prediction_type not in get_args(PredictionType):
        raise UserError(
            f"base {name} predicts {base.prediction_type}, as its scheduler says: take one that predicts "
            f"{' or '.join(get_args(PredictionType))}"
        )


def check_prediction(base: BaseFacts, prediction_type: str) -> None:
    """Refuse a base that predicts the velocity in a noise schedule of noise.

    Args:
        base: what its configs say.
        prediction_type: of the noise schedule that it is trained or sampled with.

    Raises:
        UserError: the line says what to do.
    """
    if base.prediction_type not in ("epsilon", prediction_type):
        raise UserError(
            f"base {base.base} predicts {base.prediction_type}, and the noise schedule that is set is for models that "
            f"predict {prediction_type}: leave that out, or set its prediction_type to {base.prediction_type}"
        )


def check_channels(base: BaseFacts) -> None:
    """Refuse a base whose UNet takes more than latents, as inpainting models do.

    Raises:
        UserError: the line says what it is for.
    """
    channels = base.unet_channels
    if channels != base.latent_channels:
        use = f", as for {UNUSUAL_INPUTS[channels]}" if channels in UNUSUAL_INPUTS else ""
        raise UserError(
            f"the UNet of base {base.base} takes {channels} channels{use}, and its VAE's latents have "
            f"{base.latent_channels}: take a text-to-image base"
        )


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


def _load_index(base: str) -> dict[str, Any]:
    """Return the `model_index.json` of a base."""
    folder, name = resolve(base), f"the model_index.json of base {base}"
    if Path(folder).is_dir():
        return read_json(Path(folder) / "model_index.json", name)
    with any_error_as_user_error(f"cannot read {name}", reason):
        return dict(DiffusionPipeline.load_config(folder))


def config_name(base: str, part: str) -> str:
    """Return what a part's config is called in messages."""
    return f"the config of the {part} of base {base}"
