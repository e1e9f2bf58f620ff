"""What the UNet is told of its clips beside the noisy latents and the timestep."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce
from typing import Any, Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from animatediff.diffusion.residuals import Residuals

_WEAKEST_GUESS = 0.1  # what guess mode multiplies the first residual by; the last one stays as it is


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
    """Base of the conditioning dataclasses: dimension 0 of every tensor is the clip."""

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
        return replace(self, condition=_of_frames(self.condition, window), scale=_of_frames(self.scale, window))

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
    """SDXL's embedding of the whole text, (b p), or (b f p) of one text a frame; None elsewhere."""
    time_ids: Tensor | None = None
    """(b 6) float32, SDXL's sizes, see `uncropped_time_ids`; None elsewhere."""
    negative: "Conditioning | None" = None
    """What guidance leads away from, of the same clips; None where there is no guidance."""
    controls: tuple[Control, ...] = ()
    """Networks that add to the UNet's features; their residuals are summed."""
    image_prompts: tuple[ImagePrompt, ...] = ()
    """Images that the cross-attentions read; their shares are summed."""
    picture: Tensor | None = None
    """(b c+1 f h w), for PIA: each frame's similarity to a picture, in [0, 1], and its latents; None elsewhere."""
    known: Tensor | None = None
    """(b c+1 f h w), the frames that are given, as `KnownFrames` takes them; None where none are. It is not for the
    UNet: the denoising loop puts them back."""

    def __len__(self) -> int:
        """Return the number of clips, b."""
        return len(self.text)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the embeddings, in which the UNet computes."""
        return self.text.dtype

    def added_cond_kwargs(self, rows_per_clip: int) -> dict[str, Tensor]:
        """Return what SDXL adds to the timestep's embedding, by diffusers' names; nothing for Stable Diffusion 1.x."""
        return {
            name: value.flatten(0, 1) if value.ndim == 3 else value.repeat_interleave(rows_per_clip, dim=0)
            for name, value in (("text_embeds", self.pooled_text), ("time_ids", self.time_ids))
            if value is not None
        }

    def frames(self, window: Sequence[int]) -> "Conditioning":
        """Return the conditioning of some of the clips' frames, in the order of their indices."""
        return replace(
            self,
            text=_of_frames(self.text, window),
            pooled_text=None if self.pooled_text is None else _of_frames(self.pooled_text, window, is_pooled=True),
            controls=tuple(control.frames(window) for control in self.controls),
            image_prompts=tuple(image.frames(window) for image in self.image_prompts),
            picture=None if self.picture is None else _of_frames(self.picture, window),
            negative=None if self.negative is None else self.negative.frames(window),
        )

    def at(self, step: int, num_steps: int) -> "Conditioning":
        """Return the conditioning of a denoising step, counted from 0: without the controls that are off in it."""
        return replace(self, controls=tuple(control for control in self.controls if control.is_on(step, num_steps)))

    def changes(self, num_steps: int) -> frozenset[int]:
        """Return the denoising steps, counted from 0, in which controls go on or off that were not so before."""
        on = [[control.is_on(step, num_steps) for control in self.controls] for step in range(num_steps)]
        return frozenset(step for step in range(1, num_steps) if on[step] != on[step - 1])

    def guidance_branches(self, *, is_guided: bool) -> "list[Conditioning]":
        """Return what a step predicts for: with guidance the negative and the positive branch, else the latter alone.

        Both have the picture, and the controls, each with its own text, but for those in guess mode.

        Raises:
            ValueError: guidance is asked for, and there is no negative branch.
        """
        positive = replace(self, negative=None, known=None)
        if not is_guided:
            return [positive]
        if self.negative is None:
            raise ValueError("guidance needs a negative conditioning to lead away from")
        controls = tuple(control for control in self.controls if not control.guess_mode)
        return [replace(self.negative, controls=controls, picture=self.picture), positive]

    def residuals(self, sample: Tensor, timestep: Tensor | int) -> Residuals | None:
        """Return what the controls add to the UNet's features, summed; None where there are none.

        Args:
            sample: (b c f h w) noisy latents.
            timestep: one for all, or (b).
        """
        found = [control.residuals(sample, timestep, self) for control in self.controls]
        return reduce(operator.add, found) if found else None


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


def _of_frames(tensor: Tensor, window: Sequence[int], *, is_pooled: bool = False) -> Tensor:
    """Return some frames of (b f), (b f n d) or (b c f h w), or of a pooled text (b f p); others are of all frames."""
    dim = ({3: 1} if is_pooled else {2: 1, 4: 1, 5: 2}).get(tensor.ndim)
    return tensor if dim is None else torch.stack([tensor.select(dim, i) for i in window], dim=dim)


NoisePredictor = Callable[..., Tensor]
"""(b c f h w) noisy latents, a timestep for all or (b) one a clip, their conditioning -> (b c f h w) prediction; where
deep features are kept, `DeepFeatures` come last."""
