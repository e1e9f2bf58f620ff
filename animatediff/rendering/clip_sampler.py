"""Items to latents: what a clip begins from, how often it is sampled, and its second pass at a larger size."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from animatediff.diffusion.conditioning import Conditioning, NoisePredictor
from animatediff.diffusion.initial_noise import initial_noise
from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.diffusion.passes.repeated_sampling import sample_with_free_init
from animatediff.diffusion.passes.start import Start
from animatediff.diffusion.samplers import SAMPLERS
from animatediff.diffusion.sampling import sample
from animatediff.diffusion.schedule import compute_alphas_cumprod
from animatediff.diffusion.size_conditioning import uncropped_time_ids
from animatediff.errors import errors_with_field
from animatediff.models.motion_unet import MotionUNet
from animatediff.rendering.catalog.entries import RenderSettings
from animatediff.rendering.catalog.item import Item
from animatediff.rendering.conditions.condition_sheet import ShownCondition, shown_pictures
from animatediff.rendering.conditions.control_conditioner import ControlConditioner
from animatediff.rendering.conditions.pictures import read_picture, read_video_frames
from animatediff.rendering.frame_codec import FrameCodec
from animatediff.weights.base_facts import BaseFacts


class SampledClip(NamedTuple):
    """What was sampled of an item."""

    latents: Tensor
    """(c f h w) float32, multiplied by the VAE's scaling factor, of the size that is written."""
    conditions: tuple[ShownCondition, ...]
    """What the clip was led by."""


class ClipSampler:
    """Samples items with the weights that are resident.

    Args:
        unet: the resident one.
        predict: its forward pass, or that one compiled.
        codec: the resident VAE.
        base: what the base's configs say.
        device: where the models are.
    """

    def __init__(
        self, unet: MotionUNet, predict: NoisePredictor, codec: FrameCodec, base: BaseFacts, device: torch.device
    ) -> None:
        self._predict, self._codec, self._base, self._device = predict, codec, base, device
        self._conditions = ControlConditioner(unet, codec, base, device)

    def sample(
        self,
        items: Sequence[Item],
        conditioning: Conditioning,
        schedule: NoiseSchedule,
        *,
        max_batch: int | None = None,
    ) -> list[SampledClip]:
        """Return the clips, in the order of the items.

        All noise of an item comes from its own seed, on the CPU.

        Args:
            items: that differ in prompt, negative prompt, seed, and in the files that they begin from.
            conditioning: of the items' texts, in their order.
            schedule: the noise schedule of the resident weights.
            max_batch: as in `sampling.sample`.

        Raises:
            UserError: a picture or video that the items name, or the network that is shown it, cannot be read.
        """
        settings, generators = items[0], [torch.Generator("cpu").manual_seed(item.seed) for item in items]
        denoise = partial(
            sample,
            self._predict,
            SAMPLERS[settings.sampler](schedule, settings.timestep_spacing),
            guidance_scale=settings.guidance_scale,
            guidance_rescale=settings.guidance_rescale,
            guidance_interval=settings.guidance_interval,
            guidance_after_every=settings.guidance_after_every,
            guidance_every=settings.guidance_every,
            deep_cache=settings.deep_cache,
            generators=generators,
            context=settings.context,
            loop=settings.loop,
            max_batch=max_batch,
        )
        draw_noise = partial(self._noise, settings, generators)
        controlled_conditioning, shown_controls = self._controlled(
            conditioning, settings, width=settings.width, height=settings.height
        )
        start, shown_starts = self._start(items)
        if settings.free_init is None:
            noise = draw_noise(settings.width, settings.height)
            latents = denoise(
                controlled_conditioning, noise, num_inference_steps=settings.num_inference_steps, start=start
            )
        else:
            latents = sample_with_free_init(
                settings.free_init,
                lambda noise, steps: denoise(controlled_conditioning, noise, num_inference_steps=steps),
                lambda: draw_noise(settings.width, settings.height),
                num_inference_steps=settings.num_inference_steps,
                alphas_cumprod=compute_alphas_cumprod(schedule),
            )
        if (second := settings.second_pass) is not None:
            width, height = settings.output_width, settings.output_height
            controlled_conditioning, _ = self._controlled(conditioning, settings, width=width, height=height)
            latents = denoise(
                controlled_conditioning,
                draw_noise(width, height),
                num_inference_steps=second.num_inference_steps or settings.num_inference_steps,
                start=Start(self._enlarged(latents, settings), second.strength),
            )
        return [
            SampledClip(clip, shown_start + shown_controls)
            for clip, shown_start in zip(latents, shown_starts, strict=True)
        ]

    def _controlled(
        self, conditioning: Conditioning, settings: RenderSettings, *, width: int, height: int
    ) -> tuple[Conditioning, tuple[ShownCondition, ...]]:
        """Return the conditioning of clips of a size with their controls, and what of it can be shown."""
        sized = _sized(conditioning, width=width, height=height)
        return self._conditions.add(sized, settings, width=width, height=height)

    def _noise(
        self, settings: RenderSettings, generators: Sequence[torch.Generator], width: int, height: int
    ) -> Tensor:
        """Return (b c f h w), each clip's from its own generator."""
        f, c, h, w = self._base.latent_shape(settings.num_frames, height=height, width=width)
        noises = [
            initial_noise((1, c, f, h, w), generator, context=settings.context, loop=settings.loop)
            for generator in generators
        ]
        return torch.cat(noises).to(self._device)

    def _start(self, items: Sequence[Item]) -> tuple[Start | None, list[tuple[ShownCondition, ...]]]:
        """Return the pictures or videos that items begin from, and each item's as a condition.

        None, and no conditions, where they begin from noise alone.
        """
        if items[0].init_image is None and items[0].init_video is None:
            return None, [()] * len(items)
        encoded: dict[tuple[object, ...], tuple[Tensor, ShownCondition]] = {}
        clips: list[Tensor] = []
        conditions: list[tuple[ShownCondition, ...]] = []
        for item in items:
            source = item.init_image, item.init_video, item.fps
            if source not in encoded:
                frames = _start_frames(item)
                encoded[source] = self._codec.encode(frames), _start_condition(item, frames)
            latents, condition = encoded[source]
            clips.append(latents.expand(item.num_frames, -1, -1, -1))  # f c h w
            conditions.append((condition,))
        return Start(torch.stack(clips).transpose(1, 2), items[0].strength), conditions

    def _enlarged(self, latents: Tensor, settings: RenderSettings) -> Tensor:
        """Return latents (b c f h w) of the second pass's size."""
        if settings.second_pass is None or settings.second_pass.of == "latents":
            shape = self._base.latent_shape(1, height=settings.output_height, width=settings.output_width)
            return _enlarged_latents(latents, height=shape[2], width=shape[3])
        size = settings.output_width, settings.output_height
        larger = []
        for clip in latents:
            frames = self._codec.decode(clip.transpose(0, 1))  # c f h w -> f c h w
            resized = [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS)) for frame in frames]
            pixels = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float() / 255
            larger.append(self._codec.encode(pixels).transpose(0, 1))
        return torch.stack(larger)


def _sized(conditioning: Conditioning, *, width: int, height: int) -> Conditioning:
    """Return the conditioning of SDXL's clips with their size, as of pictures that were never another; others' as is.

    Args:
        conditioning: of the clips' texts.
        width: of a frame, in pixels.
        height: likewise.
    """
    if conditioning.pooled_text is None:
        return conditioning
    time_ids = uncropped_time_ids(len(conditioning), height=height, width=width, device=conditioning.text.device)
    negative = conditioning.negative and _sized(conditioning.negative, width=width, height=height)
    return replace(conditioning, time_ids=time_ids, negative=negative)


def _start_frames(item: Item) -> Tensor:
    """Return what an item begins from: (1 3 h w) its picture, or (f 3 h w) its video, RGB in [0, 1]."""
    size = {"width": item.width, "height": item.height}
    if item.init_image is not None:
        with errors_with_field("init_image"):
            return read_picture(item.init_image, **size)[None]
    assert item.init_video is not None
    with errors_with_field("init_video"):
        return read_video_frames(item.init_video, num_frames=item.num_frames, fps=item.fps, **size)


def _start_condition(item: Item, frames: Tensor) -> ShownCondition:
    """Return what an item begins from, (1 3 h w) or (f 3 h w), as a condition."""
    if item.init_image is not None:
        return ShownCondition("init image", shown_pictures(frames, None))
    return ShownCondition("init video", shown_pictures(frames, range(len(frames))))


def _enlarged_latents(latents: Tensor, *, height: int, width: int) -> Tensor:
    """Return clips enlarged frame by frame, bicubic.

    Args:
        latents: (b c f h w).
        height: of the result, in latents.
        width: likewise.
    """
    frames = latents.transpose(1, 2).flatten(0, 1)  # b c f h w -> (b f) c h w
    larger = F.interpolate(frames, (height, width), mode="bicubic")
    return larger.unflatten(0, (len(latents), -1)).transpose(1, 2)
