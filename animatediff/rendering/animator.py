"""Prompts to frames: one base model resident on a device, personalised weights swapped in and out."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from animatediff.diffusion.conditioning import Conditioning
from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.errors import UserError, errors_with_field
from animatediff.models.computing.precision import encoder_dtype, unet_dtype
from animatediff.models.config import MotionConfig, Precision
from animatediff.models.embedding import Embedding
from animatediff.models.motion_unet import MotionUNet
from animatediff.models.prompt_encoders import PromptEncoders
from animatediff.models.prompts.words import word_key
from animatediff.rendering.catalog.entries import ComputeSettings, ModelFiles, PersonalisedFiles
from animatediff.rendering.catalog.item import Item
from animatediff.rendering.catalog.named_files import named_files, scaled_loras
from animatediff.rendering.clip_sampler import ClipSampler, SampledClip
from animatediff.rendering.compiled import CompiledUNet
from animatediff.rendering.conditions.condition_sheet import ShownCondition
from animatediff.rendering.frame_codec import FrameCodec
from animatediff.rendering.prompt_conditioning import PromptConditioner
from animatediff.weights import motion_modules, prediction, textual_inversion
from animatediff.weights.base import load_text_encoders, load_unet, load_vae
from animatediff.weights.base_facts import BaseFacts
from animatediff.weights.lora import lora_file
from animatediff.weights.motion_schedule import read_schedule, with_overrides
from animatediff.weights.resident import ResidentWeights, WeightUpdate


class RenderedClip(NamedTuple):
    """What was rendered of an item."""

    frames: np.ndarray
    """(f h w 3) uint8 RGB."""
    latents: Tensor
    """(f c h w) float16 on the CPU, as the VAE takes them: without its scaling factor."""
    warning: str | None
    """What was done otherwise than the item says."""
    seconds: dict[str, float]
    """The item's share, by stage: `text`, `compile` where the UNet is compiled, `unet`, `vae`."""
    conditions: tuple[ShownCondition, ...] = ()
    """What led the clip beside its prompt: what it began from, its controls, its image prompts."""


class _ReadFiles(NamedTuple):
    update: WeightUpdate
    schedule: NoiseSchedule
    embeddings: tuple[Embedding, ...]
    embedding_sources: tuple[tuple[str, str | None], ...]
    """Where each embedding is from, and its token: what else decides a prompt's embeddings."""


class Animator:
    """Renders items with a base, a motion module, and the weights of one model at a time.

    Args:
        base: the base, of Stable Diffusion 1.x or SDXL.
        motion_module: URI of the motion module's file; it must fit the base. None is no motion: every frame is a
            picture of the base's own.
        schedule: the whole noise schedule of every model that says nothing else; None is the one that the motion
            module's file names, else its version's, for what the checkpoint, or the base, predicts.
        device: where the models stay.
        precision: of the UNet; default: float16 on a GPU, float32 on a CPU. The sampler's arithmetic is float32, the
            other models are float32 on a CPU or beside a float32 UNet, else float16. A VAE whose config says that it
            overflows in half precision, as SDXL's does, stays in float32.
        compile: whether to compile the UNet; see `CompiledUNet`.

    Raises:
        UserError: the base or the motion module cannot be loaded.
    """

    def __init__(
        self,
        base: str,
        motion_module: str | None,
        *,
        schedule: NoiseSchedule | None,
        device: str,
        precision: Precision | None = None,
        compile: bool = False,
    ) -> None:
        self._device = torch.device(device)
        dtype = unet_dtype(precision, self._device)
        beside = encoder_dtype(dtype, self._device)
        self._given_schedule, self._motion_schedule = schedule, read_schedule(motion_module)
        self._base = BaseFacts(base).read()
        # The largest first, and each one out of the way before the next is read: files are opened in float32.
        self._unet = _motion_unet(base, motion_module).requires_grad_(False).eval().to(self._device, dtype)
        self._vae = load_vae(base).to(self._device, torch.float32 if self._base.upcasts_vae else beside)
        text_encoders = load_text_encoders(base)
        modules = {part: encoder.to(self._device, beside) for part, (_, encoder) in text_encoders.items()}
        self._compiled = CompiledUNet(self._unet) if compile else None
        self._codec = FrameCodec(self._vae, self._base.scaling_factor)
        predict = self._compiled or self._unet
        self._sampler = ClipSampler(self._unet, predict, self._codec, self._base, self._device)
        self._prompts = PromptEncoders(text_encoders)
        self._conditioner = PromptConditioner(
            self._prompts, dtype, zeroes_empty_negative=self._base.zeroes_empty_negative_prompt
        )
        self._text_encoders = tuple(modules)
        self._weights = ResidentWeights(
            {"unet": self._unet.base, "vae": self._vae, "motion": self._unet.motion, **modules}
        )
        self._loaded: PersonalisedFiles | None = PersonalisedFiles()
        self._schedule = self._schedule_of(self._loaded)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._prefetched: tuple[PersonalisedFiles, Future[_ReadFiles]] | None = None

    @classmethod
    def for_model(cls, model: ModelFiles, *, device: str) -> "Animator":
        """Return the animator of a model's base and motion module."""
        computing = {name: getattr(model, name) for name in ComputeSettings.model_fields}
        return cls(model.base, model.motion_module, schedule=None, device=device, **computing)

    def close(self) -> None:
        """Let go of what is read ahead or compiled, so that who holds the animator alone keeps models in memory."""
        self._prefetched = None
        if self._compiled is not None:
            self._compiled.close()
        self._reader.shutdown(cancel_futures=True)

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
        self._schedule = read.schedule
        text_encoder_files = files if any(map(self._weights.is_changed, self._text_encoders)) else None
        self._conditioner.cache_key = (read.embedding_sources, text_encoder_files)
        self._loaded = files

    def _take_prefetched(self, files: PersonalisedFiles) -> _ReadFiles:
        prefetched, self._prefetched = self._prefetched, None
        return prefetched[1].result() if prefetched and prefetched[0] == files else self._read(files)

    def _read(self, files: PersonalisedFiles, *, into_memory: bool = False) -> _ReadFiles:
        schedule = self._schedule_of(files)
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
        return _ReadFiles(update, schedule, tuple(embeddings), tuple(embedding_sources))

    def _schedule_of(self, files: PersonalisedFiles) -> NoiseSchedule:
        """Return the noise schedule that files are sampled with.

        Raises:
            UserError: the checkpoint cannot be read, or predicts what the schedule is not for.
        """
        said = None if files.checkpoint is None else prediction.of_checkpoint(files.checkpoint)
        inherited = self._given_schedule or self._motion_schedule.on(self._base, said)
        with errors_with_field("noise_schedule"):
            schedule = with_overrides(inherited, files.noise_schedule)
        if files.checkpoint is not None:
            prediction.check_agrees(files.checkpoint, said, schedule.prediction_type)
        return schedule

    def render(self, item: Item) -> np.ndarray:
        """Return the frames of one clip, (f h w 3) uint8 RGB.

        Raises:
            UserError: the weights gave NaN or infinite numbers, or what the clip begins from cannot be read.
        """
        (clip,) = self.render_batch([item])
        if isinstance(clip, UserError):
            raise clip
        return clip.frames

    @torch.no_grad()
    def render_batch(self, items: Sequence[Item], *, max_batch: int | None = None) -> list[RenderedClip | UserError]:
        """Render clips with the weights that are loaded.

        They differ in prompt, negative prompt, seed, and in the picture or video that they begin from, alone.

        The noise comes from each item's seed on the CPU, a prompt is encoded by itself, and a clip is decoded in
        chunks of a fixed length. So nothing of an item depends on its neighbours but how the UNet's sums round, which
        on a CPU with one thread they do not.

        Args:
            items: at least one.
            max_batch: most clips (or context windows of clips) in one call of the UNet; default: all at once.

        Returns:
            In the order of the items, each its clip, or an error where the weights gave NaN or infinite numbers.

        Raises:
            UserError: a picture or video that an item begins from cannot be read.
        """
        seconds = dict.fromkeys(("text", "unet", "vae"), 0.0)
        with self._timed(seconds, "text"):
            conditionings = [self._conditioner.conditioning(item) for item in items]
        compiled_s = self._compiled.compile_s if self._compiled else 0.0
        with self._timed(seconds, "unet"):
            sampled = self._sampled(items, conditionings, max_batch)
        if self._compiled is not None:  # a worker does it once: it is not what a clip takes
            seconds["compile"] = self._compiled.compile_s - compiled_s
            seconds["unet"] -= seconds["compile"]
        share = {stage: taken / len(items) for stage, taken in seconds.items()}
        return [self._clip(item, each, dict(share)) for item, each in zip(items, sampled, strict=True)]

    def _sampled(
        self, items: Sequence[Item], conditionings: Sequence[Conditioning], max_batch: int | None
    ) -> list[SampledClip]:
        """Return the clip of each item; those whose texts are of one shape are sampled together."""
        groups: dict[object, list[int]] = {}
        for index, conditioning in enumerate(conditionings):
            groups.setdefault(conditioning.batch_key, []).append(index)
        clips: dict[int, SampledClip] = {}
        for indices in groups.values():
            conditioning = Conditioning.cat([conditionings[index] for index in indices])
            of_group = [items[index] for index in indices]
            sampled = self._sampler.sample(of_group, conditioning, self._schedule, max_batch=max_batch)
            clips |= zip(indices, sampled, strict=True)
        return [clips[index] for index in range(len(items))]

    def _clip(self, item: Item, sampled: SampledClip, seconds: dict[str, float]) -> RenderedClip | UserError:
        with self._timed(seconds, "vae"):
            latents = sampled.latents.transpose(0, 1)  # c f h w -> f c h w
            try:
                frames = self._codec.decode(latents)
            except UserError as error:
                return error
        unscaled = (latents / self._base.scaling_factor).half().cpu()
        return RenderedClip(frames, unscaled, self._conditioner.warnings(item), seconds, sampled.conditions)

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
        return motion_modules.attach(unet, motion_modules.open_file(motion_module))
    return MotionUNet(unet, MotionConfig(norm_num_groups=unet.config.norm_num_groups))  # fresh, so that it does nothing
