"""A GPU without one: PyTorch's FakeTensorMode with tensors that claim to be on `cuda:0`.

A fake tensor has a shape, a dtype and a device, and no numbers. An operation on tensors of two devices fails as it
would on a GPU, and so does one on two dtypes. Whatever would wait for the GPU is written down: a number that Python
asks for, and a copy between the devices that is not from pinned memory, as `torch.cuda.set_sync_debug_mode` finds them.
"""

import ctypes
import gc
import os
import sys
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

CUDA = torch.device("cuda:0")
_GUARDS = "_ZN3c104impl26device_guard_impl_registryE"  # c10::impl::device_guard_impl_registry
_CUDA_SLOT, _META_SLOT = 1, 14  # of c10::DeviceType


def is_possible():
    """Whether this build of PyTorch can have fake CUDA tensors."""
    return torch.backends.cuda.is_built() or _guards() is not None


@contextmanager
def fake_cuda(answers=()):
    """Make every tensor of the block a fake one; yields the places that wait for the GPU.

    Tensors from before it are taken for fake ones where they are used. Files are read by functions that `real` wraps.
    A number that Python asks the GPU for is the next of `answers`, or 1.
    """
    mode, waits = FakeTensorMode(allow_non_fake_inputs=True), _Waits(answers)
    with ExitStack() as stack:
        for name, value in _PATCHES.items():
            stack.enter_context(patch(name, value))
        if not torch.backends.cuda.is_built():
            stack.enter_context(_meta_guard_for_cuda())
            stack.enter_context(patch("torch.autograd.backward", _backward))
        stack.enter_context(mode)
        stack.enter_context(waits)
        yield waits.places
        gc.collect()  # as long as there is a GPU to free their memory on


def pytest_sessionfinish(exitstatus):
    """Keep the exit code; as a plugin, `-p tests.fake_cuda`."""
    _exit_codes.append(int(exitstatus))


def pytest_unconfigure():
    """End the process without taking it apart: PyTorch has crashed at that, as fake tensors' memory is no GPU's."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_exit_codes[-1])


_exit_codes = [0]


def real(function):
    """Wrap a function that reads files, whose tensors are real ones."""

    @wraps(function)
    def call(*args, **kwargs):
        with _disable_current_modes():
            return function(*args, **kwargs)

    return call


@torch.no_grad()
def _apply(module, change, recurse=True):
    """`nn.Module._apply`, which swaps fake tensors in a way that a module under two names does not survive."""
    for child in module.children():
        child._apply(change)
    for name, parameter in module._parameters.items():
        if parameter is not None and (changed := change(parameter)) is not parameter:
            module._parameters[name] = torch.nn.Parameter(changed, parameter.requires_grad)
    for name, buffer in module._buffers.items():
        module._buffers[name] = None if buffer is None else change(buffer)
    return module


# Fake tensors do not mind.
_OF_ONE_DTYPE = {getattr(torch.ops.aten, name) for name in ("mm", "addmm", "bmm", "baddbmm", "convolution")}

_PATCHES = {
    "torch.nn.Module._apply": _apply,
    # autocast and GradScaler would turn themselves off.
    "torch.cuda.amp.common.amp_definitely_not_available": lambda: False,
    "torch.cuda.is_bf16_supported": lambda including_emulation=True: True,
    "torch.cuda.synchronize": lambda device=None: None,
    "torch.Tensor.pin_memory": lambda tensor: tensor,
}


class _Waits(TorchDispatchMode):
    """Writes down what waits for the GPU, and answers it: fake tensors have no numbers."""

    def __init__(self, answers):
        super().__init__()
        self.places, self._answers = [], iter(answers)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        aten = torch.ops.aten
        if func is aten._local_scalar_dense.default:
            is_asked = args[0].device.type == "cuda"
            self._note(is_asked, "a number of a tensor")
            answer = next(self._answers, 1) if is_asked else 0
            return float(answer) if args[0].dtype.is_floating_point else answer
        if func is aten.nonzero.default:
            self._note(args[0].device.type == "cuda", "places of a mask")
            return args[0].new_zeros((1, args[0].ndim), dtype=torch.long)
        if func.overloadpacket in _OF_ONE_DTYPE:
            dtypes = {arg.dtype for arg in args if isinstance(arg, torch.Tensor)}
            if len(dtypes) > 1:
                raise RuntimeError(f"{func} of more than one dtype: {', '.join(sorted(map(str, dtypes)))}")
        out = func(*args, **kwargs)
        if func is aten._to_copy.default:
            is_moved = out.device.type != args[0].device.type
            self._note(is_moved and not kwargs.get("non_blocking"), f"a copy to {out.device.type}")
        if func is aten.copy_.default:
            is_moved = args[0].device.type != args[1].device.type
            self._note(is_moved and not (args[2:] or (False,))[0], f"a copy to {args[0].device.type}")
        return out

    def _note(self, waits, what):
        if waits:
            self.places.append(f"{what}, {_own_place()}")


def _own_place():
    """The innermost function of the library that is running, without the tests' and the libraries' own."""
    frame = sys._getframe()
    while frame is not None:
        code = frame.f_code
        if "/animatediff/" in code.co_filename:
            return f"{Path(code.co_filename).name}:{code.co_name}"
        frame = frame.f_back
    return "elsewhere"


def _guards():
    library = Path(torch.__file__).parent / "lib" / "libc10.so"
    try:
        return (ctypes.c_void_p * (_META_SLOT + 1)).in_dll(ctypes.CDLL(str(library)), _GUARDS)
    except (OSError, ValueError):
        return None


@contextmanager
def _meta_guard_for_cuda():
    """Let the meta device's guard, which does nothing, stand in for CUDA's.

    FakeTensorMode does the like in a PyTorch that was built with CUDA and finds no GPU. One that was built without has
    no guard to replace.
    """
    guards = _guards()
    guards[_CUDA_SLOT] = guards[_META_SLOT]
    yield
    guards[_CUDA_SLOT] = None


@torch.no_grad()
def _backward(loss, *_args, **_kwargs):
    """Run the backward pass node by node: autograd's own engine asks a PyTorch without CUDA for CUDA's streams."""
    gradients = {loss.grad_fn: {0: torch.ones_like(loss)}}
    for node in _in_order(loss.grad_fn):
        given = gradients.pop(node, {})
        found = [given.get(i) for i in range(len(node._input_metadata))]
        if hasattr(node, "variable"):
            if found[0] is not None:
                _accumulate(node.variable, found[0])
            continue
        outputs = node.apply(*found) if isinstance(node, torch.autograd.function.BackwardCFunction) else node(*found)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        # A function of Python answers for its arguments that are no tensors too; here these are its first.
        outputs = outputs[len(outputs) - len(node.next_functions) :]
        for (after, place), gradient in zip(node.next_functions, outputs, strict=True):
            if after is None or gradient is None:
                continue
            fitting = gradient.sum_to_size(after._input_metadata[place].shape)  # as the engine does
            sums = gradients.setdefault(after, {})
            sums[place] = sums[place] + fitting if place in sums else fitting


def _accumulate(variable, gradient):
    assert (gradient.shape, gradient.dtype, gradient.device) == (variable.shape, variable.dtype, variable.device)
    variable.grad = gradient if variable.grad is None else variable.grad + gradient


def _in_order(first):
    """The nodes of a graph, each before those that it hands gradients to."""
    order, seen, stack = [], set(), [(first, False)]
    while stack:
        node, is_done = stack.pop()
        if is_done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(after, False) for after, _ in node.next_functions if after is not None]
    return order[::-1]
