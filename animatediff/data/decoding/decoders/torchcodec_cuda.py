"""torchcodec on a GPU, by its documentation: run on a CPU alone, never on a GPU yet."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torchcodec.decoders import VideoDecoder  # type: ignore[import-not-found,unused-ignore]  # an optional package

from animatediff.data.decoding.decoders.devices.decoder import DeviceDecoder
from animatediff.data.decoding.open_file import VideoFile


class TorchCodecCuda(DeviceDecoder):
    """NVDEC by torchcodec's wheel for the CUDA of PyTorch, and the FFmpeg of the machine."""

    name = "torchcodec_cuda"

    def _open(self, video: VideoFile) -> Any:
        stream, device = video.info.stream, self._device
        return VideoDecoder(video.data, stream_index=stream, dimension_order="NHWC", device=device, seek_mode="exact")

    def _read(self, reader: Any, indices: Sequence[int]) -> Tensor:
        frames: Tensor = reader.get_frames_at(list(indices)).data
        return frames


DECODER: type[TorchCodecCuda] = TorchCodecCuda
