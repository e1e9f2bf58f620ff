"""What this machine's processor computes natively. It is asked on every node of a cluster, so without torch."""

from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
# Linux's names of x86 instructions that multiply pairs of bfloat16 numbers and add them up in float32. Without one of
# them PyTorch emulates bfloat16, which takes longer than float32.
_PRODUCTS = {"avx512_bf16", "amx_bf16"}


def multiplies_bfloat16() -> bool:
    """Whether the processor has products of bfloat16; not where the system does not say."""
    return not _PRODUCTS.isdisjoint(_said("flags"))


def is_amd_with_avx512() -> bool:
    """Whether it is AMD's with AVX-512, of whose vectors MKL uses half; not where the system does not say."""
    return "AuthenticAMD" in _said("vendor_id") and "avx512f" in _said("flags")


def _said(name: str) -> set[str]:
    """Return the words that Linux says under a name, of any processor."""
    if not _CPUINFO.exists():
        return set()
    lines = (line.partition(":") for line in _CPUINFO.read_text().splitlines())
    return {word for found, _, words in lines if found.strip() == name for word in words.split()}
