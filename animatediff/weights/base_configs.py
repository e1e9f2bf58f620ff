"""What the configs of a model's parts may say: looked at before anything is built of them.

A config is a stranger's text, and asks for memory and time. So numbers must be numbers, sizes have bounds, and a model
is built on the meta device first, which stops where it outgrows the weights beside it.
"""

import inspect
import math
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.overrides import TorchFunctionMode
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from animatediff.errors import UserError, any_error_as_user_error, one_line
from animatediff.weights.reading.files import check_regular
from animatediff.weights.reading.part_files import weights_files

# Far above any published model, of SDXL's 3,468,837,867 parameters in 2,713 modules.
_MOST_PARAMETERS = 10**10
_MOST_MODULES = 20_000
_MOST_ENTRIES = 64  # of a list of sizes; Stable Diffusion's have 4
_MOST_DEPTH = 8  # of lists and objects that are looked into
_WEIGHTS = (".safetensors", ".bin", ".pt", ".msgpack")
_MAX_FILE_BYTES = 16 << 20  # of what is read as a whole; CLIP's tokenizer.json has 4

_SIZES = {
    **dict.fromkeys(("layers_per_block", "transformer_layers_per_block", "num_hidden_layers"), 256),
    **dict.fromkeys(("in_channels", "out_channels", "block_out_channels", "latent_channels"), 1 << 16),
    **dict.fromkeys(("norm_num_groups", "attention_head_dim", "num_attention_heads"), 1 << 16),
    **dict.fromkeys(("cross_attention_dim", "hidden_size", "intermediate_size", "projection_dim"), 1 << 17),
    **dict.fromkeys(("addition_time_embed_dim", "projection_class_embeddings_input_dim"), 1 << 17),
    **dict.fromkeys(("time_embedding_dim", "encoder_hid_dim", "max_position_embeddings"), 1 << 17),
    **dict.fromkeys(("conv_in_kernel", "conv_out_kernel"), 31),
    **dict.fromkeys(("image_size", "patch_size"), 1 << 14),
    **dict.fromkeys(("sample_size", "vocab_size", "num_class_embeds"), 1 << 22),
}
"""Fields that are a positive whole number, or a list of such, with the most that is taken; null is the default."""
_POSITIVE = ("scaling_factor", "norm_eps", "layer_norm_eps")
# transformers' models are built of config objects, diffusers' of dicts.
_CONFIG_CLASSES: dict[Any, Any] = {
    CLIPTextModel: CLIPTextConfig,
    CLIPTextModelWithProjection: CLIPTextConfig,
    CLIPVisionModelWithProjection: CLIPVisionConfig,
}


def check_values(config: Mapping[str, Any], source: str) -> None:
    """Refuse values that are not finite, and sizes out of bounds.

    Args:
        config: of a part.
        source: what it is called in messages.

    Raises:
        UserError: the line names the field and its value.
    """
    if not isinstance(config, Mapping):
        raise UserError(f"{source} is {_shown(config)}, a JSON object is needed")
    for field, value in _fields(config):
        if any(isinstance(leaf, float) and not math.isfinite(leaf) for leaf in _leaves(value)):
            raise _unusable(source, field, value, "finite numbers are needed")
        if any(isinstance(leaf, int) and abs(leaf) >= 1 << 63 for leaf in _leaves(value)):
            raise _unusable(source, field, value, "numbers of 64 bits are needed")
        if field in _SIZES and value is not None:
            _check_sizes(field, value, source)
        if field in _POSITIVE and (not isinstance(value, int | float) or isinstance(value, bool) or value <= 0):
            raise _unusable(source, field, value, "a number above 0 is needed")


def check_files(folder: Path, name: str) -> int:
    """Refuse a part's folder in which something would be waited for, is too much to be read, or is not all there.

    Args:
        folder: of a part.
        name: what it is called in messages.

    Returns:
        The bytes of the weights in it.

    Raises:
        UserError: it has pipes or devices, a text of a size that none has, or an index of shards that are not there.
    """
    num_bytes = 0
    with any_error_as_user_error(f"cannot read {name}"):
        for file in sorted(folder.iterdir()):
            if file.is_dir() or not file.exists():  # a link that leads nowhere is a file that is missing
                continue
            check_regular(file, f"{name}/{file.name}")
            size = file.stat().st_size
            if file.suffix in _WEIGHTS:
                num_bytes += size
            elif file.suffix in (".json", ".txt") and size > _MAX_FILE_BYTES:
                raise UserError(f"{name}/{file.name} has {size:,} bytes, at most {_MAX_FILE_BYTES:,} are read")
        weights_files(folder)
    return num_bytes


def build_on_meta(cls: Any, config: Mapping[str, Any], source: str, *, weights_bytes: int | None = None) -> Any:
    """Return a part without memory for its weights.

    Args:
        cls: its class.
        config: what it is built of.
        source: what the config is called in messages.
        weights_bytes: of the files that are to fill it: a parameter takes one at least.

    Raises:
        UserError: no such part can be built, or it has more parameters than its files could hold.
    """
    check_values(config, source)
    most = _MOST_PARAMETERS if weights_bytes is None else min(_MOST_PARAMETERS, weights_bytes)
    build = partial(_built, cls, most=most)
    try:
        return build(config)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        fault = error
    if isinstance(fault, _OutgrownError):
        has = "" if weights_bytes is None else f", its weights files have {weights_bytes:,} bytes"
        blamed = _blamed(cls, build, config, fault) or _largest(config)
        raise UserError(f"{source} asks for {fault}{has}{blamed}") from fault
    raise UserError(f"{source} cannot be used{_blamed(cls, build, config, fault)}: {one_line(fault)}") from fault


class _OutgrownError(Exception):
    """A model has more in it than it may have."""


def _built(cls: Any, config: Mapping[str, Any], *, most: int) -> nn.Module:
    with _bounded(most), torch.device("meta"), NoValuesOnMeta():
        if config_cls := _CONFIG_CLASSES.get(cls):
            return cls(config_cls.from_dict(dict(config)))
        return cls.from_config(dict(config))


class NoValuesOnMeta(TorchFunctionMode):
    """While it is entered, parameters on the meta device are not drawn at random, as they have no values.

    Drawing some of them goes by rules that import torch's compiler, which takes half a second.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function of torch, unless it is to draw such."""
        named = dict(kwargs or {})
        is_drawn = getattr(func, "__module__", None) == nn.init.__name__ and named["tensor"].is_meta
        return named["tensor"] if is_drawn else func(*args, **named)


@contextmanager
def _bounded(most_parameters: int) -> Iterator[None]:
    """Let the building of a module in this thread stop when it has more parameters, or submodules, than is allowed."""
    thread, numbers = threading.get_ident(), {"parameters": 0, "modules": 0}

    def count(what: str, number: int, most: int) -> None:
        if threading.get_ident() == thread:
            numbers[what] += number
            if numbers[what] > most:
                raise _OutgrownError(f"more than {most:,} {what}")

    def on_parameter(_module: nn.Module, _name: str, parameter: nn.Parameter | None) -> None:
        count("parameters", 0 if parameter is None else parameter.numel(), most_parameters)

    def on_module(_module: nn.Module, _name: str, _submodule: nn.Module | None) -> None:
        count("modules", 1, _MOST_MODULES)

    handles = [
        torch_module.register_module_parameter_registration_hook(on_parameter),
        torch_module.register_module_module_registration_hook(on_module),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _blamed(cls: Any, build: Any, config: Mapping[str, Any], fault: BaseException) -> str:
    """Return the field that a part cannot be built for, as the end of a line; nothing where it cannot be told.

    It is the one without which there is no fault; or, as the default of a list may not fit the others, the one whose
    text the fault quotes, or whose value is of another type than its default.
    """
    defaults = {name: field.default for name, field in inspect.signature(cls.__init__).parameters.items()}
    own = {
        field: value
        for field, value in config.items()
        if not field.startswith("_") and (field not in defaults or defaults[field] != value)
    }
    for field, value in own.items():
        try:
            build({name: other for name, other in config.items() if name != field})
        except Exception:  # it is not this one's fault, or not alone
            continue
        return f" ({field} is {_shown(value)})"
    words = set(re.findall(r"\w+", str(fault)))
    for field, value in own.items():
        default = defaults.get(field)
        is_odd = isinstance(default, list | tuple) and not isinstance(value, list)
        if is_odd or any(leaf in words for leaf in _leaves(value) if isinstance(leaf, str)):
            return f" ({field} is {_shown(value)})"
    return ""


def _largest(config: Mapping[str, Any]) -> str:
    """Return the largest of a config's sizes, as the end of a line: no field by itself is too much."""
    sizes = {field: max(_leaves(value)) for field, value in _fields(config) if field in _SIZES and value is not None}
    field = max(sizes, key=sizes.__getitem__, default=None)
    return f" (its largest size is {field}, {sizes[field]:,})" if field else ""


def _check_sizes(field: str, value: Any, source: str) -> None:
    most, leaves = _SIZES[field], list(_leaves(value))
    if not leaves or len(leaves) > _MOST_ENTRIES:
        raise _unusable(source, field, value, f"one number, or a list of up to {_MOST_ENTRIES}, is needed")
    wrong = [leaf for leaf in leaves if type(leaf) is not int or not 1 <= leaf <= most]
    if wrong:
        raise _unusable(source, field, value, f"whole numbers from 1 to {most:,} are needed")


def _fields(config: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Fields and values, those of objects inside it too."""
    for field, value in config.items():
        if isinstance(value, Mapping) and depth < _MOST_DEPTH:
            yield from _fields(value, depth + 1)
        else:
            yield field, value


def _leaves(value: Any, depth: int = 0) -> Iterator[Any]:
    if isinstance(value, list | tuple) and depth < _MOST_DEPTH:
        for each in value:
            yield from _leaves(each, depth + 1)
    else:
        yield value


def _unusable(source: str, field: str, value: Any, needed: str) -> UserError:
    return UserError(f"{source}: {field} is {_shown(value)}, {needed}")


def _shown(value: Any, most: int = 60) -> str:
    """Return a value in a message."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of 5,000 digits, or lists in lists
        text = f"a {type(value).__name__} without end"
    return text if len(text) <= most else f"{text[:most]}..."
