"""A frozen Stable Diffusion UNet with motion modules beside it.

`MotionUNet.base` stays an untouched diffusers `UNet2DConditionModel`: its state dict is exactly Stable Diffusion's,
and a personalised checkpoint is a `base.load_state_dict`. The forward pass walks the base's own blocks on frames
folded into the batch and calls a motion module after each spatial attention (after the ResNet where a block has
none).
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from animatediff.diffusion.conditioning import Conditioning, ImagePrompt
from animatediff.diffusion.steps.deep_features import DeepFeatures
from animatediff.models.config import ActivationCheckpointing, MotionConfig
from animatediff.models.control.picture_convolution import PictureConvolution
from animatediff.models.feed_forward import use_memory_efficient_feed_forward
from animatediff.models.motion_module import MotionModule, check_num_frames, scoped_group_norm
from animatediff.models.text_attention import share_text_attention
from animatediff.models.unet_layer import UNetLayer, layers_of, run_layer

_KNOWN_BLOCKS = {
    "CrossAttnDownBlock2D",
    "DownBlock2D",
    "UNetMidBlock2DCrossAttn",
    "UpBlock2D",
    "CrossAttnUpBlock2D",
}


class _Slot(nn.Module):
    """The motion modules of one UNet block; the attribute's name is part of the official layout."""

    def __init__(self, channels: list[int], config: MotionConfig) -> None:
        super().__init__()
        self.motion_modules = nn.ModuleList(MotionModule(c, config) for c in channels)

    def __iter__(self) -> Iterator[MotionModule]:
        return iter(self.motion_modules)  # type: ignore[arg-type]


class MotionModules(nn.Module):
    """All motion modules of one UNet, named as in the official files.

    Args:
        config: the version's shape.
        down: for each down block the channels of its motion modules; likewise `up`.
        mid: channels of the middle block.
    """

    def __init__(self, config: MotionConfig, *, down: list[list[int]], mid: int, up: list[list[int]]) -> None:
        super().__init__()
        self.config = config
        self.down_blocks = nn.ModuleList(_Slot(channels, config) for channels in down)
        self.mid_block = _Slot([mid], config) if config.use_mid_block else None
        self.up_blocks = nn.ModuleList(_Slot(channels, config) for channels in up)

    def mid_slot(self) -> list[MotionModule]:
        """Return the middle block's motion modules: one in v2, none elsewhere."""
        return list(self.mid_block) if self.mid_block is not None else []

    @classmethod
    def for_base(cls, base: UNet2DConditionModel, config: MotionConfig) -> "MotionModules":
        """Fresh motion modules (zero output) that fit `base`."""
        return cls(
            config,
            down=[[r.out_channels for r in block.resnets] for block in base.down_blocks],
            mid=base.mid_block.resnets[-1].out_channels,
            up=[[r.out_channels for r in block.resnets] for block in base.up_blocks],
        )


class MotionUNet(nn.Module):
    """Predicts the noise, or what else the base was trained to predict, of whole clips.

    Args:
        base: an SD 1.x or SDXL UNet. It is frozen: no gradients, no changes to its weights.
        motion: motion modules made for it, or a config to make fresh ones.
        activation_checkpointing: what training keeps less of, for more seconds a step; an attribute too. The
            gradients stay the same bit for bit.

    Raises:
        ValueError: the base has blocks or conditionings that Stable Diffusion 1.x and SDXL do not have, or its text
            embeddings are not as wide as those that the motion modules attend to.
    """

    def __init__(
        self,
        base: UNet2DConditionModel,
        motion: MotionModules | MotionConfig,
        activation_checkpointing: ActivationCheckpointing = "none",
    ) -> None:
        super().__init__()
        _check_base(base)
        self.activation_checkpointing = activation_checkpointing
        self.base = base.requires_grad_(False).eval()
        self.motion = motion if isinstance(motion, MotionModules) else MotionModules.for_base(base, motion)
        _check_text_width(self.config.text_width, base.config.cross_attention_dim)
        self.picture_convolution: PictureConvolution | None = None
        """What reads `Conditioning.picture`, beside the base's first convolution; None in all but PIA's."""
        share_text_attention(base)
        use_memory_efficient_feed_forward(base)

    @property
    def config(self) -> MotionConfig:
        """The motion modules' config."""
        return self.motion.config

    def train(self, mode: bool = True) -> "MotionUNet":
        """Switch the motion modules; the frozen base always stays in evaluation mode."""
        self.training = mode
        self.motion.train(mode)
        return self

    @property
    def num_decoder_layers(self) -> int:
        """Layers of the up blocks, each of which reads one skip."""
        return sum(len(block.resnets) for block in self.base.up_blocks)

    def forward(
        self, sample: Tensor, timestep: Tensor | int, conditioning: Conditioning, deep: DeepFeatures | None = None
    ) -> Tensor:
        """Predict the noise, or what else the base was trained to predict.

        Args:
            sample: (b c f h w) noisy latents, multiplied by the VAE's scaling factor.
            timestep: one for all, or (b) one a clip, in [0, T) of the noise schedule.
            conditioning: of the b clips; an SDXL base needs the pooled text and the time ids.
            deep: what the deep layers gave at an earlier step, in whose place they are not computed; where it is
                empty, all are, and it is filled.

        Returns:
            (b c f h w), the prediction that the base was trained for.

        Raises:
            ValueError: a sample of another rank or channel count, a text batch that does not match, more
                frames than the position table has, or deep features of more layers than there are.
        """
        self._check_input(sample, conditioning.text)
        b, _, f = sample.shape[:3]
        residuals = conditioning.residuals(sample, timestep)
        x = sample.transpose(1, 2).flatten(0, 1)  # b c f h w -> (b f) c h w
        time = self._time_embedding(x, timestep, conditioning)
        shared = _Shared(f, conditioning.text.to(sample.dtype), time, conditioning.image_prompts)
        x = self.base.conv_in(x)
        if self.picture_convolution is not None:
            x = x + self.picture_convolution(conditioning.picture)
        kept = None if deep is None else deep.features
        num_layers = self.num_decoder_layers if deep is None or kept is None else deep.num_layers
        skips = list(islice(self._encoded(x, shared), num_layers))
        x = self._mid(skips[-1], shared) if kept is None else kept
        if residuals is not None:
            skips = [skip + residual for skip, residual in zip(skips, residuals.down, strict=kept is None)]
            x = x + residuals.mid if kept is None else x
        for layer, upsamplers in islice(self._decoder(), self.num_decoder_layers - num_layers, None):
            if deep is not None and len(skips) == deep.num_layers:
                deep.features = x
            x = self._layer(layer, [x, skips.pop()], shared)
            for upsampler in upsamplers:
                # Naming the size keeps skips and features equal for sizes that do not halve evenly.
                odd = skips[-1].shape[-2:] != (2 * x.shape[-2], 2 * x.shape[-1])
                x = upsampler(x, tuple(skips[-1].shape[-2:]) if odd else None)
        x = self.base.conv_act(self._norm(self.base.conv_norm_out, x, f))
        return self.base.conv_out(x).unflatten(0, (b, f)).transpose(1, 2)

    def _encoded(self, x: Tensor, shared: "_Shared") -> Iterator[Tensor]:
        """Yield what the decoder reads, from the first convolution's output on; each is computed when it is asked for.

        One for each of the decoder's layers, the last of which reads the first.
        """
        yield x
        blocks: Any = zip(self.base.down_blocks, self.motion.down_blocks, strict=True)
        for block, slot in blocks:
            for layer in layers_of(block, slot):
                x = self._layer(layer, [x], shared)
                yield x
            for downsampler in block.downsamplers or ():
                x = downsampler(x)
                yield x

    def _mid(self, x: Tensor, shared: "_Shared") -> Tensor:
        block: Any = self.base.mid_block
        *first, last = block.resnets
        motion = next(iter(self.motion.mid_slot()), None)
        for resnet, attention in zip(first, block.attentions, strict=True):
            x = self._layer(UNetLayer(resnet, attention, motion), [x], shared)
        return self._layer(UNetLayer(last, None, None), [x], shared)

    def _decoder(self) -> Iterator[tuple[UNetLayer, Any]]:
        """Yield the decoder's layers, each with the upsamplers that follow it."""
        blocks: Any = zip(self.base.up_blocks, self.motion.up_blocks, strict=True)
        for block, slot in blocks:
            *layers, last = layers_of(block, slot)
            yield from ((layer, ()) for layer in layers)
            yield last, block.upsamplers or ()

    def _layer(self, layer: UNetLayer, parts: list[Tensor], shared: "_Shared") -> Tensor:
        """Run ResNet, attention and motion module; `parts` (features, in up blocks a skip) are concatenated first."""

        def spatial(*parts: Tensor) -> Tensor:
            x = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
            return _attend(layer.attention, self._resnet(layer.resnet, x, shared), shared)

        def temporal(x: Tensor) -> Tensor:
            return x if layer.motion is None else layer.motion(x, shared.num_frames, shared.text)

        return run_layer(spatial, temporal, parts, self.activation_checkpointing)

    def _resnet(self, resnet: ResnetBlock2D, x: Tensor, shared: "_Shared") -> Tensor:
        if self.config.resnet_norm_scope == "frame":
            return resnet(x, shared.time)
        # diffusers' ResnetBlock2D, with v1's norms over the clip.
        f = shared.num_frames
        hidden = resnet.conv1(resnet.nonlinearity(self._norm(resnet.norm1, x, f)))
        hidden = hidden + resnet.time_emb_proj(resnet.nonlinearity(shared.time))[:, :, None, None]
        hidden = resnet.conv2(resnet.nonlinearity(self._norm(resnet.norm2, hidden, f)))
        shortcut = x if resnet.conv_shortcut is None else resnet.conv_shortcut(x)
        return (shortcut + hidden) / resnet.output_scale_factor

    def _norm(self, norm: nn.GroupNorm, x: Tensor, f: int) -> Tensor:
        return scoped_group_norm(norm, x, f if self.config.resnet_norm_scope == "clip" else 1)

    def _time_embedding(self, x: Tensor, timestep: Tensor | int, conditioning: Conditioning) -> Tensor:
        """Return (b f) d, a row a frame.

        One timestep for all goes through the base's own path, a row a frame, so that its bits are the base's. A
        timestep a clip is embedded once a clip, as the reference does: a matrix product rounds by its row count.
        """
        b, f = len(conditioning), len(x) // len(conditioning)
        timesteps = torch.as_tensor(timestep, device=x.device)
        is_a_frame = conditioning.pooled_text is not None and conditioning.pooled_text.ndim == 3
        rows_per_clip = f if timesteps.ndim == 0 or is_a_frame else 1
        timesteps = timesteps if timesteps.ndim == 0 else timesteps.repeat_interleave(rows_per_clip)
        embedding = self.base.time_embedding(
            self.base.get_time_embed(sample=x[: b * rows_per_clip], timestep=timesteps)
        )
        added = conditioning.added_cond_kwargs(rows_per_clip)
        # The text is no part of what SDXL adds, though the call asks for it.
        extra = self.base.get_aug_embed(emb=embedding, encoder_hidden_states=conditioning.text, added_cond_kwargs=added)
        embedding = embedding if extra is None else embedding + extra
        return embedding.repeat_interleave(f // rows_per_clip, dim=0)

    def _check_input(self, sample: Tensor, text: Tensor) -> None:
        channels = self.base.config.in_channels
        if sample.ndim != 5 or sample.shape[1] != channels:
            raise ValueError(f"a motion UNet takes latents (b c f h w) with c = {channels}, got {tuple(sample.shape)}")
        b, f = sample.shape[0], sample.shape[2]
        is_a_frame = text.ndim == 4 and text.shape[:2] == (b, f)
        if not is_a_frame and (text.ndim != 3 or len(text) != b):
            raise ValueError(
                f"a motion UNet takes text embeddings (b n d), one a clip, or (b f n d), one a frame, with b = {b} and "
                f"f = {f}, got {tuple(text.shape)}"
            )
        check_num_frames(f, self.config.max_frames if self.config.use_positions else None)


class _Shared(NamedTuple):
    """What all layers of one forward pass are given."""

    num_frames: int
    text: Tensor
    """(b n d), or (b f n d)."""
    time: Tensor
    """(b f) d, the embedded timestep of each frame."""
    image_prompts: tuple[ImagePrompt, ...] = ()

    @property
    def spatial_text(self) -> Tensor:
        """What the base's own layers attend to: (b n d), or ((b f) n d)."""
        return self.text if self.text.ndim == 3 else self.text.flatten(0, 1)


def _check_text_width(motion: int | None, base: Any) -> None:
    if motion not in (None, base):
        raise ValueError(f"the motion modules attend to text embeddings of {motion} channels, the base's have {base}")


def _attend(attention: nn.Module | None, x: Tensor, shared: _Shared) -> Tensor:
    if attention is None:
        return x
    # diffusers hands what it does not know to the attention processors.
    images = tuple(image.resized(*x.shape[-2:]) for image in shared.image_prompts)
    told = {"image_prompts": images} if images else None
    return attention(x, encoder_hidden_states=shared.spatial_text, cross_attention_kwargs=told, return_dict=False)[0]


def _check_base(base: UNet2DConditionModel) -> None:
    blocks = {type(b).__name__ for b in (*base.down_blocks, base.mid_block, *base.up_blocks)}
    unknown = sorted(blocks - _KNOWN_BLOCKS)
    conditionings = ("class_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim", "num_class_embeds")
    unknown += [name for name in conditionings if getattr(base.config, name, None) is not None]
    if base.config.addition_embed_type not in (None, "text_time"):
        unknown.append(f"addition_embed_type {base.config.addition_embed_type}")
    if unknown:
        raise ValueError(f"the base UNet is neither Stable Diffusion 1.x nor SDXL: it has {', '.join(unknown)}")
