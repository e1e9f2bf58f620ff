import io

import av
import numpy as np
import pytest
from PIL import Image

from animatediff.rendering.outputs import encode_gif, encode_mp4
from tests.support import bar_position, gradient_frames


def test_mp4_is_h264_with_its_index_in_front():
    frames = gradient_frames(6, height=33, width=49)
    data = encode_mp4(frames, fps=8)
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.height, stream.width, float(stream.average_rate)) == (34, 50, 8.0)
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [bar_position(f) for f in decoded] == pytest.approx([bar_position(f) for f in frames], abs=0.03)
    assert encode_mp4(frames, fps=8) == data


def test_gif_loops_at_its_rate():
    image = Image.open(io.BytesIO(encode_gif(gradient_frames(5), fps=8)))
    assert (image.n_frames, image.info["loop"], image.info["duration"]) == (5, 0, 120)


@pytest.mark.parametrize("frames", [np.zeros((0, 8, 8, 3), np.uint8), np.zeros((2, 8, 8, 3)), np.zeros((8, 8, 3))])
def test_other_shapes_are_refused(frames):
    with pytest.raises(ValueError, match=r"\(f h w 3\) uint8"):
        encode_mp4(frames, fps=8)


@pytest.mark.parametrize("size", [32, 64])
def test_equal_frames_are_equal_bytes(size):
    """40 times, with the heap in another state each time: x264 once read beside small frames."""
    generator = np.random.default_rng(0)
    picture = generator.integers(0, 255, (1, size, size, 3))
    frames = np.clip(picture + generator.integers(-40, 40, (8, size, size, 3)), 0, 255).astype(np.uint8)
    kept, found = [], set()
    for _ in range(40):
        kept = [*kept[-2:], generator.random(generator.integers(1, 40_000))]
        found.add(encode_mp4(frames, fps=8))
    assert len(found) == 1
