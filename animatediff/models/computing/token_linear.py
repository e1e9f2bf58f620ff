"""Linear layers over many tokens, as a convolution where a processor computes that sooner."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from animatediff.models.computing import processor

# PyTorch gives convolutions of one pixel to oneDNN from 16 pictures on; fewer are MKL's, on one thread.
_PICTURES = 16
# oneDNN orders the weights anew in every call. Below so many tokens or channels, or above so many weights, that costs
# what is gained; between, a forward pass is 1.6 to 2.2 times as fast (AMD EPYC with avx512_bf16, one thread).
_MIN_TOKENS, _MIN_CHANNELS, _MAX_WEIGHTS = 256, 128, 5_000_000
# A value, since a function that asks the system cannot be compiled.
_MULTIPLIES_BY_HALF = (
    processor.is_amd_with_avx512() and torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
)


class TokenLinear(nn.Linear):
    """`nn.Linear` by the products of `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output, (... i) to (... o)."""
        return linear(x, self.weight, self.bias)


def use_token_linear(model: nn.Module) -> None:
    """Make every `nn.Linear` of `model` a `TokenLinear`, with the parameters and hooks that it has."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = TokenLinear


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `F.linear` of tokens, (... i) to (... o), within its rounding.

    In float32 PyTorch multiplies matrices by MKL, which leaves half of AMD's AVX-512 vectors idle, and convolves by
    oneDNN, which does not. A token is a pixel to a convolution, and its layout `channels_last` is the tokens' own.
    """
    if not _is_sooner_as_convolution(x, weight):
        return F.linear(x, weight, bias)
    # A convolution's output has its input's layout, and that of turned tokens would be neither layout.
    pictures = x.contiguous().reshape(_PICTURES, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
    out = F.conv2d(pictures, weight[:, :, None, None], bias)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], len(weight))


def _is_sooner_as_convolution(x: Tensor, weight: Tensor) -> bool:
    if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return False
    tokens, channels = x.shape[:-1].numel(), min(weight.shape)
    return (
        tokens >= _MIN_TOKENS
        and tokens % _PICTURES == 0
        and channels >= _MIN_CHANNELS
        and weight.numel() <= _MAX_WEIGHTS
        and _MULTIPLIES_BY_HALF
    )
