"""Which precision suits a device: told by the processor's features, whichever processor runs the tests."""

import pytest
import torch

from animatediff.models.computing import processor
from animatediff.models.computing.precision import encoder_dtype, has_native_bfloat16, training_dtype, unet_dtype

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_bf16 gfni\n", True),
        ("processor\t: 0\nflags\t\t: fpu avx2 amx_bf16 amx_tile\n", True),
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_vnni\nbugs\t\t: avx512_bf16\n", False),
        ("processor\t: 0\nFeatures\t: fp asimd i8mm bf16\n", False),
        (None, False),
    ],
)
def test_a_processor_multiplies_what_its_flags_say(tmp_path, monkeypatch, cpuinfo, expected):
    path = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        path.write_text(cpuinfo)
    monkeypatch.setattr(processor, "_CPUINFO", path)
    assert processor.multiplies_bfloat16() is expected


@pytest.fixture(params=[True, False])
def is_native(request, monkeypatch):
    monkeypatch.setattr(processor, "multiplies_bfloat16", lambda: request.param)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: request.param)
    return request.param


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_what_is_asked_for_is_taken_and_auto_in_training_by_capability(is_native, device):
    assert has_native_bfloat16(device) is is_native
    for name in ("float32", "bfloat16", "float16"):
        dtype = getattr(torch, name)
        assert training_dtype(name, device, is_native=is_native) == dtype
        assert unet_dtype(name, device) == dtype
    other = torch.float32 if device == CPU else torch.float16
    found = training_dtype("auto", device, is_native=is_native)
    assert found == (torch.bfloat16 if is_native else other)


def test_rendering_is_as_it_was_but_for_auto_on_processors_that_multiply_bfloat16(is_native):
    assert (unet_dtype(None, CPU), unet_dtype(None, CUDA)) == (torch.float32, torch.float16)
    assert unet_dtype("auto", CUDA) == torch.float16
    assert unet_dtype("auto", CPU) == (torch.bfloat16 if is_native else torch.float32)


def test_what_computes_beside_the_unet_is_never_bfloat16():
    halves = (torch.float16, torch.bfloat16)
    assert {encoder_dtype(dtype, CPU) for dtype in (torch.float32, *halves)} == {torch.float32}
    assert [encoder_dtype(dtype, CUDA) for dtype in (torch.float32, *halves)] == [torch.float32, *2 * [torch.float16]]


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx2 avx512f avx512_bf16\n", True),
        ("vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx2\n", False),
        ("vendor_id\t: GenuineIntel\nflags\t\t: fpu avx2 avx512f\n", False),
        (None, False),
    ],
)
def test_amd_s_avx512_is_known(tmp_path, monkeypatch, cpuinfo, expected):
    path = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        path.write_text(cpuinfo)
    monkeypatch.setattr(processor, "_CPUINFO", path)
    assert processor.is_amd_with_avx512() == expected
