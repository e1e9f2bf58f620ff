"""PyAV, with FFmpeg's scaler at the clip's own size: the wanted part of the wanted frames becomes RGB in one step.

Beside `pyav`, which gives whole frames at twice the clip's size, it takes a quarter to a half of the time after
decoding, and its frames are closer to the file's: 58 dB in place of 43 to 46 dB to a resize in floating point
(`tests/benchmarks/bench_decoding.py`). What it cannot cut exactly it gives as `pyav` does.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import av
import numpy as np

from animatediff.data.clips.crop_box import CropBox
from animatediff.data.decoding.colours import UNSPECIFIED
from animatediff.data.decoding.decoders.pyav import PyAV, decoded
from animatediff.data.decoding.open_file import VideoFile
from animatediff.data.decoding.videos import VideoInfo

# Of the pixels that are cropped as they are stored, the bits by which the chroma planes' sides are shifted. All others
# become RGB first, as `pyav` has it.
_CHROMA_SHIFTS = {
    "yuv420p": (1, 1),
    "yuv422p": (1, 0),
    "yuv444p": (0, 0),
    "yuvj420p": (1, 1),
    "yuvj422p": (1, 0),
    "yuvj444p": (0, 0),
    "yuv420p10le": (1, 1),
    "yuv422p10le": (1, 0),
    "yuv444p10le": (0, 0),
}
# Their chroma lies between the pixels; that of every other codec by default on those of even columns.
_CENTRED = ("mjpeg", "mpeg1video")
# As FFmpeg's scaler takes them: BT.601 where a file says none.
_MATRICES = defaultdict(lambda: "bt470", {1: "bt709", 4: "fcc", 7: "smpte240m", 9: "bt2020"})
_FULL = 2  # of FFmpeg's AVColorRange
_MOST_SHRINKING = 32
"""Times: the scaler's filters end at 256 taps, and a bicubic one has 4 of them a pixel of the result."""
# Bicubic as Pillow has it (B = 0, C = 0.5), so that both ways to a clip's size give the same picture.
_FLAGS = "flags=bicubic+accurate_rnd+full_chroma_int:param0=0:param1=0.5"


class PyAVDirect(PyAV):
    """The fastest for clips much smaller than their source, and exact to the rounding."""

    name = "pyav_direct"

    def crops(self, info: VideoInfo, box: CropBox, *, height: int, width: int) -> bool:
        """See `CroppingDecoder.crops`."""
        if max(box.h / height, box.w / width) > _MOST_SHRINKING:
            return False
        # The light of HDR and wide gamuts is taken to sRGB before pixels are mixed further: else 29 dB in place of 39.
        return info.colours.are_srgb and _stored_box(info, box) is not None

    def cropped_frames(
        self, video: VideoFile, indices: np.ndarray, *, box: CropBox, height: int, width: int
    ) -> Iterable[np.ndarray]:
        """See `CroppingDecoder.cropped_frames`.

        Raises:
            ValueError: some of the frames did not decode.
            VideoError: a frame has another size than the header says.
            av.error.FFmpegError: FFmpeg gave up on the file.
        """
        scaler = _Scaler(video.info, box, height=height, width=width)
        for frame in decoded(video, indices):
            yield scaler.scale(frame)


DECODER: type[PyAVDirect] = PyAVDirect


def _stored_box(info: VideoInfo, box: CropBox) -> CropBox | None:
    """Return where a box of the displayed picture lies in the stored one; None where not on whole pixels."""
    x, y, w, h = box
    turned = (info.height, info.width) if info.rotation % 2 else (info.width, info.height)
    # `rot90` turns counterclockwise: a first turn takes the stored right border to the top.
    if info.rotation == 1:
        x, y, w, h = turned[0] - y - h, x, h, w
    elif info.rotation == 2:
        x, y = turned[0] - x - w, turned[1] - y - h
    elif info.rotation == 3:
        x, y, w, h = y, turned[1] - x - w, h, w
    if info.is_mirrored:
        y = turned[1] - y - h
    across, down = info.stored[0] / turned[0], info.stored[1] / turned[1]
    exact = (x * across, y * down, w * across, h * down)
    whole = CropBox(*(round(side) for side in exact))
    return whole if np.allclose(whole, exact, rtol=0, atol=1e-6) else None


class _Scaler:
    """Crops and resizes frames, by one filter graph as long as they are alike."""

    def __init__(self, info: VideoInfo, box: CropBox, *, height: int, width: int) -> None:
        stored = _stored_box(info, box)
        assert stored is not None  # `crops` has said so
        self._info, self._box = info, stored
        self._size = (height, width) if info.rotation % 2 else (width, height)
        self._graph: Any = None
        self._made_for: tuple[str, list[tuple[str, str]]] | None = None

    def scale(self, frame: Any) -> np.ndarray:
        """Return (h w 3) uint8 sRGB, upright."""
        if frame.colorspace == UNSPECIFIED != self._info.colours.matrix:  # only the container says it
            frame.colorspace = self._info.colours.matrix
        picture = frame if self._can_be_cropped(frame.format.name) else frame.reformat(format="gbrp")
        steps = self._steps_for(picture)
        if (picture.format.name, steps) != self._made_for:
            self._graph, self._made_for = _graph(picture, steps), (picture.format.name, steps)
        self._graph.push(picture)
        scaled = self._graph.pull()
        pixels = np.stack([_plane(scaled.planes[i]) for i in (2, 0, 1)], axis=-1)  # they are G, B, R
        return np.rot90(pixels[::-1] if self._info.is_mirrored else pixels, k=round(frame.rotation / 90) % 4)

    def _can_be_cropped(self, pixels: str) -> bool:
        # Of two bytes a sample and an odd column, FFmpeg's crop takes the chroma from the middle of a sample.
        return pixels in _CHROMA_SHIFTS and not (pixels.endswith("10le") and self._box.x % 2)

    def _steps_for(self, picture: Any) -> list[tuple[str, str]]:
        """Return the filters for pictures of such pixels, with their options."""
        (x, y, w, h), (width, height) = self._box, self._size
        scale = f"{width}:{height}:{_FLAGS}"
        if shifts := _CHROMA_SHIFTS.get(picture.format.name):
            is_full = int(picture.color_range) == _FULL or picture.format.name.startswith("yuvj")
            scale += f":in_color_matrix={_MATRICES[int(picture.colorspace)]}"
            scale += f":in_range={'full' if is_full else 'limited'}:out_range=full"
            scale += self._chroma_place(*shifts)
        return [("crop", f"{w}:{h}:{x}:{y}:exact=1"), ("scale", scale)]

    def _chroma_place(self, across: int, down: int) -> str:
        """Where the first chroma sample lies, in 256ths of a pixel from the first pixel, as options of the scaler.

        A box that begins in an odd column begins with the chroma sample of the column before.
        """
        first = 128 if self._info.codec in _CENTRED else 0
        place = f":in_h_chr_pos={first - 256 * (self._box.x % 2)}" if across else ""
        return place + (f":in_v_chr_pos={128 - 256 * (self._box.y % 2)}" if down else "")


def _graph(picture: Any, steps: list[tuple[str, str]]) -> Any:
    graph = av.filter.Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=picture.width, height=picture.height, format=picture.format, time_base=picture.time_base, name="in"
    )
    nodes = [graph.add(*step) for step in [*steps, ("format", "pix_fmts=gbrp"), ("buffersink", None)]]
    graph.link_nodes(source, *nodes).configure()
    return graph


def _plane(plane: Any) -> np.ndarray:
    return np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
