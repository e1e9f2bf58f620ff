"""Weights in 8 bits with scales beside them, as ComfyUI's scaled fp8 checkpoints have them, multiplied out."""

from torch import Tensor

from animatediff.errors import UserError
from animatediff.weights.reading.tensors import TensorFile

# A weight's scale by what takes the place of `weight` in its name: ComfyUI's first and later files, and others'.
_SCALES = ("scale_weight", "weight_scale")
# Of the activations, and what the file says of its kind: nothing of it changes the weights.
_NOT_WEIGHTS = ("scale_input", "input_scale", "scaled_fp8", "comfy_quant")


def is_scale(name: str) -> bool:
    """Whether a tensor of this name stands beside weights in 8 bits, and is none."""
    return name.rpartition(".")[2] in (*_SCALES, *_NOT_WEIGHTS)


def dequantised(file: TensorFile) -> dict[str, Tensor]:
    """Return a file's tensors with their scales multiplied in, in float32; those without a scale as they are.

    Raises:
        UserError: a scale is of no weight, or of blocks of one, or its weight is packed.
    """
    scales = {name: tensor for name, tensor in file.tensors.items() if name.rpartition(".")[2] in _SCALES}
    found = {name: tensor for name, tensor in file.tensors.items() if not is_scale(name)}
    for name, scale in scales.items():
        weight_name = f"{name.rpartition('.')[0]}.weight"
        weight = found.get(weight_name)
        if weight is None:
            raise UserError(f"{file.uri} has {name}, the scale of a weight that it has not: the file is not whole")
        if (
            not weight.is_floating_point()
            or not scale.is_floating_point()
            or scale.numel() not in (1, *weight.shape[:1])
        ):
            raise UserError(
                f"{file.uri}: {weight_name} is of {str(weight.dtype).removeprefix('torch.')} with scales "
                f"{list(scale.shape)}: quantised weights are read with one scale, or one a row; take the float file"
            )
        # One scale, or one for each of the first dimension.
        found[weight_name] = weight.float() * scale.float().reshape(-1, *[1] * (weight.ndim - 1))
    return found
