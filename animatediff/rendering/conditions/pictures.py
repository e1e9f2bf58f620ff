"""Pictures and videos that a catalog names, read at the size of what is rendered."""

import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import cast

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, ImageSequence, UnidentifiedImageError
from torch import Tensor

from animatediff import storage
from animatediff.data.clips.resize import crop_and_resize
from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.sources.limits import MAX_PIXELS
from animatediff.errors import UserError, one_line
from animatediff.uris import printable_uri

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_MS_OF_NONE = 100  # what browsers give a frame of an animation that lasts 0 ms
_TOLERANCE = 0.45  # of a frame that it may be late, as in `frame_indices_at`
# As always: a rendered item's digest has the video, and not what decodes it.
_VIDEO_DECODERS = ("decord", "pyav")


def read_picture(uri: str, *, width: int, height: int) -> Tensor:
    """Read a picture, cropped in its centre to the wanted ratio and resized.

    It is shown as a viewer shows it: turned as Exif says, in sRGB, what is transparent on black. Of an animation it is
    the first frame, and of 16 bits the upper 8.

    Args:
        uri: a file of any format that Pillow reads: PNG, JPEG, WebP, TIFF and others.
        width: pixels of the result.
        height: pixels of the result.

    Returns:
        (3 h w) float32 RGB in [0, 1].

    Raises:
        UserError: there is no such file, or no picture in it that can be read.
    """
    return as_tensor(crop_and_resize(read_pixels(uri), height=height, width=width))


def read_pixels(uri: str) -> np.ndarray:
    """Read a picture at its own size, (h w 3) uint8 RGB, as `read_picture` does.

    Raises:
        UserError: there is no such file, or no picture in it that can be read.
    """
    with _opened(uri) as image:
        return _rgb(image)


def check_picture(uri: str) -> None:
    """Refuse what `read_picture` would, having decoded it: some 10 ms a megapixel.

    Raises:
        UserError: there is no such file, or no picture in it that can be read.
    """
    with _opened(uri) as image:
        _check_mode(image)
        image.load()


@contextmanager
def _opened(uri: str) -> Iterator[Image.Image]:
    """Open a picture, of which nothing is decoded yet; what then goes wrong with it is told as that.

    Raises:
        UserError: there is no such file, or no picture in it that can be read.
    """
    data = _content(uri)
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            yield image
    except Exception as error:  # the reader of each format raises its own
        raise UserError(f"{printable_uri(uri)} cannot be read as a picture: {_reason(error, data)}") from error


def _reason(error: Exception, data: bytes) -> str:
    if isinstance(error, Image.DecompressionBombError):  # Pillow's own, too, which comes before a size is known
        return f"it has more than {MAX_PIXELS // 10**6} million pixels: make it smaller"
    if not isinstance(error, UnidentifiedImageError):
        return one_line(error)
    if not data:
        return "it has 0 bytes"
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        return "it is HEIC, as phones save photos: save it as JPEG or PNG"
    return "it is none of PNG, JPEG, WebP, TIFF, BMP and GIF"


def read_video_frames(uri: str, *, num_frames: int, fps: float, width: int, height: int) -> Tensor:
    """Read a video's frames from its start on, each cropped in its centre to the wanted ratio and resized.

    It is decoded in a process of its own, which a broken file may crash, as on ingest; but for animated WebP, which
    FFmpeg does not read, and Pillow does.

    Args:
        uri: a video file, or an animated GIF, PNG or WebP.
        num_frames: f.
        fps: frames for a second of the video, whatever its own rate.
        width: pixels of the result.
        height: pixels of the result.

    Returns:
        (f 3 h w) float32 RGB in [0, 1].

    Raises:
        UserError: there is no such file, no video in it that can be decoded, or one that is too short.
    """
    data = _content(uri)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP" and not _is_still(data):
        return _animation_frames(uri, num_frames=num_frames, fps=fps, width=width, height=height)
    # They import PyAV, which whoever renders without videos can do without.
    from animatediff.data.clips.config import ClipConfig
    from animatediff.data.decoding.supervisor import DecodeConfig, DecodeSupervisor

    clips = ClipConfig(num_frames=num_frames, fps=fps, width=width, height=height, windows="all", windows_per_video=1)
    try:
        with DecodeSupervisor(DecodeConfig(decoders=_VIDEO_DECODERS), clips) as decoder:
            (clip,) = decoder.cut(uri, data)
    except VideoError as error:
        if num_frames > 1 and _is_still(data):
            raise UserError(f"{printable_uri(uri)} is a picture, and a video is needed here") from error
        if error.reason is Reason.TOO_SHORT:
            raise UserError(_too_short(uri, num_frames, fps, error.detail)) from error
        raise UserError(f"{printable_uri(uri)} cannot be read as a video: {error.detail}") from error
    return as_tensor(clip.frames)


def _animation_frames(uri: str, *, num_frames: int, fps: float, width: int, height: int) -> Tensor:
    """Return what is on screen at the times of the frames, as `frame_indices_at` tells it."""
    found: list[np.ndarray] = []
    num_shown, end_s = 0, 0.0
    with _opened(uri) as image:
        for picture in ImageSequence.Iterator(image):
            picture.load()
            lasts_s = (picture.info["duration"] or _MS_OF_NONE) / 1000
            num_shown, end_s = num_shown + 1, end_s + lasts_s
            missing = range(len(found), num_frames)
            late_s = _TOLERANCE * min(lasts_s, 1 / fps)
            count = sum(frame / fps + late_s < end_s for frame in missing)
            if count:
                found += [crop_and_resize(_rgb(picture), height=height, width=width)] * count
            if count == len(missing):
                return as_tensor(np.stack(found))
    raise UserError(_too_short(uri, num_frames, fps, f"{num_shown} frames in {end_s:.2f} s"))


def _too_short(uri: str, num_frames: int, fps: float, detail: str) -> str:
    return (
        f"{printable_uri(uri)} is too short for num_frames {num_frames} at fps {fps:g} ({detail}): take "
        "fewer frames, a higher fps, or a longer video"
    )


def _content(uri: str) -> bytes:
    try:
        return storage.read_bytes(uri)
    except FileNotFoundError as error:
        raise UserError(f"there is no file {printable_uri(uri)}") from error


def _is_still(data: bytes) -> bool:
    """Whether a file is a picture that does not move."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return getattr(image, "n_frames", 1) == 1
    except Exception:  # the reader of each format raises its own
        return False


def _rgb(image: Image.Image) -> np.ndarray:
    """Return (h w 3) uint8, as a viewer shows the picture."""
    _check_mode(image)
    upright = _of_8_bits(ImageOps.exif_transpose(image))
    if not upright.has_transparency_data:
        return np.asarray(_srgb(upright, "RGB"))
    shown = _srgb(upright, "RGBA")
    return np.asarray(Image.alpha_composite(Image.new("RGBA", shown.size, "black"), shown).convert("RGB"))


def _check_mode(image: Image.Image) -> None:
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose range nothing tells: save it with 8 or 16 bits")


def _of_8_bits(image: Image.Image) -> Image.Image:
    if not image.mode.startswith("I"):
        return image
    # Grey with more than 8 bits, which Pillow would clip at 255, not scale.
    return Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))


def _srgb(image: Image.Image, mode: str) -> Image.Image:
    """Return the picture in sRGB; one whose colour profile is damaged, or is of other pixels, is taken as it is.

    Args:
        image: in any mode of 8 bits.
        mode: of the result, `RGB` or `RGBA`.
    """
    own_mode = image.mode in ("CMYK", "LAB") or (image.mode, mode) == ("L", "RGB")
    with_profile = image if own_mode else image.convert(mode)
    if profile := image.info.get("icc_profile"):
        with suppress(ImageCms.PyCMSError, OSError):
            embedded, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
            # In place it would give None.
            return cast(Image.Image, ImageCms.profileToProfile(with_profile, embedded, srgb, outputMode=mode))
    return with_profile.convert(mode)


def as_tensor(pixels: np.ndarray) -> Tensor:
    """Return pixels (... h w 3) uint8 as (... 3 h w) float32 in [0, 1]."""
    return torch.from_numpy(pixels.copy()).movedim(-1, -3).float() / 255


def as_pixels(picture: Tensor) -> np.ndarray:
    """Return a picture (3 h w) in [0, 1] as (h w 3) uint8."""
    return (picture * 255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
