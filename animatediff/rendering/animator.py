"""Prompt to frames: one base model resident on a device, personalised weights swapped in and out."""

import numpy as np
import torch
from torch import Tensor

from animatediff.diffusion.sampling import sample
from animatediff.diffusion.schedule import NoiseSchedule, ddim_scheduler
from animatediff.errors import UserError
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionUNet
from animatediff.rendering.catalog import Catalog, Entry, Item, Weights, schedule_of
from animatediff.weights import motion_modules, textual_inversion
from animatediff.weights.architectures import known_base
from animatediff.weights.base import load_text_encoder, load_unet, load_vae
from animatediff.weights.resident import ResidentWeights
from animatediff.weights.text import PromptEncoder

# Decoding is the memory's peak: 8 frames of 512x512 take about 5 GB in half precision.
_FRAMES_PER_DECODE = 8


class Animator:
    """Renders items with a base, a motion module, and the weights of one entry at a time.

    Args:
        base: the Stable Diffusion base.
        motion_module: URI of the motion module's file; it must fit the base. None is no motion: every frame is a
            picture of the base's own.
        schedule: the noise schedule that the motion module was trained with; None is the one that its file names.
        device: where the models stay; weights are float16 on a GPU, float32 on a CPU.

    Raises:
        UserError: the base or the motion module cannot be loaded.
    """

    def __init__(self, base: str, motion_module: str | None, *, schedule: NoiseSchedule | None, device: str) -> None:
        self._device = torch.device(device)
        self._dtype = torch.float32 if self._device.type == "cpu" else torch.float16
        self._scheduler = ddim_scheduler(schedule or schedule_of(motion_module))
        tokenizer, self._text_encoder = load_text_encoder(base)
        self._vae = load_vae(base)
        self._unet = _motion_unet(base, motion_module).requires_grad_(False).eval()
        for module in (self._unet, self._vae, self._text_encoder):
            module.to(self._device, self._dtype)
        self._prompts = PromptEncoder(tokenizer, self._text_encoder)
        self._weights = ResidentWeights(
            {
                "unet": self._unet.base,
                "vae": self._vae,
                "text_encoder": self._text_encoder,
                "motion": self._unet.motion,
            }
        )
        self._loaded: Weights | None = Weights()

    @classmethod
    def for_catalog(cls, catalog: Catalog, *, device: str) -> "Animator":
        """The animator of a catalog's base and motion module."""
        return cls(catalog.base, catalog.motion_module, schedule=catalog.noise_schedule, device=device)

    def load_entry(self, entry: Entry) -> None:
        """Make the models the entry's: the pristine base, its checkpoint, what is added to it, its embeddings.

        Nothing of the entry before stays. When this raises, the next call starts from the base again.

        Raises:
            UserError: a file cannot be read or does not fit the base.
        """
        wanted = Weights(**{name: getattr(entry, name) for name in Weights.model_fields})
        if self._loaded == wanted:
            return
        self._loaded = None
        base = known_base(self._unet.base.state_dict())
        self._prompts.set_embeddings(
            [textual_inversion.read(file.path, token=file.token, base=base) for file in wanted.embeddings]
        )
        self._weights.load(wanted.checkpoint, wanted.additions())
        self._loaded = wanted

    @torch.no_grad()
    def render(self, item: Item) -> np.ndarray:
        """Render a clip with the weights that are loaded.

        Returns:
            (f h w 3) uint8 RGB. The noise comes from the item's seed on the CPU, so that no other item, device or
            order matters to it.

        Raises:
            UserError: the weights gave NaN or infinite pixels.
        """
        negative, text = self._prompts.encode([item.negative_prompt, item.prompt]).split(1)
        latents = sample(
            self._unet,
            self._scheduler,
            text,
            negative,
            self._noise(item),
            num_inference_steps=item.num_inference_steps,
            guidance_scale=item.guidance_scale,
        )
        chunks = latents[0].transpose(0, 1).split(_FRAMES_PER_DECODE)  # each f c h w
        return torch.cat([self._decode(chunk) for chunk in chunks]).numpy()

    def _noise(self, item: Item) -> Tensor:
        config = self._vae.config
        factor = 2 ** (len(config.block_out_channels) - 1)
        shape = (1, config.latent_channels, item.num_frames, item.height // factor, item.width // factor)
        generator = torch.Generator("cpu").manual_seed(item.seed)
        return torch.randn(shape, generator=generator).to(self._device)

    def _decode(self, latents: Tensor) -> Tensor:
        """Latents (f c h w) to uint8 pixels (f h w 3) on the CPU."""
        latents = latents.to(self._dtype) / self._vae.config.scaling_factor
        pixels = self._vae.decode(latents).sample.float()
        if not torch.isfinite(pixels).all():
            raise UserError("the weights gave NaN or infinite pixels: they are broken, or too large for half precision")
        return ((pixels + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu()


def _motion_unet(base: str, motion_module: str | None) -> MotionUNet:
    unet = load_unet(base)
    if motion_module is not None:
        return MotionUNet(unet, motion_modules.read(motion_module))
    return MotionUNet(unet, MotionConfig(norm_num_groups=unet.config.norm_num_groups))  # fresh, so that it does nothing
