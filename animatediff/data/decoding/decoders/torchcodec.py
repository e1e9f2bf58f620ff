"""torchcodec: imported only where a config names it, since it brings PyTorch into the decoding process."""

from collections.abc import Iterable

import numpy as np
from PIL import Image
from torchcodec.decoders import VideoDecoder  # type: ignore[import-not-found,unused-ignore]  # an optional package

from animatediff.data.decoding.decoders import Decoder
from animatediff.data.decoding.videos import VideoInfo

_BATCH = 16


class TorchCodec:
    """FFmpeg of the machine, which may know codecs that the wheels of others leave out."""

    name = "torchcodec"

    def supports(self, info: VideoInfo) -> bool:
        """Upright videos with timestamps: whether it turns others depends on its version."""
        return info.has_true_pts and info.rotation == 0 and info.suits_every_decoder

    def frames(
        self, data: bytes, info: VideoInfo, indices: np.ndarray, *, height: int, width: int
    ) -> Iterable[np.ndarray]:
        """See `Decoder.frames`.

        Raises:
            ValueError: torchcodec counts other frames than the container.
            RuntimeError: the file cannot be decoded.
        """
        reader = VideoDecoder(
            data, stream_index=info.stream, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact"
        )
        if len(reader) != len(info.pts):
            raise ValueError(f"it counts {len(reader)} frames, the container {len(info.pts)}")
        for start in range(0, len(indices), _BATCH):
            batch = reader.get_frames_at(indices[start : start + _BATCH].tolist()).data
            for frame in batch.numpy():
                yield np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))


DECODER: type[Decoder] = TorchCodec
