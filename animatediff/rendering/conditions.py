"""What the pictures of a catalog's controls tell the UNet, by networks that stay in memory from item to item."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from animatediff.diffusion.conditioning import Conditioning, Control
from animatediff.errors import UserError, errors_with_field
from animatediff.models.control.control_net import ControlNet
from animatediff.models.control.sparse_control import SparseControlNet
from animatediff.rendering.catalog.controls import ControlSpec
from animatediff.rendering.catalog.entries import RenderSettings
from animatediff.rendering.catalog.picture_uris import picture_uris
from animatediff.rendering.frame_codec import FrameCodec
from animatediff.rendering.pictures import read_picture, read_video_frames
from animatediff.rendering.preprocessing import preprocess
from animatediff.weights.base_facts import BaseFacts
from animatediff.weights.controls import network_file

# A ControlNet is 0.7 GB in half precision, a SparseCtrl encoder 1 GB: a catalog that uses two or three in turn keeps
# them, one that goes through dozens does not fill the device.
_MAX_RESIDENT = 4
_MAX_CACHED_PICTURES = 4  # conditions' pictures, of the items before; a long video's are hundreds of megabytes


class Conditions:
    """Gives items' conditioning what their controls say.

    Nothing of a network or its pictures is written into the base, so that nothing of an item stays.

    Args:
        codec: the resident VAE, which pictures for latents go through.
        base: what the base's configs say.
        device: where networks are put.
        dtype: their precision.
    """

    def __init__(self, codec: FrameCodec, base: BaseFacts, device: torch.device, dtype: torch.dtype) -> None:
        self._codec, self._base, self._device, self._dtype = codec, base, device, dtype
        self._networks: OrderedDict[tuple[object, ...], ControlNet | SparseControlNet] = OrderedDict()
        self._pictures: OrderedDict[tuple[object, ...], Tensor] = OrderedDict()

    def add(self, conditioning: Conditioning, settings: RenderSettings, *, width: int, height: int) -> Conditioning:
        """Return the conditioning of clips with the controls of their settings.

        Args:
            conditioning: of b clips with these settings.
            settings: theirs.
            width: of a frame, in pixels.
            height: of a frame, in pixels.

        Raises:
            UserError: a file cannot be read, or does not fit.
        """
        if not settings.controls:
            return conditioning
        controls = []
        for number, spec in enumerate(settings.controls):
            with errors_with_field(f"controls.{number}"):
                control = self._control(spec, settings, width=width, height=height)
            controls.append(control.rows([0] * len(conditioning)))
        return replace(conditioning, controls=tuple(controls))

    def _control(self, spec: ControlSpec, settings: RenderSettings, *, width: int, height: int) -> Control:
        """Return one clip's control."""
        f, network = settings.num_frames, self._network(spec)
        is_sparse = isinstance(network, SparseControlNet)
        pictures = self._read(spec, settings, width=width, height=height)
        try:
            frames, scales = spec.frames_of(len(pictures), f, is_sparse=is_sparse), spec.scales(f)
        except ValueError as error:
            raise UserError(str(error)) from error
        pictures = pictures[: len(frames)].to(self._device)
        if isinstance(network, SparseControlNet):
            shown = self._codec.encode(pictures) if network.variant == "rgb" else pictures
            condition = network.embed(shown.transpose(0, 1)[None].to(self._dtype), frames, f)
        else:
            condition = network.embed(_at_frames(pictures, frames, f).transpose(0, 1)[None].to(self._dtype), f)
            # A frame without a picture is not led: black would be a picture, too.
            scales = [scale if frame in frames else 0.0 for frame, scale in enumerate(scales)]
        return Control(
            network,
            condition,
            torch.tensor([scales], dtype=torch.float32, device=self._device),
            start=spec.start,
            end=spec.end,
            guess_mode=spec.guess_mode or (isinstance(network, ControlNet) and network.forces_guess_mode),
        )

    def _network(self, spec: ControlSpec) -> ControlNet | SparseControlNet:
        key = spec.net, spec.global_pool_conditions
        if key not in self._networks:
            while len(self._networks) >= _MAX_RESIDENT:
                self._networks.popitem(last=False)
            network = network_file.read(spec.net, self._base.unet, global_pool_conditions=spec.global_pool_conditions)
            self._networks[key] = network.to(self._device, self._dtype)
        self._networks.move_to_end(key)
        return self._networks[key]

    def _read(self, spec: ControlSpec, settings: RenderSettings, *, width: int, height: int) -> Tensor:
        """Return the pictures that a network is shown, (k 3 h w) float32 in [0, 1]."""
        key = (spec.pictures, spec.video, spec.preprocess, settings.num_frames, settings.fps, width, height)
        if key not in self._pictures:
            while len(self._pictures) >= _MAX_CACHED_PICTURES:
                self._pictures.popitem(last=False)
            pictures = read_condition(spec, settings, width=width, height=height)
            self._pictures[key] = preprocess(spec.preprocess, pictures)
        self._pictures.move_to_end(key)
        return self._pictures[key]


def read_condition(spec: ControlSpec, settings: RenderSettings, *, width: int, height: int) -> Tensor:
    """Return the pictures or the video of a control as they are, (k 3 h w) float32 RGB in [0, 1].

    Raises:
        UserError: one cannot be read, or the video is too short.
    """
    if spec.video is not None:
        num_frames, fps = settings.num_frames, settings.fps
        return read_video_frames(spec.video, num_frames=num_frames, fps=fps, width=width, height=height)
    return torch.stack([read_picture(uri, width=width, height=height) for uri in picture_uris(spec.pictures)])


def _at_frames(pictures: Tensor, frames: Sequence[int], num_frames: int) -> Tensor:
    """Return pictures (k 3 h w) at their frames, (f 3 h w), black at others; one for all stays one."""
    if len(pictures) == 1 and len(frames) == num_frames:
        return pictures
    found = pictures.new_zeros(num_frames, *pictures.shape[1:])
    found[list(frames)] = pictures
    return found
