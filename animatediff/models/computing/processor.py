"""What this machine's processor computes natively. It is asked on every node of a cluster, so without torch."""

from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
# Linux's names of x86 instructions that multiply pairs of bfloat16 numbers and add them up in float32. Without one of
# them PyTorch emulates bfloat16, which takes longer than float32.
_PRODUCTS = {"avx512_bf16", "amx_bf16"}


def multiplies_bfloat16() -> bool:
    """Whether the processor has products of bfloat16; not where the system does not say."""
    if not _CPUINFO.exists():
        return False
    lines = (line.partition(":") for line in _CPUINFO.read_text().splitlines())
    return any(name.strip() == "flags" and not _PRODUCTS.isdisjoint(found.split()) for name, _, found in lines)
