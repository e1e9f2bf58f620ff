"""A ControlNet beside the motion UNet: an image network, which sees each frame with its picture and no other."""

import torch
from diffusers import ControlNetModel
from torch import Tensor, nn

from animatediff.diffusion.conditioning import Conditioning, Residuals
from animatediff.models.feed_forward import use_memory_efficient_feed_forward
from animatediff.models.text_attention import share_text_attention


class ControlNet(nn.Module):
    """Gives the residuals of each frame for its control picture; it is a `ResidualNetwork`.

    Args:
        net: a ControlNet for Stable Diffusion 1.x or SDXL. It is frozen, and its embedding of pictures taken out, as
            pictures are embedded once and not at every step.
        global_pool_conditions: whether a residual is the same everywhere, its mean over the frame, as the shuffle
            ControlNet's are trained to be.

    Raises:
        ValueError: the network reads more than latents, timestep, text and SDXL's sizes.
    """

    def __init__(self, net: ControlNetModel, *, global_pool_conditions: bool = False) -> None:
        super().__init__()
        _check(net)
        self.embedding = net.controlnet_cond_embedding
        self._is_bgr = net.config.controlnet_conditioning_channel_order == "bgr"
        net.controlnet_cond_embedding = nn.Identity()
        # Both are done here: the order of a picture's channels before it is embedded, and the mean.
        net.register_to_config(controlnet_conditioning_channel_order="rgb", global_pool_conditions=False)
        share_text_attention(net)
        use_memory_efficient_feed_forward(net)
        self.net = net
        self.global_pool_conditions = global_pool_conditions
        self.requires_grad_(False).eval()

    @property
    def forces_guess_mode(self) -> bool:
        """Whether its `Control` is to be in guess mode whatever the user says: pooled residuals are weighed so."""
        return self.global_pool_conditions

    def train(self, mode: bool = True) -> "ControlNet":
        """Stay in evaluation mode: it is frozen."""
        return super().train(False)

    def embed(self, pixels: Tensor, num_frames: int) -> Tensor:
        """Return what a clip's control pictures are to the network, for all denoising steps.

        Frames are embedded one at a time: the first layers, of all pixels, would be the largest tensors of a rendering.

        Args:
            pixels: (b 3 f H W), RGB in [0, 1], f being `num_frames`, or 1 for one picture for all frames. An inpainting
                ControlNet is given -1 where a frame is to be filled.
            num_frames: of the clip.

        Returns:
            (b c f h w) in the network's precision, h and w being the latents' sides, an eighth of the pictures'.

        Raises:
            ValueError: the pictures are neither one nor one a frame, or of other channels.
        """
        channels = self.embedding.conv_in.in_channels
        if pixels.ndim != 5 or pixels.shape[1] != channels or pixels.shape[2] not in (1, num_frames):
            raise ValueError(
                f"the ControlNet takes pictures (b c f H W) with c = {channels} and f = 1 or {num_frames}, "
                f"got {tuple(pixels.shape)}"
            )
        pixels = pixels.to(self.net.dtype)
        pixels = pixels.flip(1) if self._is_bgr else pixels
        frames = [self.embedding(frame) for frame in pixels.unbind(2)]
        return torch.stack(frames, dim=2).expand(-1, -1, num_frames, -1, -1)

    def forward(
        self, sample: Tensor, timestep: Tensor | int, conditioning: Conditioning, condition: Tensor
    ) -> Residuals:
        """Return the residuals of clips, neither scaled nor weighed by guess mode; see `ResidualNetwork`.

        Raises:
            ValueError: the pictures are of another size than the latents.
        """
        if condition.shape[2:] != sample.shape[2:]:
            raise ValueError(
                f"the control pictures are embedded as f, h, w = {tuple(condition.shape[2:])}, the latents are "
                f"{tuple(sample.shape[2:])}: they need the pictures of the clip's size and frames"
            )
        b, _, f = sample.shape[:3]
        text = conditioning.text if conditioning.text.ndim == 3 else conditioning.text.flatten(0, 1)
        timesteps = torch.as_tensor(timestep, device=sample.device).reshape(-1).expand(b)
        added = {name: tensor.repeat_interleave(f, dim=0) for name, tensor in conditioning.added_cond_kwargs.items()}
        down, mid = self.net(
            _folded(sample),
            timesteps.repeat_interleave(f),
            text.to(sample.dtype),
            _folded(condition).to(sample.dtype),
            added_cond_kwargs=added,
            return_dict=False,
        )
        if not self.global_pool_conditions:
            return Residuals(list(down), mid)
        return Residuals([_pooled(residual) for residual in down], _pooled(mid))


def _folded(clips: Tensor) -> Tensor:
    return clips.transpose(1, 2).flatten(0, 1)  # b c f h w -> (b f) c h w


def _pooled(residual: Tensor) -> Tensor:
    return residual.mean(dim=(2, 3), keepdim=True)


def _check(net: ControlNetModel) -> None:
    known: dict[str, tuple[str | None, ...]]
    known = {"encoder_hid_dim_type": (None,), "class_embed_type": (None,), "num_class_embeds": (None,)}
    known |= {"addition_embed_type": (None, "text_time"), "controlnet_conditioning_channel_order": ("rgb", "bgr")}
    unknown = [f"{name} {net.config[name]}" for name, values in known.items() if net.config[name] not in values]
    if unknown:
        raise ValueError(f"the ControlNet is neither Stable Diffusion 1.x's nor SDXL's: it has {', '.join(unknown)}")
