"""Decoders on a GPU beside PyAV, where their libraries are: the frames, and the processor seconds that they save."""

import time

import numpy as np
import pytest

PICKS = np.arange(0, 61, 4)
SIDE = 256
LIBRARIES = {"torchcodec_cuda": "torchcodec", "pynvvideocodec": "PyNvVideoCodec"}


@pytest.fixture(scope="module")
def video():
    av = pytest.importorskip("av", exc_type=ImportError)
    if "libx264" not in av.codecs_available:
        pytest.skip("FFmpeg has no H.264 encoder")
    from tests.support_videos import encode_frames

    y, x = np.mgrid[:720, :1280]
    picture = np.stack([x / 5, y / 3, (x + y) / 8], axis=-1) % 256
    frames = np.stack([np.roll(picture.astype(np.uint8), 7 * i, axis=1) for i in range(64)])
    return encode_frames(frames, codec="libx264", tags=(1, 1, 1), options={"crf": "18"})


@pytest.mark.parametrize("name", LIBRARIES)
def test_frames_are_pyav_s(gpu, table, video, name):
    pytest.importorskip(LIBRARIES[name], exc_type=ImportError)
    from animatediff.data.decoding.decoders import load_decoders
    from animatediff.data.decoding.frames import FrameSelection, read_frames
    from animatediff.data.decoding.videos import probe

    info, found = probe(video), {}
    for decoder_name in ("pyav_direct", name):
        decoders = load_decoders([decoder_name])
        for _ in range(2):  # the first starts the library
            start = time.process_time()
            found[decoder_name], _ = read_frames(video, info, FrameSelection(PICKS, SIDE, SIDE), decoders)
            taken = time.process_time() - start
        table.note(f"decoding a clip of 720p H.264 by {decoder_name}, processor seconds", taken)
    difference = found[name].astype(float) - found["pyav_direct"]
    psnr = 10 * np.log10(255**2 / max(1e-9, float((difference**2).mean())))
    table.note(f"frames of {name} to pyav_direct's, dB", psnr, bound=">= 35")
    assert psnr >= 35
