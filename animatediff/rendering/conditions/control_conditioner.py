"""What the pictures of a catalog's controls tell the UNet, by networks that stay in memory from item to item."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import TypeVar, cast

import torch
from torch import Tensor

from animatediff.data.clips.resize import crop_and_resize
from animatediff.diffusion.conditioning import Conditioning, Control, ImagePrompt
from animatediff.diffusion.prompt_travel import embeddings_of_frames
from animatediff.diffusion.travel import Travel
from animatediff.errors import UserError, errors_with_field
from animatediff.models.computing.precision import encoder_dtype
from animatediff.models.control.control_net import ControlNet
from animatediff.models.control.sparse_control import SparseControlNet, sparse_condition
from animatediff.models.image_prompt.image_encoder import ImageEncoder
from animatediff.models.image_prompt.ip_adapter import IPAdapter, image_tokens
from animatediff.models.motion_unet import MotionUNet
from animatediff.rendering.catalog.controls import NOT_KEPT, ControlSpec, ImageSpec, PiaSpec
from animatediff.rendering.catalog.entries import RenderSettings
from animatediff.rendering.catalog.picture_uris import picture_uris
from animatediff.rendering.conditions.condition_sheet import ShownCondition, ShownPicture, shown_pictures
from animatediff.rendering.conditions.pictures import as_pixels, as_tensor, read_picture, read_pixels, read_video_frames
from animatediff.rendering.conditions.preprocessing import find_preprocessor
from animatediff.rendering.frame_codec import FrameCodec
from animatediff.weights.base_facts import BaseFacts
from animatediff.weights.controls import image_encoder_folder, ip_adapter_file, network_file

# A ControlNet is 0.7 GB in half precision, a SparseCtrl encoder 1 GB: a catalog that uses two or three in turn keeps
# them, one that goes through dozens does not fill the device.
_MAX_RESIDENT = 4
_MAX_CACHED_PICTURES = 4  # conditions' pictures, of the items before; a long video's are hundreds of megabytes

ResidentT = TypeVar("ResidentT")


class ControlConditioner:
    """Adds ControlNets, SparseCtrl encoders and IP-Adapters to the conditioning of items.

    Nothing of a network or its pictures is written into the base, so that nothing of an item stays.

    Args:
        unet: the resident one, whose precision networks are given; image encoders have that of `encoder_dtype`.
        codec: the resident VAE, which pictures for latents go through.
        base: what the base's configs say.
        device: where networks are put.
    """

    def __init__(self, unet: MotionUNet, codec: FrameCodec, base: BaseFacts, device: torch.device) -> None:
        self._unet, self._codec, self._base, self._device = unet, codec, base, device
        self._models: OrderedDict[Hashable, object] = OrderedDict()
        self._max_resident = _MAX_RESIDENT
        self._pictures: OrderedDict[Hashable, Tensor] = OrderedDict()

    @property
    def _dtype(self) -> torch.dtype:
        return self._unet.base.dtype

    def add(
        self, conditioning: Conditioning, settings: RenderSettings, *, width: int, height: int
    ) -> tuple[Conditioning, tuple[ShownCondition, ...]]:
        """Return the conditioning of clips with the controls of their settings, and what these show.

        Args:
            conditioning: of b clips with these settings.
            settings: theirs.
            width: of a frame, in pixels.
            height: of a frame, in pixels.

        Raises:
            UserError: a file cannot be read, or does not fit.
        """
        if not settings.controls and not settings.images and settings.pia is None:
            return conditioning, ()
        # As many stay in memory as one item needs, so that its networks do not evict each other.
        self._max_resident = max(_MAX_RESIDENT, len(settings.controls) + len(settings.images) + 1)
        controls, images, without, conditions = [], [], [], []
        known: Tensor | None = None
        for number, spec in enumerate(settings.controls):
            with errors_with_field(f"controls.{number}"):
                control, kept, shown = self._control(spec, settings, width=width, height=height)
            controls.append(control)
            if kept is not None:
                known = kept if known is None else torch.where(kept[:, -1:].bool(), kept, known)
            kind = "SparseCtrl" if isinstance(control.network, SparseControlNet) else "ControlNet"
            preprocess = "" if spec.preprocess == "none" else f", {spec.preprocess}"
            conditions.append(ShownCondition(f"control {number + 1}: {kind}{preprocess}", shown))
        for number, image_spec in enumerate(settings.images):
            with errors_with_field(f"images.{number}"):
                image, nothing, shown = self._image_prompt(image_spec, settings, width=width, height=height)
            images.append(image)
            without.append(nothing)
            conditions.append(ShownCondition(f"image {number + 1}: IP-Adapter", shown))
        picture = None
        if settings.pia is not None:
            with errors_with_field("pia"):
                picture, shown = self._picture(settings.pia, settings, width=width, height=height)
            conditions.append(ShownCondition("PIA", shown))
        rows, negative = [0] * len(conditioning), conditioning.negative
        told = replace(
            conditioning,
            controls=tuple(control.rows(rows) for control in controls),
            image_prompts=tuple(image.rows(rows) for image in images),
            negative=negative and replace(negative, image_prompts=tuple(image.rows(rows) for image in without)),
            picture=None if picture is None else picture[rows],
            known=None if known is None else known[rows],
        )
        return told, tuple(conditions)

    def _control(
        self, spec: ControlSpec, settings: RenderSettings, *, width: int, height: int
    ) -> tuple[Control, Tensor | None, tuple[ShownPicture, ...]]:
        """Return one clip's control, the frames that it gives as in `Conditioning.known`, and what it is shown."""
        f, network = settings.num_frames, self._network(spec)
        is_sparse = isinstance(network, SparseControlNet)
        pictures = self._read(spec, settings, width=width, height=height)
        try:
            frames, scales = spec.frames_of(len(pictures), f, is_sparse=is_sparse), spec.scales(f)
        except ValueError as error:
            raise UserError(str(error)) from error
        pictures = pictures[: len(frames)]
        shown = shown_pictures(pictures, frames if len(pictures) == len(frames) else None)
        pictures, kept = pictures.to(self._device), None
        if spec.keep and not (isinstance(network, SparseControlNet) and network.variant == "rgb"):
            raise UserError(NOT_KEPT)
        if isinstance(network, SparseControlNet):
            given = (self._codec.encode(pictures) if network.variant == "rgb" else pictures).transpose(0, 1)[None]
            condition = network.embed(given.to(self._dtype), frames, f)
            kept = sparse_condition(given, frames, f) if spec.keep else None
        else:
            condition = network.embed(_at_frames(pictures, frames, f).transpose(0, 1)[None].to(self._dtype), f)
            # A frame without a picture is not led: black would be a picture, too.
            scales = [scale if frame in frames else 0.0 for frame, scale in enumerate(scales)]
        control = Control(
            network,
            condition,
            torch.tensor([scales], dtype=torch.float32, device=self._device),
            start=spec.start,
            end=spec.end,
            guess_mode=spec.guess_mode or (isinstance(network, ControlNet) and network.forces_guess_mode),
        )
        return control, kept, shown

    def _picture(
        self, spec: PiaSpec, settings: RenderSettings, *, width: int, height: int
    ) -> tuple[Tensor, tuple[ShownPicture, ...]]:
        """Return one clip's `Conditioning.picture`, and what it shows."""
        f = settings.num_frames
        try:
            similarities = torch.tensor(spec.similarities(f, loop=settings.loop), device=self._device)
        except ValueError as error:
            raise UserError(str(error)) from error
        pixels = read_picture(spec.picture, width=width, height=height)[None]
        latents = self._codec.encode(pixels)  # 1 c h w
        mask = similarities.to(latents).reshape(1, 1, f, 1, 1).expand(-1, -1, -1, *latents.shape[2:])
        picture = torch.cat([mask, latents[:, :, None].expand(-1, -1, f, -1, -1)], dim=1)
        return picture, shown_pictures(pixels, [spec.frame % f])

    def _image_prompt(
        self, spec: ImageSpec, settings: RenderSettings, *, width: int, height: int
    ) -> tuple[ImagePrompt, ImagePrompt, tuple[ShownPicture, ...]]:
        """Return one clip's image prompt, that of no picture, and the pictures that it is shown."""
        if settings.image_encoder is None:
            raise UserError("name the folder of the CLIP vision model that reads the pictures, as image_encoder")
        adapter, encoder = self._adapter(spec.adapter), self._encoder(settings.image_encoder)
        pictures = [read_pixels(uri) for uri in picture_uris(spec.pictures)]
        try:
            frames = spec.frames_of(len(pictures), settings.num_frames)
        except ValueError as error:
            raise UserError(str(error)) from error
        tokens = image_tokens(pictures, adapter, encoder)
        if frames:
            keys = dict(zip(frames, tokens.pictures, strict=True))
            found = embeddings_of_frames(keys, settings.num_frames, Travel(), loop=settings.loop)
            tokens = tokens._replace(pictures=found)
        else:
            tokens = tokens.joined()
        side = encoder.model.config.image_size
        squares = [as_tensor(crop_and_resize(picture, height=side, width=side)) for picture in pictures]
        shown = shown_pictures(torch.stack(squares), frames or None)
        mask = None
        if spec.mask is not None:
            mask = read_picture(spec.mask, width=width, height=height).mean(0)
            shown += (ShownPicture(as_pixels(mask.expand(3, -1, -1)), "mask"),)
            mask = mask.to(self._device)
        return *tokens.prompts(adapter, scale=spec.scale, mask=mask), shown

    def _adapter(self, uri: str) -> IPAdapter:
        return self._resident(("adapter", uri), lambda: self._read_adapter(uri))

    def _read_adapter(self, uri: str) -> IPAdapter:
        adapter = ip_adapter_file.read(uri)
        ip_adapter_file.check_fits(adapter, self._unet.base, self._base.base)
        return adapter.to(self._device, self._dtype)

    def _encoder(self, uri: str) -> ImageEncoder:
        def read() -> ImageEncoder:
            encoder = image_encoder_folder.read(uri)
            encoder.model.to(self._device, encoder_dtype(self._dtype, self._device))
            return encoder

        return self._resident(("encoder", uri), read)

    def _network(self, spec: ControlSpec) -> ControlNet | SparseControlNet:
        pooled = spec.global_pool_conditions
        return self._resident(
            ("network", spec.net, pooled),
            lambda: network_file.read(spec.net, self._base.unet, global_pool_conditions=pooled).to(
                self._device, self._dtype
            ),
        )

    def _resident(self, key: Hashable, read: Callable[[], ResidentT]) -> ResidentT:
        """Return what is in memory under a key; else read it, and let go of what was not used for longest."""
        if key not in self._models:
            while len(self._models) >= self._max_resident:
                self._models.popitem(last=False)
            self._models[key] = read()
        self._models.move_to_end(key)
        return cast(ResidentT, self._models[key])

    def _read(self, spec: ControlSpec, settings: RenderSettings, *, width: int, height: int) -> Tensor:
        """Return the pictures that a network is shown, (k 3 h w) float32 in [0, 1]."""
        key = (spec.pictures, spec.video, spec.preprocess, settings.num_frames, settings.fps, width, height)
        if key not in self._pictures:
            while len(self._pictures) >= _MAX_CACHED_PICTURES:
                self._pictures.popitem(last=False)
            pictures = read_condition(spec, settings, width=width, height=height)
            self._pictures[key] = find_preprocessor(spec.preprocess)(pictures)
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
