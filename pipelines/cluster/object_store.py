"""Functions that travel through processes which do not call them."""

from collections.abc import Callable
from typing import Any

import ray


class FunctionInObjectStore:
    """A function in Ray's object store: only a process that calls it opens it, and imports what it needs.

    Args:
        function: its owner is this process, which must outlive the calls.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._reference = ray.put(function)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the function with these arguments and return what it returns."""
        return ray.get(self._reference)(*arguments, **named)
