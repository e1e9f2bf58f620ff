"""A control's network, whichever kind its file holds: a ControlNet, or a SparseCtrl encoder."""

from collections.abc import Mapping
from typing import Any, Literal

from animatediff.errors import UserError
from animatediff.models.control.control_net import ControlNet
from animatediff.models.control.sparse_control import SparseControlNet
from animatediff.weights.controls import control_net_file, sparse_control_file
from animatediff.weights.identify.weights_file import expect_family
from animatediff.weights.reading.files import local_copy
from animatediff.weights.reading.part_files import WEIGHTS_FILES, weights_files
from animatediff.weights.reading.tensors import open_tensors

NetworkKind = Literal["controlnet", "sparse_control"]


def kind_of(uri: str) -> NetworkKind:
    """Return what a file or a diffusers folder holds; no weight is read.

    Raises:
        UserError: it is neither, or cannot be read.
    """
    path = local_copy(uri)
    files = weights_files(path) if path.is_dir() else [path]
    if not files:
        raise UserError(f"folder {uri} has no {WEIGHTS_FILES[0]}, as diffusers' networks have")
    found = expect_family(open_tensors(uri if path == files[0] else str(files[0])), {"controlnet", "sparse_control"})
    return "sparse_control" if found.family == "sparse_control" else "controlnet"


def check_fits(uri: str, unet_config: Mapping[str, Any], base: str) -> NetworkKind:
    """Return what a file holds, if it fits a base. Only names and shapes are compared.

    Args:
        uri: the file or folder.
        unet_config: of the base's UNet.
        base: the base's name in messages.

    Raises:
        UserError: it does not fit, or is of another kind.
    """
    kind = kind_of(uri)
    if kind == "sparse_control":
        sparse_control_file.open_file(uri).check_fits(unet_config, base)
    else:
        control_net_file.open_file(uri, unet_config)
    return kind


def read(
    uri: str, unet_config: Mapping[str, Any], *, global_pool_conditions: bool | None = None
) -> ControlNet | SparseControlNet:
    """Read a network, float32.

    Args:
        uri: the file or folder.
        unet_config: of the base's UNet.
        global_pool_conditions: as in `control_net_file.open_file`.

    Raises:
        UserError: it does not fit, is of another kind, or has broken weights.
    """
    if kind_of(uri) == "sparse_control":
        return sparse_control_file.open_file(uri).build(unet_config)
    return control_net_file.open_file(uri, unet_config, global_pool_conditions=global_pool_conditions).build()
