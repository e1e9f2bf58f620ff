"""The device, the sizes that suit it, and the table of figures that a run ends with."""

import os
import statistics
from pathlib import Path
from typing import NamedTuple

# Before CUDA starts: without it, cuBLAS has no deterministic products.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import pytest
import torch

from tests.gpu.full_size import build_full_size
from tests.support_base import build_base

_HEAD = ("what", "device", "dtype", "figure", "bound")
_ROWS = pytest.StashKey[list]()


class Size(NamedTuple):
    """What is rendered and trained: Stable Diffusion 1.5's own on a GPU, the smallest on a CPU."""

    widths: tuple[int, ...]
    """Of the UNet's levels."""
    num_frames: int
    pixels: int
    """Height and width."""
    is_full: bool


FULL = Size((320, 640, 1280, 1280), 16, 512, True)
SMALL = Size((32, 32, 64, 64), 4, 64, False)


class Table:
    """Rows of figures; what a test finds is noted before it is asserted, and so is in the table either way."""

    def __init__(self, rows, device, path):
        self._rows, self._device, self._path = rows, device, path

    def note(self, what, figure, *, dtype="", bound="reported"):
        """Add a row; a figure and its bound are words or numbers."""
        self._rows.append((what, self._device, str(dtype).removeprefix("torch."), _shown(figure), _shown(bound)))
        if self._path:  # now, as a run may be stopped at its time's end
            Path(self._path).write_text(_markdown(self._rows))

    def check(self, what, figure, *, dtype="", bound):
        """Add a row, and assert that the figure is within the bound."""
        self.note(what, figure, dtype=dtype, bound=f"<= {_shown(bound)}")
        assert figure <= bound, f"{what}: {figure} is above {bound}"

    def spread(self, what, values, *, dtype="", unit=""):
        """Add a row of the median and the spread."""
        shown = f"median {statistics.median(values):.3g}{unit}, {min(values):.3g} to {max(values):.3g}"
        self.note(what, shown, dtype=dtype)


def _shown(value):
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def pytest_addoption(parser):
    parser.addoption("--gpu-table", metavar="PATH", help="also write the table of figures to this file")


def pytest_configure(config):
    config.stash[_ROWS] = []


def pytest_terminal_summary(terminalreporter, config):
    if rows := config.stash[_ROWS]:
        terminalreporter.write_line("\n" + _markdown(rows))


def _markdown(rows):
    return "".join(f"| {' | '.join(row)} |\n" for row in (_HEAD, ("---",) * len(_HEAD), *rows))


@pytest.fixture(scope="session")
def device():
    """Without a GPU the same tests run on the CPU, in miniature."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="session")
def device_name(device):
    """What the device calls itself."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


@pytest.fixture(scope="session")
def size(device):
    return FULL if device.type == "cuda" else SMALL


@pytest.fixture
def table(request, device_name):
    return Table(request.config.stash[_ROWS], device_name, request.config.getoption("--gpu-table", None))


@pytest.fixture
def gpu(device):
    """Skip a test that says nothing on a CPU."""
    if device.type != "cuda":
        pytest.skip("needs a GPU")
    return device


@pytest.fixture(autouse=True)
def _exact_and_clean(device):
    """Float32 is float32, not TF32; and a test's memory is its own."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    return str(build_base(tmp_path_factory.mktemp("tiny") / "base"))


@pytest.fixture(scope="session")
def base(size, device, tiny_base, tmp_path_factory):
    """A base of the size's, with random weights."""
    return build_full_size(tmp_path_factory.mktemp("full") / "base", device) if size.is_full else tiny_base
