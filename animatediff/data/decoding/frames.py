"""Frames of a video at chosen indices, by whichever decoder is named first and gets them right."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from animatediff.data.clips.crop_box import CropBox
from animatediff.data.clips.resize import crop_and_resize, largest_box
from animatediff.data.decoding.decoders import CroppingDecoder, Decoder
from animatediff.data.decoding.open_file import VideoFile
from animatediff.data.decoding.videos import VideoInfo
from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.supervision.failures import is_memory_error, reproducible_reason

# Sources are decoded at no less than this times the wanted size, and `crop_and_resize` does the rest: at the very size,
# rounding of the aspect ratio moves the picture by a fraction of a pixel (44 dB to a decode at full size, in place of
# 47 dB).
_OVERSIZE = 2
# decord returns rubbish at some widths under 100 pixels.
_MIN_SIDE = 128


OnDecode = Callable[[str, VideoInfo], None]
"""Told a decoder's name and the video's header."""


def do_nothing(name: str, info: VideoInfo) -> None:
    """Do nothing, as an `OnDecode`."""


@dataclass(frozen=True)
class FrameSelection:
    """The frames that are wanted of a video, and their size."""

    indices: np.ndarray
    """(k,) ascending indices of source frames in presentation order; those of several crops repeat."""
    height: int
    """Pixels of the result."""
    width: int
    crop_boxes: np.ndarray | None = None
    """(k, 4) x, y, w, h in pixels of the source: what each is cropped to. None: to the centre."""
    region: CropBox | None = None
    """What is cut out of each picture first, to the pixel: it is the source, then."""


def read_frames(
    data: bytes,
    info: VideoInfo,
    selection: FrameSelection,
    decoders: Sequence[Decoder],
) -> tuple[np.ndarray, str]:
    """Do as `read_frames_of` for a file that is not open."""
    return read_frames_of(VideoFile(data, info), selection, decoders)


def read_frames_of(
    video: VideoFile,
    selection: FrameSelection,
    decoders: Sequence[Decoder],
    *,
    on_decode: OnDecode = do_nothing,
) -> tuple[np.ndarray, str]:
    """Decode frames, resized and cropped, with the first decoder that gives them all.

    Args:
        video: the file, and what `probe` says of it.
        selection: which frames.
        decoders: in the order to try them.
        on_decode: called before each decoder is tried.

    Returns:
        (k h w 3) uint8 RGB, and the decoder's name.

    Raises:
        VideoError: no decoder gives the frames, the video is not what its header says, or a decoder gets no memory.
            Another is not asked then, or which one serves a video would depend on how much memory there is.
    """
    failures: list[str] = []
    info = video.info
    for decoder in decoders:
        if decoder.supports(info):
            on_decode(decoder.name, info)
            try:
                return _decode_and_resize(decoder, video, selection), decoder.name
            except VideoError:
                raise
            except Exception as error:  # each library raises errors of its own making
                failure = f"{decoder.name}: {reproducible_reason(error)}"
                if is_memory_error(error):
                    raise VideoError("decode", Reason.OUT_OF_MEMORY, f"{failure} (decode.memory_mb)") from error
                failures.append(failure)
    raise _undecodable(failures, info)


def frames_at(frames: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return `frames[places]`, without a copy where that is all of them as they are.

    Args:
        frames: (f h w 3).
        places: (k,) indices.
    """
    return frames if np.array_equal(places, np.arange(len(frames))) else frames[places]


def _decode_and_resize(decoder: Decoder, video: VideoFile, selection: FrameSelection) -> np.ndarray:
    info = video.info
    box, size = _whole_box(info, selection), {"height": selection.height, "width": selection.width}
    if box is None or not isinstance(decoder, CroppingDecoder) or not decoder.crops(info, box, **size):
        return _resize_whole_frames(decoder, video.data, info, selection)
    distinct, places = np.unique(selection.indices, return_inverse=True)
    cropped = decoder.cropped_frames(video, distinct, box=box, **size)
    return frames_at(np.stack(list(_exactly(len(distinct), cropped))), places)


def _resize_whole_frames(decoder: Decoder, data: bytes, info: VideoInfo, selection: FrameSelection) -> np.ndarray:
    height, width, boxes, region = selection.height, selection.width, selection.crop_boxes, selection.region
    distinct, repeats = np.unique(selection.indices, return_counts=True)
    crops = (
        [None] * len(selection.indices)
        if boxes is None
        else list(boxes / ([*(region[2:] if region else (info.width, info.height))] * 2))
    )
    smallest = None if boxes is None else boxes[:, 2:].min(axis=0).tolist()
    decode_height, decode_width = decode_size(info, height=height, width=width, crop=smallest)
    if region:  # a smaller picture's pixels would mix what is within it and without
        decode_height, decode_width = info.height, info.width
    frames = decoder.frames(data, info, distinct, height=decode_height, width=decode_width)
    # One at a time, so that the larger ones need not be in memory together.
    given = zip(_exactly(len(distinct), frames), repeats.tolist(), strict=True)
    repeated = (frame for frame, times in given for _ in range(times))
    sources = (_cut_out(frame, region) if region else frame for frame in repeated)
    fitted = [crop_and_resize(f, height=height, width=width, crop=crop) for f, crop in zip(sources, crops, strict=True)]
    return np.stack(fitted)


def _whole_box(info: VideoInfo, selection: FrameSelection) -> CropBox | None:
    """Return what every frame is cropped to; None where not all to the same, or not on whole pixels."""
    if selection.crop_boxes is not None:
        return None
    x, y, width, height = selection.region or CropBox(0, 0, info.width, info.height)
    left, top, w, h = largest_box(height, width, (selection.height, selection.width))
    exact = (x + left, y + top, w, h)
    whole = CropBox(*(round(side) for side in exact))
    return whole if np.allclose(whole, exact, rtol=0, atol=1e-6) else None


def _cut_out(frame: np.ndarray, region: CropBox) -> np.ndarray:
    return np.ascontiguousarray(frame[region.y : region.y + region.h, region.x : region.x + region.w])


def _exactly(number: int, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the frames, if there are so many of them."""
    given = 0
    for given, frame in enumerate(frames, start=1):
        if given <= number:
            yield frame
    if given != number:
        raise ValueError(f"it gives {given} of {number} frames")


def decode_size(
    info: VideoInfo, *, height: int, width: int, crop: tuple[float, float] | None = None
) -> tuple[int, int]:
    """Return the (height, width) to decode at: the source's, or less where that is still twice what is wanted.

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
