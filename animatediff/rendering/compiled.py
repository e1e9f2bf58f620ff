"""A UNet's forward pass compiled as a whole, for rendering."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from animatediff.diffusion.conditioning import Conditioning
from animatediff.diffusion.steps.deep_features import DeepFeatures
from animatediff.errors import UserError
from animatediff.models.motion_unet import MotionUNet

# Forms of what the UNet is given, beyond which PyTorch refuses to compile more (8 by default, and a catalog may have
# several sizes, lengths and controls): never less exact, as what it does not compile would round otherwise.
_MAX_FORMS = 256


class CompiledUNet:
    """Predicts as its UNet, whose weights may change in place from call to call.

    Each form of what it is given (numbers of clips and frames, size, kinds of conditioning) is compiled at its first
    call, once a process; the values are not in it, so that denoising steps are all of one form, or of a few. On a GPU
    the kernels of a form are replayed as one CUDA graph.

    Args:
        unet: where and in the precision in which it stays, without gradients.
    """

    def __init__(self, unet: MotionUNet) -> None:
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MAX_FORMS)
        mode = "reduce-overhead" if unet.base.device.type == "cuda" else "default"
        self._predict = torch.compile(unet, fullgraph=True, dynamic=False, mode=mode)
        self.compile_s = 0.0
        """Seconds that compiling has taken so far."""

    def __call__(
        self, sample: Tensor, timestep: Tensor | int, conditioning: Conditioning, deep: DeepFeatures | None = None
    ) -> Tensor:
        """Predict what `MotionUNet.forward` does, but for the last bits.

        Raises:
            UserError: it cannot be compiled on this machine.
        """
        torch.compiler.cudagraph_mark_step_begin()
        is_filled = deep is not None and deep.features is None
        try:
            with self._timed_compiling():
                prediction: Tensor = self._predict(sample, timestep, conditioning, deep)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"compile: the UNet cannot be compiled here ({reason}): set compile: false") from error
        # The memory of what a CUDA graph gives is the next call's.
        if deep is not None and is_filled and deep.features is not None:
            deep.features = deep.features.clone()
        return prediction.clone()

    @contextmanager
    def _timed_compiling(self) -> Iterator[None]:
        """Add to `compile_s` what PyTorch compiles meanwhile, the recording of CUDA graphs included."""
        began = 0.0

        def start(*_: object) -> None:
            nonlocal began
            began = time.monotonic()

        def end(*_: object) -> None:
            self.compile_s += time.monotonic() - began

        # Only for the call: PyTorch would hold what has a UNet for good. Its versions tell them different things.
        handler = torch._dynamo.callback.callback_handler
        handler.register_start_callback(start)
        handler.register_end_callback(end)
        try:
            yield
        finally:
            handler.remove_start_callback(start)
            handler.remove_end_callback(end)

    @staticmethod
    def close() -> None:
        """Let go of all that this process has compiled, and of the memory of its CUDA graphs."""
        torch.compiler.reset()
