"""Colours: what a video's pixels mean, and how HDR and wide gamuts become the sRGB that pictures are in.

FFmpeg's own scaler applies the matrix and the range of a file and leaves its transfer curve and primaries alone, so
HDR comes out grey. Its tone mapping needs zimg, which PyAV's wheels lack.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from animatediff.data.quarantine import Reason, VideoError

# Code points of ITU-T H.273, as FFmpeg gives them.
UNSPECIFIED = 2
_PQ, _HLG = 16, 18
_BT709, _BT601, _BT2020, _DISPLAY_P3 = 1, 5, 9, 12
# YCgCo, constant luminance, derived from the primaries, ICtCp, IPT: FFmpeg's scaler takes them all for BT.601.
_UNKNOWN_MATRICES = frozenset({8, 10, 11, 12, 13, 14, 15, 16, 17})
_DOLBY_VISION = ("dvh1", "dvhe", "dav1", "dva1", "dvav")

_CHROMATICITIES = {
    _BT709: ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)),  # ITU-R BT.709-6
    _BT2020: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),  # ITU-R BT.2020-2
    _DISPLAY_P3: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),  # SMPTE EG 432-1
}
_D65 = (0.3127, 0.3290)

_SDR_WHITE_NITS = 203.0
"""Of diffuse white in HDR, which becomes that of SDR: ITU-R BT.2408-7, section 2.2, where it is 75% of HLG's signal."""
_HLG_WHITE_SIGNAL = 0.75
_KNEE = 0.85
"""Of SDR white: what is darker stays as it is, what is brighter, up to any height, shares the rest."""
_LEVELS = 2**16
_ROWS = 64
"""Converted at a time, which bounds the memory."""


class Colours(NamedTuple):
    """A video's code points of ITU-T H.273; 2 is unspecified."""

    matrix: int
    primaries: int
    transfer: int

    @property
    def are_srgb(self) -> bool:
        """Whether FFmpeg's RGB can be taken for sRGB as it is, as all SDR video in BT.709 and BT.601 is."""
        return self.transfer not in (_PQ, _HLG) and self.primaries not in (_BT2020, _DISPLAY_P3)

    @property
    def in_full(self) -> "Colours":
        """What they are taken for here where they are unspecified: for containers that take all three or none."""
        is_hdr = self.transfer in (_PQ, _HLG)
        usual = Colours(_BT601, _BT2020 if is_hdr else _BT709, _BT709)
        return Colours(*(own if own != UNSPECIFIED else other for own, other in zip(self, usual, strict=True)))


def read_colours(frame: Any, stream_tags: Colours, codec_tag: str) -> Colours:
    """Return what a frame is tagged with, and where it is not, its container.

    Args:
        frame: PyAV's, the first of the video; None where none decodes.
        stream_tags: the container's.
        codec_tag: the container's four letters for the codec.

    Raises:
        VideoError: the colours cannot be shown right.
    """
    tags = Colours(frame.colorspace, frame.color_primaries, frame.color_trc) if frame is not None else stream_tags
    known = [int(own if own != UNSPECIFIED else other) for own, other in zip(tags, stream_tags, strict=True)]
    colours = Colours(*known)
    if colours.matrix in _UNKNOWN_MATRICES:
        detail = f"the colour matrix {colours.matrix} of ITU-T H.273 is none that FFmpeg converts"
        raise VideoError("probe", Reason.COLOUR_UNSUPPORTED, detail)
    # Profile 5 alone leaves its curve unspecified. The others have a base that is PQ, HLG or SDR and says so.
    if colours.transfer == UNSPECIFIED and (codec_tag in _DOLBY_VISION or _has_dolby_vision(frame)):
        detail = "Dolby Vision without a base that is HDR10, HLG or SDR (profile 5): its colours need Dolby's metadata"
        raise VideoError("probe", Reason.COLOUR_UNSUPPORTED, detail)
    return colours


def _has_dolby_vision(frame: Any) -> bool:
    return frame is not None and any(side.type.name.startswith("DOVI") for side in frame.side_data)


def to_srgb(pixels: np.ndarray, colours: Colours) -> np.ndarray:
    """Convert RGB of any curve and primaries to sRGB, so that diffuse white is white.

    PQ is display light (SMPTE ST 2084): it is coded by the sRGB curve. HLG is scene light (ITU-R BT.2100-2), as
    BT.709 is, so it is coded by BT.709's curve and looks like SDR of the same camera. Highlights are compressed by a
    common factor of the three channels, which keeps their hue, and colours outside sRGB's gamut are clipped.

    Args:
        pixels: (h w 3) uint16, full range.
        colours: what they mean. HDR without primaries is BT.2020.

    Returns:
        (h w 3) uint8.
    """
    is_hdr = colours.transfer in (_PQ, _HLG)
    primaries = colours.primaries if colours.primaries in _CHROMATICITIES else _BT2020 if is_hdr else _BT709
    to_linear, to_code = _to_linear(colours.transfer), _to_code(colours.transfer)
    matrix = (np.linalg.inv(_to_xyz(_BT709)) @ _to_xyz(primaries)).T.astype(np.float32)
    result = np.empty(pixels.shape, np.uint8)
    for top in range(0, len(pixels), _ROWS):
        light = np.maximum(to_linear[pixels[top : top + _ROWS]] @ matrix, 0)
        if is_hdr:
            light *= _tone(light.max(axis=-1, keepdims=True))
        result[top : top + _ROWS] = to_code[(np.minimum(light, 1) * (_LEVELS - 1) + 0.5).astype(np.uint16)]
    return result


def _tone(brightest: np.ndarray) -> np.ndarray:
    """Return the factor that brings a pixel below white: 1 up to the knee, where the curve bends without a corner."""
    above = np.maximum(brightest - _KNEE, 0) / (1 - _KNEE)
    return np.where(above > 0, (_KNEE + (1 - _KNEE) * above / (1 + above)) / np.maximum(brightest, _KNEE), 1)


@cache
def _to_linear(transfer: int) -> np.ndarray:
    """(65536,) float32: light of each signal, 1 for diffuse white."""
    signal = np.arange(_LEVELS) / (_LEVELS - 1)
    if transfer == _PQ:
        return (_pq_nits(signal) / _SDR_WHITE_NITS).astype(np.float32)
    if transfer == _HLG:
        return (_hlg_light(signal) / _hlg_light(np.array(_HLG_WHITE_SIGNAL))).astype(np.float32)
    return (signal**2.4).astype(np.float32)  # ITU-R BT.1886


@cache
def _to_code(transfer: int) -> np.ndarray:
    """(65536,) uint8: the code of each light in [0, 1]."""
    light = np.arange(_LEVELS) / (_LEVELS - 1)
    if transfer == _PQ:  # IEC 61966-2-1
        code = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    elif transfer == _HLG:  # ITU-R BT.709-6
        code = np.where(light < 0.018, 4.5 * light, 1.099 * light**0.45 - 0.099)
    else:
        code = light ** (1 / 2.4)
    return (code * 255).round().astype(np.uint8)


def _pq_nits(signal: np.ndarray) -> np.ndarray:
    """Display light in cd/m2 of a PQ signal: the EOTF of SMPTE ST 2084."""
    m1, m2 = 2610 / 16384, 2523 / 4096 * 128
    c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    power = signal ** (1 / m2)
    return 10_000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)


def _hlg_light(signal: np.ndarray) -> np.ndarray:
    """Scene light in [0, 1] of an HLG signal: the inverse OETF of ITU-R BT.2100-2, table 5."""
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)


def _to_xyz(primaries: int) -> np.ndarray:
    """(3, 3) from linear RGB to CIE XYZ: SMPTE RP 177."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in _CHROMATICITIES[primaries]]).T
    x, y = _D65
    return columns * np.linalg.solve(columns, [x / y, 1, (1 - x - y) / y])
