"""Prompts to frames: one base model resident on a device, personalised weights swapped in and out."""

import copy
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from animatediff.diffusion.conditioning import Conditioning
from animatediff.diffusion.context import initial_noise
from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.diffusion.samplers import SAMPLERS
from animatediff.diffusion.sampling import sample
from animatediff.errors import UserError
from animatediff.models.config import MotionConfig
from animatediff.models.embedding import Embedding
from animatediff.models.motion_unet import MotionUNet
from animatediff.models.text_encoder import PromptEncoder, word_key
from animatediff.rendering.catalog.catalog import Item
from animatediff.rendering.catalog.entries import ModelFiles, PersonalisedFiles, RenderSettings
from animatediff.rendering.catalog.named_files import named_files, scaled_loras
from animatediff.rendering.prompt_conditioning import PromptConditioner
from animatediff.weights import motion_modules, textual_inversion
from animatediff.weights.base import load_text_encoder, load_unet, load_vae
from animatediff.weights.base_facts import BaseFacts
from animatediff.weights.lora import lora_file
from animatediff.weights.motion_schedule import read_schedule
from animatediff.weights.resident import ResidentWeights, WeightUpdate

# Decoding is the memory's peak: 8 frames of 512x512 take about 5 GB in half precision.
_FRAMES_PER_DECODE = 8


class RenderedClip(NamedTuple):
    """What was rendered of an item."""

    frames: np.ndarray
    """(f h w 3) uint8 RGB."""
    latents: Tensor
    """(f c h w) float16 on the CPU, as the VAE takes them: without its scaling factor."""
    warning: str | None
    """What was done otherwise than the item says."""
    seconds: dict[str, float]
    """The item's share, by stage: `text`, `unet`, `vae`."""


class _ReadFiles(NamedTuple):
    update: WeightUpdate
    embeddings: tuple[Embedding, ...]
    embedding_sources: tuple[tuple[str, str | None], ...]
    """Where each embedding is from, and its token: what else decides a prompt's embeddings."""


class Animator:
    """Renders items with a base, a motion module, and the weights of one model at a time.

    Args:
        base: the Stable Diffusion base.
        motion_module: URI of the motion module's file; it must fit the base. None is no motion: every frame is a
            picture of the base's own.
        schedule: the noise schedule that the motion module was trained with; None is the one that its file names,
            else its version's.
        device: where the models stay; weights are float16 on a GPU, float32 on a CPU.

    Raises:
        UserError: the base or the motion module cannot be loaded.
    """

    def __init__(self, base: str, motion_module: str | None, *, schedule: NoiseSchedule | None, device: str) -> None:
        self._device = torch.device(device)
        self._dtype = torch.float32 if self._device.type == "cpu" else torch.float16
        self._schedule = schedule or read_schedule(motion_module)
        tokenizer, self._text_encoder = load_text_encoder(base)
        self._vae = load_vae(base)
        self._unet = _motion_unet(base, motion_module).requires_grad_(False).eval()
        for module in (self._unet, self._vae, self._text_encoder):
            module.to(self._device, self._dtype)
        self._base = BaseFacts(base).read()
        self._prompts = PromptEncoder(tokenizer, self._text_encoder)
        self._conditioner = PromptConditioner(self._prompts)
        self._weights = ResidentWeights(
            {
                "unet": self._unet.base,
                "vae": self._vae,
                "text_encoder": self._text_encoder,
                "motion": self._unet.motion,
            },
            predicts_v=self._schedule.prediction_type == "v_prediction",
        )
        self._loaded: PersonalisedFiles | None = PersonalisedFiles()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._prefetched: tuple[PersonalisedFiles, Future[_ReadFiles]] | None = None

    @classmethod
    def for_model(cls, model: ModelFiles, *, device: str) -> "Animator":
        """Return the animator of a model's base and motion module."""
        return cls(model.base, model.motion_module, schedule=model.noise_schedule, device=device)

    def prefetch(self, model: PersonalisedFiles) -> None:
        """Begin to read files that a later `load` will ask for; what is wrong with them is told there."""
        files = _only_personalised_files(model)
        if files != self._loaded and not (self._prefetched and self._prefetched[0] == files):
            self._prefetched = files, self._reader.submit(self._read, files, into_memory=True)

    def load(self, model: PersonalisedFiles) -> None:
        """Make the models those of an entry or a model: the pristine base, its checkpoint, LoRAs and embeddings.

        Nothing of what was loaded before stays. When this raises, the next call starts from the base again.

        Raises:
            UserError: a file cannot be read or does not fit the base.
        """
        files = _only_personalised_files(model)
        if self._loaded == files:
            return
        self._loaded = None
        read = self._take_prefetched(files)
        self._prompts.set_embeddings(read.embeddings)
        self._weights.apply(read.update)
        text_encoder_files = files if self._weights.is_changed("text_encoder") else None
        self._conditioner.weights = (read.embedding_sources, text_encoder_files)
        self._loaded = files

    def _take_prefetched(self, files: PersonalisedFiles) -> _ReadFiles:
        prefetched, self._prefetched = self._prefetched, None
        return prefetched[1].result() if prefetched and prefetched[0] == files else self._read(files)

    def _read(self, files: PersonalisedFiles, *, into_memory: bool = False) -> _ReadFiles:
        embedding_sources = [(file.uri, file.token) for file in named_files(files) if file.slot.role == "embedding"]
        embeddings = [
            textual_inversion.read(uri, token=token, base=self._base.architecture) for uri, token in embedding_sources
        ]
        known = {word_key(embedding.token) for embedding in embeddings}
        for path, embedding in _bundled(files):
            # A word that is named by itself comes first, then the first LoRA's.
            if word_key(embedding.token) not in known:
                known.add(word_key(embedding.token))
                embeddings.append(embedding)
                embedding_sources.append((path, embedding.token))
        update = self._weights.read(files.checkpoint, scaled_loras(files), vae=files.vae, into_memory=into_memory)
        return _ReadFiles(update, tuple(embeddings), tuple(embedding_sources))

    def render(self, item: Item) -> np.ndarray:
        """Return the frames of one clip, (f h w 3) uint8 RGB.

        Raises:
            UserError: the weights gave NaN or infinite numbers.
        """
        (clip,) = self.render_batch([item])
        if isinstance(clip, UserError):
            raise clip
        return clip.frames

    @torch.no_grad()
    def render_batch(self, items: Sequence[Item], *, max_batch: int | None = None) -> list[RenderedClip | UserError]:
        """Render clips that differ in prompt, negative prompt and seed alone, with the weights that are loaded.

        The noise comes from each item's seed on the CPU, a prompt is encoded by itself, and a clip is decoded in
        chunks of a fixed length. So nothing of an item depends on its neighbours but how the UNet's sums round, which
        on a CPU with one thread they do not.

        Args:
            items: at least one.
            max_batch: most clips (or context windows of clips) in one call of the UNet; default: all at once.

        Returns:
            In the order of the items, each its clip, or an error where the weights gave NaN or infinite numbers.
        """
        seconds = dict.fromkeys(("text", "unet", "vae"), 0.0)
        with self._timed(seconds, "text"):
            conditionings = [self._conditioner.conditioning(item) for item in items]
        with self._timed(seconds, "unet"):
            latents = self._latents(items, conditionings, max_batch)
        share = {stage: taken / len(items) for stage, taken in seconds.items()}
        return [self._clip(item, each, dict(share)) for item, each in zip(items, latents, strict=True)]

    def _latents(
        self, items: Sequence[Item], conditionings: Sequence[Conditioning], max_batch: int | None
    ) -> list[Tensor]:
        """Return (c f h w) of each item; those whose texts are of one shape are sampled together."""
        groups: dict[torch.Size, list[int]] = {}
        for index, conditioning in enumerate(conditionings):
            groups.setdefault(conditioning.text.shape, []).append(index)
        latents: dict[int, Tensor] = {}
        for indices in groups.values():
            conditioning = Conditioning.cat([conditionings[index] for index in indices])
            sampled = self._sample([items[index] for index in indices], conditioning, max_batch)
            latents |= zip(indices, sampled, strict=True)
        return [latents[index] for index in range(len(items))]

    def _sample(self, items: Sequence[Item], conditioning: Conditioning, max_batch: int | None) -> Tensor:
        settings, generators = items[0], [torch.Generator("cpu").manual_seed(item.seed) for item in items]
        return sample(
            self._unet,
            SAMPLERS[settings.sampler](self._schedule, settings.timestep_spacing),
            conditioning,
            torch.cat([self._noise(settings, generator) for generator in generators]).to(self._device),
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            guidance_rescale=settings.guidance_rescale,
            generators=generators,
            context=settings.context,
            loop=settings.loop,
            max_batch=max_batch,
        )

    def _clip(self, item: Item, latents: Tensor, seconds: dict[str, float]) -> RenderedClip | UserError:
        with self._timed(seconds, "vae"):
            latents = latents.transpose(0, 1) / self._base.scaling_factor  # c f h w -> f c h w
            try:
                frames = self._frames(latents)
            except UserError as error:
                return error
        return RenderedClip(frames, latents.half().cpu(), self._conditioner.warnings(item), seconds)

    def _noise(self, settings: RenderSettings, generator: torch.Generator) -> Tensor:
        f, c, h, w = self._base.latent_shape(settings.num_frames, height=settings.height, width=settings.width)
        return initial_noise((1, c, f, h, w), generator, context=settings.context, loop=settings.loop)

    def _frames(self, latents: Tensor) -> np.ndarray:
        """Float32 latents (f c h w), without the scaling factor, to (f h w 3) uint8 RGB."""
        if not torch.isfinite(latents).all():
            raise UserError(
                "the UNet gave NaN or infinite latents: its weights, the text encoder's or the motion module's are "
                "broken, or too large for half precision"
            )
        return torch.cat([self._decode(chunk) for chunk in latents.split(_FRAMES_PER_DECODE)]).numpy()

    def _decode(self, latents: Tensor) -> Tensor:
        """Float32 latents (f c h w) to uint8 pixels (f h w 3) on the CPU."""
        pixels = self._vae.decode(latents.to(self._dtype)).sample.float()
        if self._dtype != torch.float32 and not torch.isfinite(pixels).all():
            # Between its layers many a VAE has numbers that are too large for half precision. Weights are swapped in
            # the resident one's own memory, so a copy is widened; half the frames take as much memory as all did.
            precise = copy.deepcopy(self._vae).float()
            pixels = torch.cat([precise.decode(part).sample for part in latents.split(_FRAMES_PER_DECODE // 2)])
        if not torch.isfinite(pixels).all():
            raise UserError("the VAE gave NaN or infinite pixels, in single precision too: its weights are broken")
        return ((pixels + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu()

    @contextmanager
    def _timed(self, seconds: dict[str, float], stage: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        seconds[stage] += time.monotonic() - start


def _bundled(files: PersonalisedFiles) -> Iterator[tuple[str, Embedding]]:
    """Yield the embeddings in the files of LoRAs that are not left out, with their paths."""
    for file in named_files(files):
        if file.slot.family == "lora" and file.scale:
            yield from ((file.uri, found) for found in textual_inversion.bundled(lora_file.open_lora(file.uri)))


def _only_personalised_files(model: PersonalisedFiles) -> PersonalisedFiles:
    return PersonalisedFiles.model_construct(**{name: getattr(model, name) for name in PersonalisedFiles.model_fields})


def _motion_unet(base: str, motion_module: str | None) -> MotionUNet:
    unet = load_unet(base)
    if motion_module is not None:
        return MotionUNet(unet, motion_modules.read(motion_module))
    return MotionUNet(unet, MotionConfig(norm_num_groups=unet.config.norm_num_groups))  # fresh, so that it does nothing
