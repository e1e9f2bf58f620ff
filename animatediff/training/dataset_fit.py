"""Whether a dataset's latents are those of a base: found out before any worker starts."""

from animatediff.data.manifest import Manifest
from animatediff.errors import UserError
from animatediff.weights.base_facts import BaseFacts
from animatediff.weights.layouts.architectures import CONFIGS

_NAMES = {"sd1": "Stable Diffusion 1.x", "sdxl": "SDXL"}
_SCALING_FACTORS = {config["vae"]["scaling_factor"]: _NAMES[base] for base, config in CONFIGS.items()}


def check_dataset_fits(base: str, manifest: Manifest) -> None:
    """Refuse latents of Stable Diffusion's VAE for SDXL, and the reverse: both have 4 channels, and mean other things.

    Raises:
        UserError: it is so; or an SDXL base could not be told the clips' sizes, since neither it nor the manifest says
            how many pixels a latent stands for.
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
