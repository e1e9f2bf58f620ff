"""SparseCtrl: an encoder beside the motion UNet that reads pictures of some of a clip's frames.

It is the encoder half and the middle block of the UNet, with motion modules of their own that carry what the pictures
show to the frames without one, and convolutions, zero before any training, that give the residuals. Parameter names
are the official checkpoints' own (guoyww/AnimateDiff, `sparse_controlnet.py`), so a state dict is a file.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from animatediff.diffusion.conditioning import Conditioning, Residuals
from animatediff.models.config import ActivationCheckpointing, MotionConfig
from animatediff.models.feed_forward import use_memory_efficient_feed_forward
from animatediff.models.motion_module import MotionModule
from animatediff.models.text_attention import share_text_attention

Variant = Literal["rgb", "scribble"]
"""What the pictures are: coloured ones, as VAE latents, or drawings, as pixels."""

PUBLISHED_MOTION = MotionConfig(num_layers=1)
"""The motion modules of the published files: one attention over frames, 32 positions, 32 norm groups, 8 heads."""

_PIXEL_CHANNELS = 3
_LATENT_FACTOR = 8  # pixels a side that a scribble's embedding makes one of, as the VAE of Stable Diffusion
_EMBEDDING_CHANNELS = (16, 32, 96, 256)


class ScribbleEmbedding(nn.Module):
    """Convolutions from pixels and mask to the size and width of the latents' features."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, _EMBEDDING_CHANNELS[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for narrow, wide in itertools.pairwise(_EMBEDDING_CHANNELS):
            self.blocks.append(nn.Conv2d(narrow, narrow, 3, padding=1))
            self.blocks.append(nn.Conv2d(narrow, wide, 3, padding=1, stride=2))
        self.conv_out = nn.Conv2d(_EMBEDDING_CHANNELS[-1], out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Embed n c H W; the result is an eighth of its size."""
        for layer in (self.conv_in, *self.blocks):
            x = F.silu(layer(x))
        return self.conv_out(x)


class _Unit(NamedTuple):
    """What a block repeats: a ResNet, a spatial attention, a motion module."""

    resnet: nn.Module
    attention: nn.Module | None
    motion: nn.Module


def _again(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return `run(x)`, whose activations are computed again in the backward pass."""
    return checkpoint(run, x, use_reentrant=False) if torch.is_grad_enabled() else run(x)


class SparseControlNet(nn.Module):
    """Residuals for all frames of clips, from pictures of some of them.

    A frame without a picture is told as zeros, and as 0 in a mask that is the condition's last channel. It has
    residuals too: of the text, the timestep, and what the attention over frames brings over from the pictures.

    Args:
        unet: a Stable Diffusion 1.x UNet, whose encoder half and middle block become parts of the network.
        variant: what the pictures are.
        motion: the motion modules' shape; one is behind each layer of the encoder, none in the middle block.

    Raises:
        ValueError: the UNet is SDXL's, or its channels do not divide by the motion modules' heads or norm groups.
    """

    def __init__(self, unet: UNet2DConditionModel, variant: Variant, motion: MotionConfig = PUBLISHED_MOTION) -> None:
        super().__init__()
        config = unet.config
        if config.addition_embed_type is not None:
            raise ValueError("SparseCtrl encoders are made for Stable Diffusion 1.x, this base is SDXL")
        self.variant = variant
        self.motion_config = motion
        share_text_attention(unet)
        self.activation_checkpointing: ActivationCheckpointing = "none"
        """What training computes again for the gradients instead of keeping it, as in `MotionUNet`."""
        use_memory_efficient_feed_forward(unet)
        self.conv_in = unet.conv_in
        self.time_proj = unet.time_proj
        self.time_embedding = unet.time_embedding
        self.picture_channels: int = config.in_channels if variant == "rgb" else _PIXEL_CHANNELS
        """Channels of a picture: the latents', or the three of pixels."""
        in_channels, width = self.picture_channels + 1, config.block_out_channels[0]
        self.controlnet_cond_embedding: nn.Module = (
            nn.Conv2d(in_channels, width, 3, padding=1) if variant == "rgb" else ScribbleEmbedding(in_channels, width)
        )
        self.down_blocks = unet.down_blocks
        self.mid_block: Any = unet.mid_block
        outputs = [width]
        for block in self.down_blocks:
            channels = [resnet.out_channels for resnet in block.resnets]
            block.motion_modules = nn.ModuleList(MotionModule(each, motion) for each in channels)
            outputs += channels + channels[-1:] * len(block.downsamplers or ())
        self.controlnet_down_blocks = nn.ModuleList(nn.Conv2d(channels, channels, 1) for channels in outputs)
        self.controlnet_mid_block = nn.Conv2d(outputs[-1], outputs[-1], 1)
        self._set_to_zero()

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights, in which it computes."""
        return self.conv_in.weight.dtype

    def embed(self, pictures: Tensor, frames: Sequence[int], num_frames: int) -> Tensor:
        """Return the condition of clips; it is the same in every denoising step.

        Args:
            pictures: (b c k H W), the pictures of each clip. `rgb`: their VAE latents multiplied by the scaling
                factor, the mean, of images in [-1, 1]. `scribble`: pixels in [0, 1], eight times the latents' size.
            frames: the k frames that they are of, those below 0 counted from the end.
            num_frames: f.

        Returns:
            (b d f h w), in the weights' precision.

        Raises:
            ValueError: as `sparse_condition` says, or they are pictures of the other variant.
        """
        if pictures.ndim != 5 or pictures.shape[1] != self.picture_channels:
            needed = "VAE latents" if self.variant == "rgb" else "drawings as pixels"
            raise ValueError(
                f"this SparseCtrl is the {self.variant} variant, which takes {needed} (b c k h w) with "
                f"c = {self.picture_channels}, got {tuple(pictures.shape)}"
            )
        return self.embed_condition(sparse_condition(pictures, frames, num_frames))

    def embed_condition(self, condition: Tensor) -> Tensor:
        """Return the same of what `sparse_condition` has made of pictures, (b c+1 f H W)."""
        embedded = self.controlnet_cond_embedding(condition.to(self.dtype).transpose(1, 2).flatten(0, 1))
        return embedded.unflatten(0, (len(condition), -1)).transpose(1, 2)

    def forward(
        self, sample: Tensor, timestep: Tensor | int, conditioning: Conditioning, condition: Tensor
    ) -> Residuals:
        """Return what is added to the UNet's skips and to its middle block's output; see `ResidualNetwork`.

        The noisy clips themselves are not looked at: the published networks were trained with zeros in their place.

        Raises:
            ValueError: the condition is of another size, or another number of clips or frames, than the clips.
        """
        b, _, f = sample.shape[:3]
        if condition.shape[:1] + condition.shape[2:] != sample.shape[:1] + sample.shape[2:]:
            raise ValueError(
                f"the SparseCtrl pictures were embedded to {tuple(condition.shape)} (b d f h w), which does not fit "
                f"latents of {tuple(sample.shape)}: a drawing's pixels are {_LATENT_FACTOR} times the latents' size"
            )
        # The first convolution of zeros is its bias alone.
        x = self.conv_in.bias[:, None, None] + condition.to(self.dtype).transpose(1, 2).flatten(0, 1)
        timesteps = torch.as_tensor(timestep, device=x.device).expand(b)
        time = self.time_embedding(self.time_proj(timesteps).to(self.dtype)).repeat_interleave(f, dim=0)
        text = conditioning.text.to(self.dtype)
        text = text if text.ndim == 3 else text.flatten(0, 1)
        outputs = [x]
        for block in self.down_blocks:
            attentions = getattr(block, "attentions", [None] * len(block.resnets))
            for layers in zip(block.resnets, attentions, block.motion_modules, strict=True):
                x = self._unit(_Unit(*layers), x, time, text, f)
                outputs.append(x)
            for downsampler in block.downsamplers or ():
                x = downsampler(x)
                outputs.append(x)
        x = self.mid_block(x, time, encoder_hidden_states=text)
        down = [conv(output) for conv, output in zip(self.controlnet_down_blocks, outputs, strict=True)]
        return Residuals(down, self.controlnet_mid_block(x))

    def _unit(self, unit: "_Unit", x: Tensor, time: Tensor, text: Tensor, num_frames: int) -> Tensor:
        """Run ResNet, attention and motion module on (b f) c h w."""

        def features(x: Tensor) -> Tensor:
            x = unit.resnet(x, time)
            if unit.attention is None:
                return x
            return unit.attention(x, encoder_hidden_states=text, return_dict=False)[0]

        def mix(x: Tensor) -> Tensor:
            return unit.motion(x, num_frames)

        if self.activation_checkpointing == "all":
            return _again(lambda x: mix(features(x)), x)
        x = features(x)
        return mix(x) if self.activation_checkpointing == "none" else _again(mix, x)

    def _set_to_zero(self) -> None:
        """Let a fresh network change nothing: zero the condition's last convolution, and those of the residuals."""
        embedding: Any = self.controlnet_cond_embedding
        last = embedding if self.variant == "rgb" else embedding.conv_out
        for layer in (last, *self.controlnet_down_blocks, self.controlnet_mid_block):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)


def sparse_condition(pictures: Tensor, frames: Sequence[int], num_frames: int) -> Tensor:
    """Return pictures at their frames, zeros at the others, and the mask that tells which is which.

    Args:
        pictures: (b c k H W).
        frames: the k frames that they are of, those below 0 counted from the end.
        num_frames: f.

    Returns:
        (b c+1 f H W): the mask is the last channel, 1 over the whole of a frame with a picture.

    Raises:
        ValueError: as `picture_frames` says.
    """
    at = picture_frames(frames, num_frames, pictures.shape[2])
    b, c, _, height, width = pictures.shape
    condition = pictures.new_zeros(b, c + 1, num_frames, height, width)
    for picture, frame in enumerate(at):
        condition[:, :c, frame] = pictures[:, :, picture]
        condition[:, c, frame] = 1
    return condition


def picture_frames(frames: Sequence[int], num_frames: int, num_pictures: int) -> list[int]:
    """Return the frames that pictures are of, counted from 0.

    The reference leaves out pictures beyond the frames that are named, without a word; here they are refused.

    Args:
        frames: one a picture, those below 0 counted from the end.
        num_frames: of the clip.
        num_pictures: how many pictures there are.

    Raises:
        ValueError: there are more or fewer pictures than frames, a frame is not in the clip, or named twice.
    """
    if len(frames) != num_pictures:
        raise ValueError(
            f"{num_pictures} pictures do not go to {len(frames)} frames ({', '.join(map(str, frames))}): "
            "name a frame for each"
        )
    for frame in frames:
        if not -num_frames <= frame < num_frames:
            raise ValueError(
                f"there is no frame {frame} in a clip of {num_frames}: they are 0 to {num_frames - 1}, "
                f"or -1 to {-num_frames} from the end"
            )
    found = [frame % num_frames for frame in frames]
    if twice := [frame for frame, at in zip(frames, found, strict=True) if found.count(at) > 1]:
        raise ValueError(f"frames {', '.join(map(str, twice))} of a clip of {num_frames} are the same one")
    return found
