"""Frames to files, MP4 (H.264), GIF, WebP, PNG and latents, which hold inside them what they were made from."""

import io
import itertools
import json
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Literal, NamedTuple

import av
import numpy as np
import safetensors.torch
from PIL import ExifTags, Image, PngImagePlugin
from torch import Tensor

from animatediff import storage
from animatediff.errors import UserError
from animatediff.rendering.formats import POSTER_PIXELS, Format

_MATRIX_BT601, _PRIMARIES_BT709, _TRANSFER_SRGB = 6, 1, 13  # H.264's numbers
_KEY = "parameters"  # where the readers of generated PNGs look first
_EXIF_ASCII = b"ASCII\0\0\0"
_PNG_MAGIC, _GIF_MAGIC = b"\x89PNG", b"GIF8"


class EncodedFile(NamedTuple):
    """A file of a clip."""

    format: Format | Literal["poster", "condition"]
    suffix: str
    """What follows the clip's own path: `.mp4`; of the PNG frames `/0000.png`, in a folder of that path."""
    data: bytes


def encode_clip(
    formats: Iterable[Format],
    frames: np.ndarray,
    latents: Tensor | None = None,
    *,
    fps: float,
    crf: int = 18,
    metadata: Mapping[str, str] | None = None,
) -> Iterator[EncodedFile]:
    """Yield a clip's files one after the other: the poster, then the formats in their order.

    The bytes depend on the arguments alone. The poster is a thumbnail and has no metadata.

    Args:
        formats: any of them, each counted once.
        frames: (f h w 3) uint8 RGB.
        latents: (f c h w), needed for the format `latents`.
        fps: frames per second.
        crf: see `encode_mp4`.
        metadata: what to write inside each file, for `read_metadata`.

    Raises:
        ValueError: the frames have another shape, or latents are asked for and not given.
    """
    yield EncodedFile("poster", ".poster.webp", encode_poster(frames))
    for format in dict.fromkeys(formats):
        if format == "mp4":
            yield EncodedFile(format, ".mp4", encode_mp4(frames, fps=fps, crf=crf, metadata=metadata))
        elif format == "gif":
            yield EncodedFile(format, ".gif", encode_gif(frames, fps=fps, metadata=metadata))
        elif format == "webp":
            yield EncodedFile(format, ".webp", encode_webp(frames, fps=fps, metadata=metadata))
        elif format == "png":
            for index, frame in enumerate(frames):
                yield EncodedFile(format, f"/{index:04d}.png", encode_png(frame, metadata=metadata))
        elif latents is None:
            raise ValueError("the latents are to be written, but there are none")
        else:
            yield EncodedFile(format, ".safetensors", encode_latents(latents, metadata=metadata))


def encode_mp4(frames: np.ndarray, *, fps: float, crf: int = 18, metadata: Mapping[str, str] | None = None) -> bytes:
    """Return an H.264 MP4 that every browser plays.

    Args:
        frames: (f h w 3) uint8 RGB. Odd sizes are padded by one pixel, as yuv420p needs even ones.
        fps: frames per second.
        crf: x264's quality, 0 (lossless) to 51; 18 is visually lossless.
        metadata: written as JSON into the comment tag.
    """
    _check(frames)
    frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    # A real file: moving the index to the front (faststart) reads the file back.
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        with av.open(file.name, "w", options={"movflags": "+faststart"}) as container:
            if metadata:
                container.metadata["comment"] = _json(metadata)
            # One encoder thread: the bytes depend on the frames alone, not on the machine's cores. x264's macroblock
            # tree reads beside frames smaller than some 100 pixels: with it 40 encodings of one clip gave up to 12.
            options = {"crf": str(crf), "threads": "1", "x264-params": "mbtree=0"}
            stream = container.add_stream(
                "libx264", rate=Fraction(fps).limit_denominator(1001), pix_fmt="yuv420p", options=options
            )
            stream.height, stream.width = frames.shape[1:3]
            # What the conversion to YUV below makes. Players that are not told take BT.709's matrix for tall pictures:
            # in Chromium, 1,080 lines of (220, 40, 120) were (234, 62, 118). It needs all three to believe the matrix.
            stream.codec_context.colorspace = _MATRIX_BT601
            stream.codec_context.color_primaries = _PRIMARIES_BT709
            stream.codec_context.color_trc = _TRANSFER_SRGB
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        return Path(file.name).read_bytes()


def encode_gif(frames: np.ndarray, *, fps: float, metadata: Mapping[str, str] | None = None) -> bytes:
    """Return an endlessly looping GIF.

    Args:
        frames: (f h w 3) uint8 RGB.
        fps: frames per second; browsers slow down above 50.
        metadata: written as JSON into the comment.
    """
    _check(frames)
    palette = _palette(frames)
    images = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    buffer = io.BytesIO()
    # GIF counts in hundredths of a second.
    durations_ms = [max(20, 10 * ticks) for ticks in _durations(len(frames), fps, ticks_per_s=100)]
    comment = {"comment": _ascii_json(metadata)} if metadata else {}
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=durations_ms, loop=0, **comment)
    return buffer.getvalue()


def encode_webp(
    frames: np.ndarray, *, fps: float, quality: int = 80, metadata: Mapping[str, str] | None = None
) -> bytes:
    """Return an endlessly looping WebP with all colours.

    Args:
        frames: (f h w 3) uint8 RGB.
        fps: frames per second.
        quality: 0 to 100.
        metadata: written as JSON into Exif's user comment.
    """
    _check(frames)
    images = [Image.fromarray(frame) for frame in frames]
    exif = Image.Exif()
    if metadata:
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = _EXIF_ASCII + _ascii_json(metadata)
    buffer = io.BytesIO()
    durations_ms = _durations(len(frames), fps, ticks_per_s=1000)
    images[0].save(
        buffer,
        "WEBP",
        save_all=True,
        append_images=images[1:],
        duration=durations_ms,
        loop=0,
        quality=quality,
        exif=exif if metadata else b"",
    )
    return buffer.getvalue()


def encode_png(frame: np.ndarray, *, metadata: Mapping[str, str] | None = None) -> bytes:
    """Return a single picture, (h w 3) uint8 RGB; the metadata are JSON in the text `parameters`."""
    text = PngImagePlugin.PngInfo()
    if metadata:
        text.add_itxt(_KEY, _json(metadata))
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()


def encode_latents(latents: Tensor, *, metadata: Mapping[str, str] | None = None) -> bytes:
    """Return a safetensors file with the tensor `latents`; the metadata are JSON in its own under `parameters`."""
    # One name, since safetensors writes several in an order that changes from call to call.
    texts = {_KEY: _json(metadata)} if metadata else None
    return safetensors.torch.save({"latents": latents.detach().cpu().contiguous()}, texts)


def encode_poster(frames: np.ndarray) -> bytes:
    """Return a small WebP still, its longest side at most `POSTER_PIXELS`.

    It shows the middle, so that posters of one prompt compare over models; where the middle is rather empty, as in a
    clip that fades out, the frame with the most contrast.

    Args:
        frames: (f h w 3) uint8 RGB.
    """
    _check(frames)
    step = max(1, min(frames.shape[1:3]) // 128)
    contrast = frames[:, ::step, ::step].std(axis=(1, 2), dtype=np.float32).mean(axis=-1)
    middle = len(frames) // 2
    best = middle if contrast[middle] >= contrast.max() / 2 else int(contrast.argmax())
    image = Image.fromarray(frames[best])
    image.thumbnail((POSTER_PIXELS, POSTER_PIXELS), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=75)
    return buffer.getvalue()


def read_metadata(uri: str) -> dict[str, str]:
    """Return what was written inside a file of any format, told from its content; empty where there is nothing of ours.

    Raises:
        FileNotFoundError: there is no file.
        UserError: it is none of the formats, or damaged.
    """
    data = storage.read_bytes(uri)
    try:
        values = json.loads(_read_json(data) or "{}")
    except ValueError:  # another program's comment
        return {}
    except (OSError, SyntaxError, av.FFmpegError, safetensors.SafetensorError) as error:
        raise UserError(f"{uri} is no MP4, GIF, WebP, PNG or safetensors file that can be read: {error}") from error
    return values if isinstance(values, dict) and all(isinstance(text, str) for text in values.values()) else {}


def _read_json(data: bytes) -> str | bytes | None:
    if data[4:8] == b"ftyp":
        with av.open(io.BytesIO(data)) as container:
            return container.metadata.get("comment")
    if data.startswith((_PNG_MAGIC, _GIF_MAGIC)) or data[8:12] == b"WEBP":
        with Image.open(io.BytesIO(data)) as image:
            comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment, b"")
            found: str | bytes | None = image.info.get(_KEY) or image.info.get("comment")
            return found or bytes(comment).removeprefix(_EXIF_ASCII)
    length = int.from_bytes(data[:8], "little")
    if not 0 < length <= len(data) - 8 or data[8:9] != b"{":
        raise OSError("its beginning is that of none of them")
    return json.loads(data[8 : 8 + length]).get("__metadata__", {}).get(_KEY)


def _json(metadata: Mapping[str, str]) -> str:
    return json.dumps(dict(metadata), ensure_ascii=False)


def _ascii_json(metadata: Mapping[str, str]) -> bytes:
    """For the places whose standard knows ASCII only; JSON has escapes for everything else."""
    return json.dumps(dict(metadata)).encode("ascii")


def _palette(frames: np.ndarray) -> Image.Image:
    """Return 256 colours for all frames, found on some 65,000 of their pixels.

    Beside a palette for each frame from all its pixels, at 16 frames of 512 x 512: a sixth of the time, smaller files,
    and colours that are nearer and do not change from frame to frame.
    """
    num_frames, height, width, _ = frames.shape
    step = max(1, math.isqrt(num_frames * height * width // 65_536))
    pixels = frames[:, ::step, ::step].reshape(num_frames, -1, 3)
    return Image.fromarray(pixels).quantize(256, method=Image.Quantize.MEDIANCUT, kmeans=1)


def _durations(num_frames: int, fps: float, *, ticks_per_s: int) -> list[int]:
    """Return how long each frame is shown, in whole ticks: rounded so that the sum is the clip's length."""
    edges = [round(index * ticks_per_s / fps) for index in range(num_frames + 1)]
    return [end - start for start, end in itertools.pairwise(edges)]


def _check(frames: np.ndarray) -> None:
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"frames must be (f h w 3) uint8 with f >= 1, not {frames.shape} {frames.dtype}")
