"""The precision in which a base's VAE encodes."""

import logging

from animatediff.weights.base_facts import BaseFacts
from pipelines.settings import IngestConfig

logger = logging.getLogger(__name__)


def vae_dtype(config: IngestConfig, facts: BaseFacts, *, use_gpu: bool) -> str:
    """Return the name of the precision: what the config says, or what suits the VAE and the device.

    Args:
        config: the job's.
        facts: of the base.
        use_gpu: whether it encodes on a GPU.
    """
    if config.vae_dtype != "auto":
        return config.vae_dtype
    return "float16" if use_gpu and not facts.upcasts_vae else "float32"


def warn_of_overflow(config: IngestConfig, facts: BaseFacts) -> None:
    """Tell a user who has asked for float16 that this VAE is none for it."""
    if config.vae_dtype == "float16" and facts.upcasts_vae:
        logger.warning(
            "vae_dtype: the VAE of base %s overflows in float16, as its config says (force_upcast), and clips that it "
            "spoils are set aside as nan_latent: leave vae_dtype out, or set bfloat16 or float32",
            facts.base,
        )
