"""Whether a dataset's latents are those of a base: found out before any worker starts."""

import logging

from animatediff.data.manifest import Manifest
from animatediff.errors import UserError
from animatediff.models.vae import fingerprint, has_fingerprint
from animatediff.weights.base import load_vae
from animatediff.weights.base_facts import BaseFacts
from animatediff.weights.layouts.architectures import CONFIGS

logger = logging.getLogger(__name__)

_NAMES = {"sd1": "Stable Diffusion 1.x", "sdxl": "SDXL"}
_SCALING_FACTORS = {config["vae"]["scaling_factor"]: _NAMES[base] for base, config in CONFIGS.items()}
_SHOWN_DIGITS = 12


def check_dataset_fits(base: str, manifest: Manifest) -> None:
    """Refuse latents of Stable Diffusion's VAE for SDXL, and the reverse; warn of those that any other VAE made.

    Both have 4 channels, and mean other things. The VAE of one kind and those that were fine-tuned from it read each
    other's latents with small errors; one of which the decoder alone was fine-tuned makes the same latents.

    Raises:
        UserError: they are of the other kind; or an SDXL base could not be told the clips' sizes, since neither it nor
            the manifest says how many pixels a latent stands for.
    """
    facts = BaseFacts(base)
    if facts.architecture == "sdxl" and manifest.latent_factor is None:
        facts.read()
    try:
        own = facts.scaling_factor
    except UserError:  # a base may come without its VAE
        return
    of_dataset, of_base = (_SCALING_FACTORS.get(factor) for factor in (manifest.scaling_factor, own))
    if of_dataset is not None and of_base is not None and of_dataset != of_base:
        raise UserError(
            f"the dataset's latents are those of {of_dataset}'s VAE (scaling factor {manifest.scaling_factor}), and "
            f"base {base} has {of_base}'s ({own}): ingest with this base, or take one that has the dataset's VAE"
        )
    _warn_of_another_vae(base, own, manifest)


def _warn_of_another_vae(base: str, scaling_factor: float, manifest: Manifest) -> None:
    try:
        vae = load_vae(base)
    except UserError:  # told by who needs it
        return
    if not has_fingerprint(vae, manifest.encoder_fp):
        logger.warning(
            "the dataset was encoded by another VAE (fingerprint %s, scaling factor %g) than base %s has (%s in "
            "float32, %g): their latents are close if one was fine-tuned from the other, and strangers otherwise; "
            "ingest with this base, or train on the one that was ingested with",
            *(manifest.encoder_fp[:_SHOWN_DIGITS], manifest.scaling_factor),
            *(base, fingerprint(vae, "float32")[:_SHOWN_DIGITS], scaling_factor),
        )
