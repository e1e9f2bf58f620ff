"""Whether a device computes what a CPU does: a matrix product and a convolution of a VAE's size, in each precision."""

import torch
from torch import Tensor

from animatediff.errors import UserError

# Channels and pixels a side of the widest layers of Stable Diffusion's decoder, at a clip of 512 x 512.
_CHANNELS, _SIDE = 512, 64
_PRODUCT = 1024
# Of the norm of the difference to that of the result. The steps of the formats are 2^-24, 2^-11 and 2^-8; sums of
# thousands of products in another order, or as TF32, cost some of them.
_BOUNDS = {torch.float32: 5e-3, torch.float16: 5e-3, torch.bfloat16: 3e-2}


def check_device(device: torch.device) -> str:
    """Compute on a device, and compare with float32 on the CPU.

    Returns:
        Its name, and the precisions that it was tried in.

    Raises:
        UserError: a result is another one.
    """
    tried = [dtype for dtype in _BOUNDS if dtype != torch.bfloat16 or _has_bfloat16(device)]
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(_PRODUCT, _PRODUCT, generator=generator) for _ in range(2))
    picture = torch.randn(1, _CHANNELS, _SIDE, _SIDE, generator=generator)
    kernel = torch.randn(_CHANNELS, _CHANNELS, 3, 3, generator=generator)
    product, convolved = left @ right, torch.nn.functional.conv2d(picture, kernel, padding=1)
    for dtype in tried:
        a, b, x, w = (tensor.to(device, dtype) for tensor in (left, right, picture, kernel))
        compare(f"a matrix product in {_name(dtype)}", a @ b, product, _BOUNDS[dtype])
        compare(
            f"a convolution in {_name(dtype)}",
            torch.nn.functional.conv2d(x, w, padding=1),
            convolved,
            _BOUNDS[dtype],
        )
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{kind} ({', '.join(map(_name, tried))})"


def compare(what: str, result: Tensor, expected: Tensor, bound: float) -> None:
    """Refuse a result that is not the expected one.

    Args:
        what: how it was computed.
        result: on any device, in any precision.
        expected: on the CPU, in float32.
        bound: the most that the difference's norm may be, as a part of the expected one's.

    Raises:
        UserError: it is farther away, or not finite.
    """
    difference = (result.float().cpu() - expected).norm() / expected.norm()
    if not difference <= bound:
        raise UserError(f"{what} is off by {float(difference):.1%} of its norm, more than {bound:.1%}")


def _has_bfloat16(device: torch.device) -> bool:
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
