"""Functions of the users' own, named by an import path."""

import importlib
from typing import Any

from animatediff.errors import UserError


def load_function(path: str, what: str) -> Any:
    """Return the function at `package.module:function`.

    Args:
        path: where it is.
        what: what it is for, as the error calls it, such as "scorer".

    Raises:
        UserError: there is none.
    """
    module, _, name = path.partition(":")
    try:
        function = getattr(importlib.import_module(module), name) if name else None
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{what} {path}: {error}; name it as package.module:function") from error
    if not callable(function):
        raise UserError(f"{what} {path} is no function: name it as package.module:function")
    return function
