"""Decoders on a GPU: it crops and resizes too, and a clip's own pixels come to the host."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from animatediff.data.clips.crop_box import CropBox
from animatediff.data.decoding.decoders.pyav_direct import PyAVDirect
from animatediff.data.decoding.open_file import VideoFile
from animatediff.data.decoding.videos import VideoInfo

_BATCH = 16
_MOST_LEVELS = 4.0
"""Of 255, by which the mean of a channel may differ from PyAV's, and three times of it a pixel on average: BT.709 for
BT.601 is 7 in a saturated channel, full range for limited up to 16."""


class DeviceDecoder:
    """What every decoder on a GPU does; a library's own gives `_open` and `_read`.

    It is trusted with a video when its first key frame there is PyAV's: a matrix, a range or a count that the library
    takes otherwise costs the video's frames a second try, never their colours.
    """

    name = ""
    _device = "cuda"

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise RuntimeError("no GPU is visible to the decoding process")
        # Now, as the memory limit of a video leaves no room for CUDA's address space.
        torch.zeros(1, device=self._device)
        self._pyav = PyAVDirect()

    def supports(self, info: VideoInfo) -> bool:
        """Upright sRGB videos with timestamps and square pixels."""
        is_plain = info.stored == (info.width, info.height) and info.rotation == 0
        return is_plain and info.has_true_pts and info.suits_every_decoder

    def crops(self, info: VideoInfo, box: CropBox, *, height: int, width: int) -> bool:
        """See `CroppingDecoder.crops`."""
        return self._pyav.crops(info, box, height=height, width=width)

    def frames(
        self, data: bytes, info: VideoInfo, indices: np.ndarray, *, height: int, width: int
    ) -> Iterable[np.ndarray]:
        """See `Decoder.frames`, and `cropped_frames` for errors."""
        box = CropBox(0, 0, info.width, info.height)
        return self.cropped_frames(VideoFile(data, info), indices, box=box, height=height, width=width)

    def cropped_frames(
        self, video: VideoFile, indices: np.ndarray, *, box: CropBox, height: int, width: int
    ) -> Iterable[np.ndarray]:
        """See `CroppingDecoder.cropped_frames`.

        Raises:
            ValueError: the library counts other frames than the container, or gives others than PyAV.
            Exception: of the library's own, where the file cannot be decoded.
        """
        info, size = video.info, {"height": height, "width": width}
        reader = self._open(video)
        if len(reader) != len(info.pts):
            raise ValueError(f"it counts {len(reader)} frames, the container {len(info.pts)}")
        key = np.array([_key_frame(info, int(indices[0]))])
        (expected,) = self._pyav.cropped_frames(video, key, box=box, **size)
        (found,) = self._cut(reader, info, key, box, **size)
        difference = found.astype(float) - expected
        if np.abs(difference.mean((0, 1))).max() > _MOST_LEVELS or np.abs(difference).mean() > 3 * _MOST_LEVELS:
            raise ValueError("its frames or their colours are others than PyAV's")
        for start in range(0, len(indices), _BATCH):
            yield from self._cut(reader, info, indices[start : start + _BATCH], box, **size)

    def _cut(
        self, reader: Any, info: VideoInfo, indices: np.ndarray, box: CropBox, *, height: int, width: int
    ) -> np.ndarray:
        """Return (k h w 3) uint8, on the host."""
        frames = self._read(reader, indices.tolist())
        if frames.shape != (len(indices), info.height, info.width, 3):
            raise ValueError(f"it gives {tuple(frames.shape)} for {len(indices)} frames of {info.width}x{info.height}")
        part = frames[:, box.y : box.y + box.h, box.x : box.x + box.w].permute(0, 3, 1, 2).float()
        # With antialiasing, PyTorch's bicubic is Pillow's.
        resized = F.interpolate(part, (height, width), mode="bicubic", antialias=True, align_corners=False)
        pixels: np.ndarray = (
            resized.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
        )
        return pixels

    def _open(self, video: VideoFile) -> Any:
        """Return what reads a video, and knows the number of its frames as its length."""
        raise NotImplementedError

    def _read(self, reader: Any, indices: Sequence[int]) -> Tensor:
        """Return the (k h w 3) uint8 RGB frames at ascending indices, on the device."""
        raise NotImplementedError


def _key_frame(info: VideoInfo, index: int) -> int:
    """Return the number of the key frame from which a frame is decoded."""
    keys = info.keyframe_pts[info.keyframe_pts <= info.pts[index]]
    return int(np.searchsorted(info.pts, keys[-1])) if len(keys) and keys[-1] >= info.pts[0] else 0
