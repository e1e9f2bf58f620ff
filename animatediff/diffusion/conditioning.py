"""What the UNet is told of its clips beside the noisy latents and the timestep."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """What b clips are conditioned on: one object, whatever is in it, from the prompt to the UNet.

    Batching takes its `rows`, context windows its `frames`, guidance its `guidance_branches`; only the UNet looks
    inside. A new kind of conditioning is a field here, and a line where the UNet reads it.
    """

    text: Tensor
    """Embeddings, (b n d) of one text a clip, or (b f n d) of one a frame."""
    pooled_text: Tensor | None = None
    """(b p), SDXL's embedding of the whole text; None elsewhere."""
    time_ids: Tensor | None = None
    """(b 6) float32, SDXL's sizes, see `uncropped_time_ids`; None elsewhere."""
    negative: "Conditioning | None" = None
    """What guidance leads away from, of the same clips; None where there is no guidance."""

    def __len__(self) -> int:
        """Return the number of clips, b."""
        return len(self.text)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the embeddings, in which the UNet computes."""
        return self.text.dtype

    @property
    def added_cond_kwargs(self) -> dict[str, Tensor]:
        """What SDXL adds to the timestep's embedding, by diffusers' names; empty for Stable Diffusion 1.x."""
        found = {"text_embeds": self.pooled_text, "time_ids": self.time_ids}
        return {name: value for name, value in found.items() if value is not None}

    def rows(self, clips: Sequence[int]) -> "Conditioning":
        """Return the conditioning of some of the clips, in the order of their indices."""
        # Stacked, not indexed by a list: that would copy the list to a GPU, and wait for it.
        return self._map(lambda tensor: torch.stack([tensor[clip] for clip in clips]))

    def frames(self, window: Sequence[int]) -> "Conditioning":
        """Return the conditioning of some of the clips' frames, in the order of their indices."""
        negative = None if self.negative is None else self.negative.frames(window)
        text = torch.stack([self.text[:, i] for i in window], dim=1) if self.text.ndim == 4 else self.text
        return replace(self, text=text, negative=negative)

    def guidance_branches(self, *, is_guided: bool) -> "list[Conditioning]":
        """Return what a step predicts for: with guidance the negative and the positive branch, else the latter alone.

        Raises:
            ValueError: guidance is asked for, and there is no negative branch.
        """
        positive = replace(self, negative=None)
        if not is_guided:
            return [positive]
        if self.negative is None:
            raise ValueError("guidance needs a negative conditioning to lead away from")
        return [self.negative, positive]

    @classmethod
    def cat(cls, parts: "Sequence[Conditioning]") -> "Conditioning":
        """Join the clips of several conditionings that have the same fields.

        Raises:
            ValueError: one has a field that another has not.
        """
        if len({tuple(getattr(part, field.name) is None for field in fields(cls)) for part in parts}) > 1:
            raise ValueError("clips that are conditioned on different things do not go into one batch")
        found = {field.name: [getattr(part, field.name) for part in parts] for field in fields(cls)}
        joined: dict[str, Any] = {
            name: cls.cat(values) if isinstance(values[0], cls) else torch.cat(values)
            for name, values in found.items()
            if values[0] is not None
        }
        return cls(**joined)

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Conditioning":
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {
            name: value._map(change) if isinstance(value, Conditioning) else change(value)
            for name, value in found.items()
            if value is not None
        }
        return replace(self, **changed)


NoisePredictor = Callable[[Tensor, Tensor, Conditioning], Tensor]
"""(b c f h w) noisy latents, a timestep for all or (b) one a clip, their conditioning -> (b c f h w) prediction."""


def uncropped_time_ids(num_clips: int, *, height: int, width: int, device: torch.device) -> Tensor:
    """Return SDXL's `time_ids` of clips that were never cropped or resized.

    They are the original size, the upper left corner of the crop, and the size wanted, in pixels and each as height and
    width: SDXL's paper, arXiv 2307.01952, section 2.2.

    Returns:
        (b 6) float32.
    """
    return torch.tensor([height, width, 0.0, 0.0, height, width], device=device).expand(num_clips, 6)
