"""Decoders on a GPU, with stand-ins for their libraries: what is asked of these, and what is made of their frames."""

import importlib
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from animatediff.data.decoding import videos
from animatediff.data.decoding.decoders import load_decoders
from animatediff.data.decoding.decoders.pyav import PyAV
from animatediff.data.decoding.frames import FrameSelection, read_frames
from animatediff.data.quarantine import VideoError
from animatediff.errors import UserError
from tests.support import encode, numbered_frames, read_number
from tests.support_videos import encode_frames
from tests.unit.data.decoding.test_decoders import psnr
from tests.unit.data.decoding.test_pyav_direct import SHARP, colourful

MODULES = {"torchcodec_cuda": "torchcodec.decoders", "pynvvideocodec": "PyNvVideoCodec"}


class Library:
    """Stands for both libraries' readers: whole RGB frames by their numbers, by way of PyAV."""

    def __init__(self, source, lost_frames=0, change=lambda frame: frame):
        self._data, self._info = source, videos.probe(source)
        self._lost, self._change = lost_frames, change

    def __len__(self):
        return len(self._info.pts) - self._lost

    def frames(self, indices):
        size = {"height": self._info.height, "width": self._info.width}
        return [self._change(f).copy() for f in PyAV().frames(self._data, self._info, np.array(indices), **size)]


@pytest.fixture
def with_library(monkeypatch):
    """A function that loads a decoder whose library is a stand-in."""

    def load(name, **faults):
        class VideoDecoder(Library):
            def __init__(self, source, *, stream_index, dimension_order, device, seek_mode):
                assert (stream_index, dimension_order, device, seek_mode) == (0, "NHWC", "cpu", "exact")
                super().__init__(source, **faults)

            def get_frames_at(self, indices):
                return SimpleNamespace(data=torch.from_numpy(np.stack(self.frames(indices))))

        class SimpleDecoder(Library):
            def __init__(self, source, *, gpu_id, use_device_memory, output_color_type):
                assert (gpu_id, use_device_memory, output_color_type) == (0, True, "RGB")
                super().__init__(source, **faults)

            def get_batch_frames_by_index(self, indices):
                return self.frames(indices)

        module = ModuleType(MODULES[name])
        module.VideoDecoder, module.SimpleDecoder = VideoDecoder, SimpleDecoder
        module.OutputColorType = SimpleNamespace(RGB="RGB")
        monkeypatch.setitem(sys.modules, "torchcodec", ModuleType("torchcodec"))
        monkeypatch.setitem(sys.modules, MODULES[name], module)
        # What is imported now is forgotten when the test ends.
        monkeypatch.setitem(sys.modules, f"animatediff.data.decoding.decoders.{name}", None)
        del sys.modules[f"animatediff.data.decoding.decoders.{name}"]
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        decoder = importlib.import_module(f"animatediff.data.decoding.decoders.{name}").DECODER
        monkeypatch.setattr(decoder, "_device", "cpu")
        return load_decoders([name])

    return load


def read(data, decoders, indices=(0,), size=(128, 160)):
    return read_frames(data, videos.probe(data), FrameSelection(np.array(indices), *size), decoders)


@pytest.mark.parametrize("name", MODULES)
def test_the_wanted_frames_come_cropped_and_resized(name, with_library):
    picks = [3, 4, 14, 20, 21, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 79]
    data = encode(numbered_frames(80), codec="libx264", gop=12, b_frames=2)
    frames, decoder = read(data, with_library(name), picks, (64, 96))
    assert decoder == name
    assert [read_number(frame) for frame in frames] == picks
    data = encode_frames(colourful()[None], codec="libx264", tags=(1, 1, 1), options=SHARP)
    assert psnr(read(data, with_library(name))[0], read(data, load_decoders(["pyav_direct"]))[0]) > 42


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        ({"lost_frames": 1}, "counts 79 frames, the container 80"),
        ({"change": lambda frame: frame[:, :-2]}, r"gives \(1, 64, 94, 3\) for 1 frames of 96x64"),
        ({"change": lambda frame: frame // 8 * 7 + 16}, "others than PyAV's"),  # limited range taken for full
        ({"change": lambda frame: frame[:, ::-1]}, "others than PyAV's"),
    ],
    ids=["count", "size", "colours", "picture"],
)
def test_what_the_library_gets_wrong_is_refused(name, faults, reason, with_library):
    data = encode(numbered_frames(80), codec="libx264", gop=12)
    with pytest.raises(VideoError, match=f"{name}: .*{reason}"):
        read(data, with_library(name, **faults), [13], (64, 96))


@pytest.mark.parametrize("name", MODULES)
def test_what_needs_more_than_a_device_does_is_left_to_others(name, with_library):
    (decoder,) = with_library(name)
    hdr = encode_frames(colourful()[None], codec="libx265", pix_fmt="yuv420p10le", tags=(9, 9, 16))
    wide = encode(numbered_frames(3), codec="libx264", options={"x264-params": "sar=2/1"})
    assert [decoder.supports(videos.probe(data)) for data in (hdr, wide)] == [False, False]


@pytest.mark.parametrize(("name", "package"), [("torchcodec_cuda", "torchcodec"), ("pynvvideocodec", "pynvvideocodec")])
def test_without_the_library_or_a_gpu_one_line_says_so(name, package, with_library, monkeypatch):
    with pytest.raises(UserError, match=f"names {name}, which is not installed: pip install {package}$"):
        load_decoders([name])
    with_library(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        UserError, match=f"names {name}, which cannot be used: no GPU is visible to the decoding process$"
    ):
        load_decoders([name])
