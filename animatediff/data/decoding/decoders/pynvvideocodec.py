"""PyNvVideoCodec, NVIDIA's own, by the documentation and sources of its 2.2: tested with a stand-in, never on a GPU."""

from collections.abc import Sequence
from typing import Any

import PyNvVideoCodec  # type: ignore[import-not-found,unused-ignore]  # an optional package
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from animatediff.data.decoding.decoders.devices.decoder import DeviceDecoder
from animatediff.data.decoding.open_file import VideoFile
from animatediff.data.decoding.videos import VideoInfo

_CONTAINERS = ("mov,mp4", "matroska,webm")
_CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4")


class NvVideoCodec(DeviceDecoder):
    """NVDEC, by a wheel that needs nothing but the driver."""

    name = "pynvvideocodec"

    def supports(self, info: VideoInfo) -> bool:
        """Of `DeviceDecoder`'s those with one video stream in MP4 and Matroska, of codecs that NVDEC has."""
        is_known = info.codec in _CODECS and info.container.startswith(_CONTAINERS) and info.num_video_streams == 1
        return is_known and super().supports(info)

    def _open(self, video: VideoFile) -> Any:
        return PyNvVideoCodec.SimpleDecoder(
            video.data, gpu_id=0, use_device_memory=True, output_color_type=PyNvVideoCodec.OutputColorType.RGB
        )

    def _read(self, reader: Any, indices: Sequence[int]) -> Tensor:
        # Copies, as the decoder's surfaces are used again.
        return torch.stack([from_dlpack(frame).clone() for frame in reader.get_batch_frames_by_index(list(indices))])


DECODER: type[NvVideoCodec] = NvVideoCodec
