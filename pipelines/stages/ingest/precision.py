"""The precision in which a base's VAE encodes."""

import logging

from diffusers import AutoencoderKL

from animatediff.errors import UserError
from animatediff.weights.base_facts import BaseFacts
from animatediff.weights.layouts.architectures import CONFIGS
from pipelines.settings import IngestConfig

logger = logging.getLogger(__name__)


def vae_dtype(config: IngestConfig, facts: BaseFacts, vae: AutoencoderKL, *, use_gpu: bool) -> str:
    """Return the name of the precision: what the config says, or what suits the VAE and the device.

    Args:
        config: the job's.
        facts: of the base.
        vae: the base's.
        use_gpu: whether it encodes on a GPU.
    """
    if config.vae_dtype != "auto":
        return config.vae_dtype
    return "float16" if use_gpu and not _overflows_in_float16(facts, vae) else "float32"


def warn_of_overflow(config: IngestConfig, facts: BaseFacts, vae: AutoencoderKL) -> None:
    """Tell a user who has asked for float16 that this VAE is none for it."""
    if config.vae_dtype == "float16" and _overflows_in_float16(facts, vae):
        logger.warning(
            "vae_dtype: the VAE of base %s overflows in float16, as its config says (force_upcast), and clips that it "
            "spoils are set aside as nan_latent: leave vae_dtype out, or set bfloat16 or float32",
            facts.base,
        )


def _overflows_in_float16(facts: BaseFacts, vae: AutoencoderKL) -> bool:
    # diffusers' pipelines ask SDXL's configs alone: others have the field from the class's default.
    return bool(vae.config.get("force_upcast", True)) and _is_of_sdxl(facts)


def _is_of_sdxl(facts: BaseFacts) -> bool:
    try:
        return facts.architecture == "sdxl"
    except UserError:  # a VAE without its UNet is enough to encode
        return facts.scaling_factor == CONFIGS["sdxl"]["vae"]["scaling_factor"]
