"""One video's bytes to clips. It runs in the decoding process, and is a function of its arguments alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from animatediff.data.clips.config import ClipConfig, bucket_name
from animatediff.data.clips.crop_box import CropBox
from animatediff.data.clips.plan import ClipPlan, ResolutionSpan, frame_indices_at, plan_clips
from animatediff.data.clips.rates import check_times
from animatediff.data.clips.source_crop import SourceCrop
from animatediff.data.decoding.decoders import Decoder
from animatediff.data.decoding.frames import FrameSelection, OnDecode, do_nothing, frames_at, read_frames_of
from animatediff.data.decoding.open_file import VideoFile, open_file
from animatediff.data.decoding.videos import VideoInfo
from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.scoring.scores import score
from animatediff.data.sources.limits import MAX_PIXELS


@dataclass
class DecodedClip:
    """A clip cut from a video: its frames, and what the video and the frames alone tell of it."""

    index: int
    """Of the clip within its video, from 0."""
    frames: np.ndarray
    """(f h w 3) uint8 RGB."""
    flip: bool
    """Whether the frames are mirrored."""
    t_start: float
    """Seconds from the first frame that the video's container lists to the clip's."""
    t_end: float
    """Seconds from the first frame that the video's container lists to the clip's last."""
    fps_src: float
    """The source's frames per second."""
    source_crop: SourceCrop
    scores: dict[str, float | bool | int]
    """What `scores.score` gives for the frames."""
    decoder: str
    """Name of the decoder that gave the frames."""

    @property
    def bucket(self) -> str:
        """Name of the clip's shape."""
        f, h, w, _ = self.frames.shape
        return bucket_name(f, h, w)


def cut_clips(
    video_id: str,
    data: bytes,
    clips: ClipConfig,
    decoders: Sequence[Decoder],
    *,
    crop: CropBox | None = None,
    max_pixels: int = MAX_PIXELS,
    on_decode: OnDecode = do_nothing,
) -> list[DecodedClip]:
    """Cut a video into clips.

    Args:
        video_id: random start times are drawn from it.
        data: the video file.
        clips: how to cut.
        decoders: tried in order until one gives all frames.
        crop: what is cut out of each picture: the clips are those of a video that has only this.
        max_pixels: of a source frame.
        on_decode: called before each decoder is tried.

    Returns:
        At least one clip.

    Raises:
        VideoError: the video cannot be used.
        MemoryError: there is no memory for the clips.
    """
    with open_file(data, max_pixels=max_pixels) as video:
        return _cut(video, video_id, clips, decoders, crop, on_decode)


def _cut(
    video: VideoFile,
    video_id: str,
    clips: ClipConfig,
    decoders: Sequence[Decoder],
    crop: CropBox | None,
    on_decode: OnDecode,
) -> list[DecodedClip]:
    info = video.info
    check_times(info.timestamps, info.fps)
    plans = plan_clips(info.timestamps, _spans(info, crop), video_id=video_id, config=clips)
    if not plans:
        raise VideoError("probe", Reason.TOO_SHORT, _too_short(info, clips))
    found: list[DecodedClip] = []
    for index in sorted({plan.span_index for plan in plans}):
        of_span = [plan for plan in plans if plan.span_index == index]
        cutting = _Cutting(replace(video, info=info.with_size_of_span(index)), crop, decoders, on_decode)
        found += cutting.clips(of_span)
    return sorted(found, key=lambda clip: clip.index)


def _spans(info: VideoInfo, crop: CropBox | None) -> Sequence[ResolutionSpan]:
    """Return the stretches of frames of one size, with the size of what is cut out.

    Raises:
        VideoError: the crop does not lie in a picture.
    """
    if crop is None:
        return info.resolution_spans
    for span in info.resolution_spans:
        if crop.x + crop.w > span.width or crop.y + crop.h > span.height:
            detail = f"it is to be cropped to {tuple(crop)} (x, y, width, height) and has {span.width}x{span.height}"
            raise VideoError("probe", Reason.SIZE_CHANGES, detail)
    return [ResolutionSpan(span.first_frame, crop.w, crop.h) for span in info.resolution_spans]


@dataclass(frozen=True)
class _Cutting:
    """How the frames of one size of a video become clips."""

    video: VideoFile
    crop: CropBox | None
    decoders: Sequence[Decoder]
    on_decode: OnDecode

    def clips(self, plans: Sequence[ClipPlan]) -> list[DecodedClip]:
        """Return the planned clips."""
        wanted = np.concatenate([_cropped_frames(plan, self.video.info) for plan in plans])
        # Overlapping clips share frames, mirrored ones their crops as well: each is made once.
        distinct, places = np.unique(wanted, axis=0, return_inverse=True)
        crop_boxes = None if plans[0].crop_boxes is None else distinct[:, 1:]
        selection = FrameSelection(
            distinct[:, 0].astype(int), plans[0].height, plans[0].width, crop_boxes, region=self.crop
        )
        frames, decoder = read_frames_of(self.video, selection, self.decoders, on_decode=self.on_decode)
        places_of_clips = places.reshape(len(plans), -1)  # (clips f): where in `frames` a clip's frames are
        return [
            self._clip(plan, frames_at(frames, places_of_clip), decoder)
            for plan, places_of_clip in zip(plans, places_of_clips, strict=True)
        ]

    def _clip(self, plan: ClipPlan, frames: np.ndarray, decoder: str) -> DecodedClip:
        if plan.flip:
            frames = np.ascontiguousarray(frames[:, :, ::-1])
        info, crop = self.video.info, self.crop
        start, end = float(plan.times[0]), float(plan.times[-1])
        source_crop = SourceCrop.of(plan, source=(crop.h, crop.w) if crop else (info.height, info.width))
        return DecodedClip(plan.index, frames, plan.flip, start, end, info.fps, source_crop, score(frames), decoder)


def _cropped_frames(plan: ClipPlan, info: VideoInfo) -> np.ndarray:
    """Return which source frame each frame of a clip is, and the box that it is cropped to where the plan has boxes.

    (f 1) the frame's index in the source, or (f 5) the index and the box's x, y, w, h.
    """
    indices = frame_indices_at(info.timestamps, plan.times, frame_s=info.rate.frame_s)
    return indices[:, None] if plan.crop_boxes is None else np.column_stack([indices, plan.crop_boxes])


def _too_short(info: VideoInfo, clips: ClipConfig) -> str:
    steps = min(clips.all_lengths) - 1
    takes = f"{steps / clips.fps:.2f} s" if clips.fps else f"{steps * clips.stride + 1} frames"
    length_s = info.timestamps[-1] - info.timestamps[0]
    return f"{len(info.pts)} frames in {length_s:.2f} s, one clip takes {takes}"
