"""Motion module files at the published sizes, on random weights: every bit survives, and memory stays small.

Four files of up to 0.9 GB: 2 minutes, 4 GiB of memory (2 of them mapped files), 4 GiB of disk, so marked slow.
"""

import ctypes
import gc
import json
import threading
from pathlib import Path

import pytest
import torch
from diffusers import MotionAdapter
from diffusers.loaders.single_file_utils import convert_animatediff_checkpoint_to_diffusers
from safetensors import safe_open
from safetensors.torch import save_file

from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.weights import motion_modules

pytestmark = pytest.mark.slow

# Parameters and keys of mm_sd_v15, mm_sd_v15_v2, v3_sd15_mm and mm_sdxl_v10_beta.
PUBLISHED = {
    "v1": (417_137_600, 560),
    "v2": (453_209_280, 588),
    "v3": (417_137_600, 560),
    "sdxl": (236_779_200, 420),
}


def shapes(version):
    widths = (320, 640, 1280) if version == "sdxl" else (320, 640, 1280, 1280)
    with torch.device("meta"):
        motion = MotionModules(
            MotionConfig.for_version(version),
            down=[[c] * 2 for c in widths],
            mid=1280,
            up=[[c] * 3 for c in reversed(widths)],
        )
    return {name: tensor.shape for name, tensor in motion.state_dict().items()}


def write_random(path, version):
    """A float16 file in the official layout, with position tables and without metadata."""
    frames = MotionConfig.for_version(version).max_frames
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.rand(shape, generator=generator).half() for name, shape in shapes(version).items()}
    for name in [name for name in state if name.endswith("to_q.weight")]:
        angles = torch.arange(frames)[:, None] / 10_000 ** (torch.arange(0, len(state[name]), 2) / len(state[name]))
        table = torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[None]
        state[name.replace("to_q.weight", "pos_encoder.pe")] = table.half()
    save_file(state, path)


def tensors(path):
    """Name by name, so that one tensor is in memory at a time."""
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118
            yield name, file.get_tensor(name)


def assert_same(path, wanted, rename=lambda name: name):
    with safe_open(wanted, "pt") as file:
        names = {rename(name): name for name in file.keys() if "pos_en" not in name}  # noqa: SIM118
        for name, tensor in tensors(path):
            if "pos_e" not in name:
                assert torch.equal(tensor, file.get_tensor(names.pop(name)).to(tensor.dtype)), name
    assert not names


def diffusers_name(name):
    return next(iter(convert_animatediff_checkpoint_to_diffusers({name: None})))


class AnonymousMemory:
    """How much memory a block takes beyond what it began with; mapped files are not counted, they can be dropped."""

    def __enter__(self):
        # Free memory that the process still holds would hide what the block takes.
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        self._start, self.peak, self._done = self._now(), 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()

    def _watch(self):
        while not self._done.wait(0.01):
            self.peak = max(self.peak, self._now() - self._start)

    @staticmethod
    def _now():
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("RssAnon:")[2].split()[0])


@pytest.mark.parametrize("version", PUBLISHED)
def test_published_sizes(version, tmp_path):
    parameters, keys = PUBLISHED[version]
    official, folder, back, ours = (
        tmp_path / name for name in ("a.safetensors", "b", "c.safetensors", "d.safetensors")
    )
    write_random(official, version)

    with AnonymousMemory() as memory:
        motion_modules.convert(str(official), str(folder), to="diffusers")
        motion_modules.convert(str(folder), str(back), to="official")
    assert memory.peak < 100 << 20
    assert_same(back, official)
    with safe_open(back, "pt") as file:
        assert len(file.keys()) == keys
    weights = folder / "diffusion_pytorch_model.safetensors"
    assert_same(weights, official, diffusers_name)
    back.unlink()

    adapter = MotionAdapter.from_pretrained(folder, torch_dtype=torch.float16, local_files_only=True)
    opened = adapter.state_dict()
    assert all(torch.equal(opened.pop(name), tensor) for name, tensor in tensors(weights))
    assert not opened
    del adapter
    settings = json.loads((folder / "config.json").read_text())
    assert settings["use_motion_mid_block"] == (version == "v2")
    weights.unlink()

    with AnonymousMemory() as memory:
        motion = motion_modules.read(str(official))
    assert motion.config == MotionConfig.for_version(version)
    assert sum(parameter.numel() for parameter in motion.parameters()) == parameters
    assert 4 * parameters - (50 << 20) < memory.peak < 4 * parameters + (200 << 20)
    with AnonymousMemory() as memory:
        motion_modules.write(str(ours), motion)
    assert memory.peak < 100 << 20
    del motion
    assert_same(ours, official)
