"""What the UNet is told of its clips beside the noisy latents and the timestep."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce
from typing import Any, NamedTuple, Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor

_WEAKEST_GUESS = 0.1  # what guess mode multiplies the first residual by; the last one stays as it is


class Residuals(NamedTuple):
    """What a network adds to the UNet's features."""

    down: list[Tensor]
    """To each skip, in their order: ((b f) c h w)."""
    mid: Tensor
    """To the middle block's output: ((b f) c h w)."""

    def __mul__(self, factors: Any) -> "Residuals":
        """Multiply by factors, one a residual, the middle one's last: numbers, or tensors ((b f) 1 1 1).

        Without gradients it is done in the residuals' own memory, which is 13 MB a frame of 512 x 512 in half
        precision.
        """
        *down, mid = factors
        multiply = operator.mul if torch.is_grad_enabled() else operator.imul
        return Residuals(list(map(multiply, self.down, down)), multiply(self.mid, mid))

    def __add__(self, other: Any) -> "Residuals":
        """Add another network's, likewise."""
        return Residuals(list(map(_added, self.down, other.down)), _added(self.mid, other.mid))


class ResidualNetwork(Protocol):
    """A network beside the UNet that sees the same clips, and a condition: a ControlNet, a SparseCtrl encoder."""

    def __call__(
        self, sample: Tensor, timestep: Tensor | int, conditioning: "Conditioning", condition: Tensor
    ) -> Residuals:
        """Return the residuals of clips, in memory of their own, since what follows may change them.

        Args:
            sample: (b c f h w) noisy latents.
            timestep: one for all, or (b).
            conditioning: what the UNet is told of the clips; its text is what the network needs.
            condition: (b c f h w), what the network's own `embed` has made of pictures.
        """
        ...


class ImageAttention(Protocol):
    """The weights by which cross-attentions read an image: an IP-Adapter's."""

    def __call__(self, layer: int, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values, (r n c) each, of image tokens (r n d) for the cross-attention of that number.

        The number is the layer's place in the UNet's `attn_processors`, where self-attentions count too.
        """
        ...


class _PerClip:
    """Something that b clips are told: a dataclass whose tensors have a row a clip."""

    def rows(self, clips: Sequence[int]) -> Self:
        """Return what some of the clips are told, in the order of their indices; one clip's is not copied.

        A long clip's pictures are hundreds of megabytes, of which each window takes its frames.
        """
        if len(clips) == 1:
            (clip,) = clips
            return self.map(lambda tensor: tensor[clip : clip + 1])
        # Stacked, not indexed by a list: that would copy the list to a GPU, and wait for it.
        return self.map(lambda tensor: torch.stack([tensor[clip] for clip in clips]))

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Return the same with other tensors."""
        return replace(self, **{name: _mapped(value, change) for name, value in _values(self)})  # type: ignore[type-var]

    @property
    def batch_key(self) -> tuple[object, ...]:
        """What clips must have in common to go into one batch: all but the tensors' numbers and the rows' count."""
        return tuple((name, _batch_key(value)) for name, value in _values(self))

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """Join the clips of several.

        Raises:
            ValueError: their batch keys differ.
        """
        if len({part.batch_key for part in parts}) > 1:
            raise ValueError("clips that are conditioned on different things do not go into one batch")
        return replace(
            parts[0], **{name: _joined([getattr(part, name) for part in parts]) for name, _ in _values(parts[0])}
        )  # type: ignore[type-var]


@dataclass(frozen=True)
class Control(_PerClip):
    """A network whose residuals are added to the UNet's features."""

    network: ResidualNetwork
    condition: Tensor
    """(b c f h w), as the network's `embed` gives it."""
    scale: Tensor
    """(b f) float32: what a frame's residuals are multiplied by."""
    start: float = 0.0
    """Share of the denoising steps before which it is off."""
    end: float = 1.0
    """Share of the denoising steps after which it is off."""
    guess_mode: bool = False
    """Whether early residuals count less, and the negative branch has none: the picture leads, whatever the prompt."""

    def frames(self, window: Sequence[int]) -> "Control":
        """Return the control of some of the frames."""
        condition = torch.stack([self.condition[:, :, i] for i in window], dim=2)
        return replace(self, condition=condition, scale=torch.stack([self.scale[:, i] for i in window], dim=1))

    def is_on(self, step: int, num_steps: int) -> bool:
        """Whether it counts in a step; one counts if no part of it lies outside of start and end, as in diffusers."""
        return step / num_steps >= self.start and (step + 1) / num_steps <= self.end

    def residuals(self, sample: Tensor, timestep: Tensor | int, conditioning: "Conditioning") -> Residuals:
        """Return what is added to the UNet's features; see `ResidualNetwork`."""
        found = self.network(sample, timestep, conditioning, self.condition)
        scale = self.scale.to(found.mid.dtype).reshape(-1, 1, 1, 1)
        # As many steps as residuals, evenly apart in the logarithm (diffusers' ControlNetModel).
        count = len(found.down)
        weights = [_WEAKEST_GUESS ** (1 - i / count) if self.guess_mode else 1.0 for i in range(count + 1)]
        return found * [scale * weight for weight in weights]


@dataclass(frozen=True)
class ImagePrompt(_PerClip):
    """An image that the cross-attentions read beside the text."""

    adapter: ImageAttention
    tokens: Tensor
    """(b n d) of one image a clip, or (b f n d) of one a frame."""
    scale: float
    """What the image's share of the attention is multiplied by."""
    mask: Tensor | None = None
    """(b H W) in [0, 1], of any size and the clip's aspect ratio: where the image counts; None is everywhere."""

    def frames(self, window: Sequence[int]) -> "ImagePrompt":
        """Return the image of some of the frames."""
        return replace(self, tokens=_of_frames(self.tokens, window))

    def resized(self, height: int, width: int) -> "ImagePrompt":
        """Return the image with a mask of a layer's size, made as diffusers' IPAdapterMaskProcessor makes it."""
        if self.mask is None:
            return self
        mask = F.interpolate(self.mask.float()[:, None], size=(height, width), mode="bicubic")
        return replace(self, mask=mask[:, 0])


@dataclass(frozen=True)
class Conditioning(_PerClip):
    """What b clips are conditioned on: one object, whatever is in it, from the prompt to the UNet.

    Batching takes its `rows`, context windows its `frames`, guidance its `guidance_branches`, and a denoising step
    what is on `at` it; only the UNet looks inside. A new kind of conditioning is a field here, and a line where the
    UNet reads it.
    """

    text: Tensor
    """Embeddings, (b n d) of one text a clip, or (b f n d) of one a frame."""
    pooled_text: Tensor | None = None
    """(b p), SDXL's embedding of the whole text; None elsewhere."""
    time_ids: Tensor | None = None
    """(b 6) float32, SDXL's sizes, see `uncropped_time_ids`; None elsewhere."""
    negative: "Conditioning | None" = None
    """What guidance leads away from, of the same clips; None where there is no guidance."""
    controls: tuple[Control, ...] = ()
    """Networks that add to the UNet's features; their residuals are summed."""
    image_prompts: tuple[ImagePrompt, ...] = ()
    """Images that the cross-attentions read; their shares are summed."""

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

    def frames(self, window: Sequence[int]) -> "Conditioning":
        """Return the conditioning of some of the clips' frames, in the order of their indices."""
        return replace(
            self,
            text=_of_frames(self.text, window),
            controls=tuple(control.frames(window) for control in self.controls),
            image_prompts=tuple(image.frames(window) for image in self.image_prompts),
            negative=None if self.negative is None else self.negative.frames(window),
        )

    def at(self, step: int, num_steps: int) -> "Conditioning":
        """Return the conditioning of a denoising step, counted from 0: without the controls that are off in it."""
        return replace(self, controls=tuple(control for control in self.controls if control.is_on(step, num_steps)))

    def guidance_branches(self, *, is_guided: bool) -> "list[Conditioning]":
        """Return what a step predicts for: with guidance the negative and the positive branch, else the latter alone.

        Both have the controls, each with its own text, but for those in guess mode.

        Raises:
            ValueError: guidance is asked for, and there is no negative branch.
        """
        positive = replace(self, negative=None)
        if not is_guided:
            return [positive]
        if self.negative is None:
            raise ValueError("guidance needs a negative conditioning to lead away from")
        return [replace(self.negative, controls=tuple(c for c in self.controls if not c.guess_mode)), positive]

    def residuals(self, sample: Tensor, timestep: Tensor | int) -> Residuals | None:
        """Return what the controls add to the UNet's features, summed; None where there are none.

        Args:
            sample: (b c f h w) noisy latents.
            timestep: one for all, or (b).
        """
        found = [control.residuals(sample, timestep, self) for control in self.controls]
        return reduce(operator.add, found) if found else None


def _added(one: Tensor, other: Tensor) -> Tensor:
    """Return the sum, without gradients in the memory of the larger one: pooled residuals have one value a channel."""
    if torch.is_grad_enabled():
        return one + other
    larger, smaller = (one, other) if one.numel() >= other.numel() else (other, one)
    return larger.add_(smaller)


def _values(part: Any) -> list[tuple[str, Any]]:
    return [(one.name, getattr(part, one.name)) for one in fields(part)]


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_mapped(one, change) for one in value)
    return value.map(change) if isinstance(value, _PerClip) else value


def _batch_key(value: Any) -> object:
    if isinstance(value, Tensor):
        return tuple(value.shape[1:])
    if isinstance(value, tuple):
        return tuple(map(_batch_key, value))
    if isinstance(value, _PerClip):
        return value.batch_key
    return value if isinstance(value, bool | int | float | None) else id(value)


def _joined(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(list(values))
    if isinstance(first, tuple):
        return tuple(_joined(each) for each in zip(*values, strict=True))
    return first.cat(values) if isinstance(first, _PerClip) else first


def _of_frames(tensor: Tensor, window: Sequence[int]) -> Tensor:
    """Return the rows of some frames, of a tensor (b f n d); one of (b n d) is of all frames."""
    return torch.stack([tensor[:, i] for i in window], dim=1) if tensor.ndim == 4 else tensor


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
