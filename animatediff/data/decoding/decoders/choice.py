"""Decoders: frames of a video at chosen indices, by whichever library is named first and gets them right."""

import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np

from animatediff.data.clips.config import fit
from animatediff.data.decoding.videos import VideoInfo, one_line
from animatediff.data.quarantine import Reason, VideoError
from animatediff.errors import UserError

KNOWN = {
    "decord": "animatediff.data.decoding.decoders.decord:Decord",
    "pyav": "animatediff.data.decoding.decoders.pyav:PyAV",
    "torchcodec": "animatediff.data.decoding.decoders.torchcodec:TorchCodec",
}
"""Where each decoder's class is. A module is imported only where its decoder is named."""

# Sources are decoded at no less than this times the wanted size, and `fit` does the rest: at the very size, rounding
# of the aspect ratio moves the picture by a fraction of a pixel (44 dB to a decode at full size, in place of 47 dB).
_OVERSIZE = 2
# decord returns rubbish at some widths under 100 pixels.
_MIN_SIDE = 128
_NO_MEMORY = ("Cannot allocate memory", "bad_alloc", "Memory allocation")


class Decoder(Protocol):
    """One way to get frames. It runs in a child process: it may crash or hang, but must not return wrong frames."""

    name: str
    """Stored with every clip."""

    def supports(self, info: VideoInfo) -> bool:
        """Whether it is known to return the right frames of such a video."""

    def frames(
        self, data: bytes, info: VideoInfo, indices: np.ndarray, *, height: int, width: int
    ) -> Iterable[np.ndarray]:
        """Return the frames at `indices`, upright.

        Args:
            data: the video file.
            info: its `probe`.
            indices: (k,) ascending frame numbers in presentation order.
            height: pixels of the result, upright; never more than `info.height`.
            width: pixels, likewise.

        Returns:
            k arrays of (h w 3) uint8 RGB. An iterator spares the memory of all frames at once.

        Raises:
            Exception: of any kind, where the frames cannot be had. The next decoder is then asked.
        """


OnDecode = Callable[[str, VideoInfo], None]
"""Told a decoder's name and the video's header."""


def ignore(name: str, info: VideoInfo) -> None:
    """Do nothing, as an `OnDecode`."""


def load_decoders(names: Sequence[str]) -> list[Decoder]:
    """Return the decoders of these names, in order.

    Args:
        names: of `KNOWN`, or import paths `package.module:ClassName`.

    Raises:
        UserError: a decoder is unknown, or its library is not installed.
    """
    return [_load(name) for name in names]


def _load(name: str) -> Decoder:
    module, _, class_name = KNOWN.get(name, name).partition(":")
    try:
        return getattr(importlib.import_module(module), class_name)()
    except ModuleNotFoundError as error:
        if name in KNOWN and error.name == name:
            raise UserError(f"decode.decoders names {name}, which is not installed: pip install {name}") from error
        raise UserError(f"decode.decoders names {name}, which cannot be imported: {error}") from error
    except Exception as error:  # libraries that do not load raise what they like
        text = " ".join(str(error).split())[:300]
        raise UserError(f"decode.decoders names {name}, which cannot be used: {text}") from error


def read_frames(
    data: bytes,
    info: VideoInfo,
    indices: np.ndarray,
    decoders: Sequence[Decoder],
    *,
    height: int,
    width: int,
    boxes: np.ndarray | None = None,
    on_decode: OnDecode = ignore,
) -> tuple[np.ndarray, str]:
    """Decode frames, resized and cropped, with the first decoder that gives them all.

    Args:
        data: the video file.
        info: its `probe`.
        indices: (k,) ascending frame numbers in presentation order; those of several crops repeat.
        decoders: in the order to try them.
        height: pixels of the result.
        width: pixels of the result.
        boxes: (k, 4) x, y, w, h in pixels of the source: what each is cropped to. None: to the centre.
        on_decode: called before each decoder is tried.

    Returns:
        (k h w 3) uint8 RGB, and the decoder's name.

    Raises:
        VideoError: no decoder gives the frames, the video is not what its header says, or a decoder gets no memory.
            Another is not asked then, or which one serves a video would depend on how much memory there is.
    """
    failures: list[str] = []
    for decoder in decoders:
        if decoder.supports(info):
            on_decode(decoder.name, info)
            try:
                return _fitted(decoder, data, info, indices, boxes, height, width), decoder.name
            except VideoError:
                raise
            except Exception as error:  # each library raises errors of its own making
                failure = f"{decoder.name}: {one_line(error)}"
                if is_memory_error(error):
                    raise VideoError("decode", Reason.OUT_OF_MEMORY, f"{failure} (decode.memory_mb)") from error
                failures.append(failure)
    raise _undecodable(failures, info)


def _fitted(
    decoder: Decoder,
    data: bytes,
    info: VideoInfo,
    indices: np.ndarray,
    boxes: np.ndarray | None,
    height: int,
    width: int,
) -> np.ndarray:
    numbers, repeats = np.unique(indices, return_counts=True)
    crops = [None] * len(indices) if boxes is None else list(boxes / ([info.width, info.height] * 2))
    smallest = None if boxes is None else boxes[:, 2:].min(axis=0).tolist()
    cover_height, cover_width = covering_size(info, height=height, width=width, crop=smallest)
    frames = decoder.frames(data, info, numbers, height=cover_height, width=cover_width)
    # One at a time, so that the larger ones need not be in memory together.
    given = zip(_exactly(len(numbers), frames), repeats.tolist(), strict=True)
    repeated = (frame for frame, times in given for _ in range(times))
    fitted = [fit(f, height=height, width=width, crop=crop) for f, crop in zip(repeated, crops, strict=True)]
    return np.stack(fitted)


def _exactly(number: int, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the frames, if there are so many of them."""
    given = 0
    for given, frame in enumerate(frames, start=1):
        if given <= number:
            yield frame
    if given != number:
        raise ValueError(f"it gives {given} of {number} frames")


def covering_size(
    info: VideoInfo, *, height: int, width: int, crop: tuple[float, float] | None = None
) -> tuple[int, int]:
    """(height, width) at which to decode: the source's, or less where that is still twice what is wanted.

    Args:
        info: the source.
        height: wanted, in pixels.
        width: wanted, in pixels.
        crop: (width, height) in pixels of the smallest crop that is resized to what is wanted; None is all of it.
    """
    crop_width, crop_height = crop or (info.width, info.height)
    scale = max(_OVERSIZE * height / crop_height, _OVERSIZE * width / crop_width)
    scale = min(1.0, max(scale, _MIN_SIDE / min(info.height, info.width)))
    return round(info.height * scale), round(info.width * scale)


def _undecodable(failures: list[str], info: VideoInfo) -> VideoError:
    if not failures:
        detail = f"no decoder of decode.decoders is for {info.codec} in {info.container}"
        return VideoError("decode", Reason.CODEC_UNSUPPORTED, detail)
    return VideoError("decode", Reason.DECODE_ERROR, "; ".join(failures))


def is_memory_error(error: Exception | str) -> bool:
    """Whether memory was refused: native libraries say so only in the text of their errors, or as they die."""
    return isinstance(error, MemoryError) or any(text in str(error) for text in _NO_MEMORY)
