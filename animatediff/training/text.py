"""Captions to what the UNet is conditioned on, by the base's frozen text encoders."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Self

import torch
from torch import Tensor

from animatediff.data.clips.source_crop import SourceCrop
from animatediff.data.manifest import read_manifest
from animatediff.diffusion.conditioning import Conditioning
from animatediff.diffusion.size_conditioning import size_time_ids
from animatediff.models.prompt_encoders import PromptEncoders, TextEncoderParts
from animatediff.models.prompts.pieces import plain_sections
from animatediff.training.settings import RecipeConfig
from animatediff.training.step.offloaded import OffloadedModules
from animatediff.weights.base_facts import BaseFacts

# 1,024 embeddings of Stable Diffusion 1.5 are 120 MB in half precision, of SDXL 320 MB.
_CACHED_CAPTIONS = 1024
_CACHED_SIZES = 4096  # of 24 bytes each, in as many small pieces of memory


class CaptionEncoder:
    """Embeds captions, keeping the last ones.

    Each caption is encoded alone: a matrix product's rounding depends on its batch, so a caption's embedding would
    depend on which of its neighbours were cached, and a resumed run would differ in the last bits.

    Args:
        base: its facts.
        encoders: the base's, one or SDXL's two; they are moved.
        device: where they stay.
        dtype: their precision.
        latent_factor: pixels a side to one latent of the clips; default: as the base's VAE has it. SDXL is told the
            clips' sizes in pixels.
        chunks: of every caption, see `settings.TextConfig`.
        offload: whether they are there only while captions are encoded, see `settings.ComputeConfig`.
    """

    def __init__(
        self,
        base: BaseFacts,
        encoders: TextEncoderParts,
        device: torch.device,
        dtype: torch.dtype,
        latent_factor: int | None = None,
        chunks: int = 1,
        *,
        offload: bool = False,
    ) -> None:
        self._base, self._latent_factor, self._chunks = base, latent_factor, chunks
        for _, encoder in encoders.values():
            encoder.to("cpu" if offload else device, dtype)
        self._offloaded = OffloadedModules([encoder for _, encoder in encoders.values()], device) if offload else None
        self._prompts = PromptEncoders(encoders)
        self._embed = lru_cache(maxsize=_CACHED_CAPTIONS)(self._encode)
        self._device = device
        # Kept, as each copy to a GPU waits for it; a dataset has few sizes.
        self._time_ids = lru_cache(maxsize=_CACHED_SIZES)(self._make_time_ids)

    @classmethod
    def of_run(cls, config: RecipeConfig, encoders: TextEncoderParts, device: torch.device, dtype: torch.dtype) -> Self:
        """Return the encoder of a run's captions.

        Raises:
            UserError: the dataset or the base cannot be read.
        """
        factor = read_manifest(config.dataset_uri).latent_factor
        facts, offload = BaseFacts(config.base), config.compute.offload_text_encoders
        return cls(facts, encoders, device, dtype, factor, config.text.chunks, offload=offload)

    def with_empty_negative(
        self, captions: list[str], *, height: int, width: int, source_crops: Sequence[SourceCrop | None] | None = None
    ) -> Conditioning:
        """Return the same, with the empty caption as what guidance leads away from."""
        size: Any = {"height": height, "width": width, "source_crops": source_crops}
        return replace(self(captions, **size), negative=self([""] * len(captions), **size))

    def __call__(
        self, captions: list[str], *, height: int, width: int, source_crops: Sequence[SourceCrop | None] | None = None
    ) -> Conditioning:
        """Return the conditioning of clips, on the encoders' device.

        Args:
            captions: one a clip; "" is the unconditional one.
            height: of the clips, in latents.
            width: of the clips, in latents.
            source_crops: one a clip, of which SDXL is told; one of None, or without any, is never cropped or resized.
        """
        found = [self._embed(caption) for caption in captions]
        if self._offloaded is not None:
            self._offloaded.put_away()
        text = torch.stack([text for text, _ in found])
        pooled = [pooled for _, pooled in found if pooled is not None]
        if not pooled:
            return Conditioning(text)
        factor = self._latent_factor or self._base.latent_factor
        crops = source_crops or [None] * len(text)
        time_ids = [self._time_ids(crop, height * factor, width * factor) for crop in crops]
        return Conditioning(text, torch.stack(pooled), torch.stack(time_ids))

    def _make_time_ids(self, crop: SourceCrop | None, height: int, width: int) -> Tensor:
        """Return SDXL's `time_ids` of a clip of so many pixels, (6): original size, place of the crop, size wanted."""
        original_height, original_width, top, left = crop or (height, width, 0, 0)
        return size_time_ids((original_height, original_width), (top, left), (height, width), device=self._device)

    def _encode(self, caption: str) -> tuple[Tensor, Tensor | None]:
        if self._offloaded is not None:
            self._offloaded.bring()
        if self._chunks == 1:
            encoded = self._prompts.encode(caption)
        else:
            encoded = self._prompts.encode_chunks(plain_sections(caption), num_chunks=self._chunks)
        # Where there is no caption, the UNet is told what guidance will lead away from: of SDXL zeros, as where its own
        # training dropped captions (Stability-AI/generative-models, `GeneralConditioner`), not the text of no words.
        if not caption and self._base.zeroes_empty_negative_prompt:
            encoded = encoded.zeros()
        return encoded.text[0], None if encoded.pooled is None else encoded.pooled[0]
