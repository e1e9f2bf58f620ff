"""Stable Diffusion 1.5's real sizes through the checkpoint reader: 2 GB files and minutes, so marked slow."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from animatediff.weights import checkpoints
from animatediff.weights.layouts.architectures import PARTS, meta_modules
from tests.support_weights import ldm_file

pytestmark = pytest.mark.slow

# In a process of its own, where no memory is left over that could be used again unseen.
MEASURE = """
import sys, threading
from pathlib import Path
import torch
from animatediff.weights import checkpoints
from animatediff.weights.layouts.architectures import meta_modules
from animatediff.weights.resident import ResidentWeights

def anonymous():  # bytes that are the process's own: the mapped file's pages are the page cache's
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) << 10

def peak_of(action):
    start, peak, stop = anonymous(), 0, threading.Event()
    def watch():
        nonlocal peak
        while not stop.wait(0.005):
            peak = max(peak, anonymous() - start)
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        action()
    finally:
        stop.set()
        thread.join()
    return max(peak, anonymous() - start)

@torch.no_grad()
def copy():
    for part, state in checkpoints.load(sys.argv[1], modules).items():
        own = modules[part].state_dict()
        for name, tensor in state.items():
            own[name].copy_(tensor)

modules = {part: module.half().to_empty(device="cpu") for part, module in meta_modules("sd1").items()}
for module in modules.values():
    for tensor in module.state_dict().values():
        tensor.zero_()
print(peak_of(lambda: checkpoints.load(sys.argv[1], modules)))
print(peak_of(copy))
print(peak_of(lambda: ResidentWeights(modules).load(checkpoint=sys.argv[1])))
"""


@pytest.fixture(scope="module")
def original():
    """Random weights in half precision, as most checkpoints are published (2.1 GB)."""
    generator = torch.Generator().manual_seed(0)
    return {
        part: {
            name: torch.randn(tensor.shape, generator=generator).half() for name, tensor in module.state_dict().items()
        }
        for part, module in meta_modules("sd1").items()
    }


@pytest.fixture(scope="module")
def file(original, tmp_path_factory):
    path = tmp_path_factory.mktemp("full") / "model.safetensors"
    save_file(ldm_file(original), path)
    return path


def assert_same(states, expected):
    assert states.keys() == expected.keys()
    for part, state in expected.items():
        assert states[part].keys() == state.keys()
        assert all(torch.equal(states[part][name], tensor) for name, tensor in state.items())


def test_an_ldm_file_converts_to_exactly_the_original(original, file, tmp_path):
    assert sum(tensor.numel() for state in original.values() for tensor in state.values()) == 1_066_235_307
    assert_same(checkpoints.load(str(file), meta_modules("sd1")), original)
    written = checkpoints.to_diffusers(str(file), str(tmp_path / "out"))
    assert written == list(original)
    for part in written:
        model = PARTS[part].from_pretrained(tmp_path / "out" / part, torch_dtype=torch.float16)
        assert_same({part: model.state_dict()}, {part: original[part]})


def test_loading_takes_no_more_memory_than_the_file_and_one_tensor(original, file):
    largest = max(tensor.nbytes for state in original.values() for tensor in state.values())
    result = subprocess.run([sys.executable, "-c", MEASURE, str(file)], capture_output=True, text=True, check=True)
    read, copied, resident = (int(line) for line in result.stdout.split())
    figures = {"file": file.stat().st_size, "largest": largest, "read": read, "copied": copied, "resident": resident}
    print({name: f"{size / 2**20:.0f} MiB" for name, size in figures.items()})  # noqa: T201  what the test is for
    # Reading maps the file. Copying takes a tensor at a time. A resident base also keeps what it will restore.
    slack = 64 << 20
    assert read < slack
    assert copied < largest + slack
    assert resident < file.stat().st_size + largest
