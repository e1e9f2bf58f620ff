"""How a job's processes import modules, so that those that compute begin seconds earlier.

Imports make a million objects, none of them garbage, and Python looks through all of them again and again meanwhile,
which takes a quarter of the time. It does not while a module of this project is imported, and what that imports.

diffusers, transformers and torch import for everyone what few need: every transformer, a compiler, all of statistics.
What `_DEFERRED` names is there, but empty, until something in it is used, and is imported then. Where another version
of a library asks for more at once, more is imported at once, as it would be without this.
"""

import functools
import gc
import sys
import threading
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any, NamedTuple

_OWN = ("animatediff.", "pipelines.")


class _Deferral(NamedTuple):
    """What there is of a module before it is imported."""

    functions: tuple[str, ...] = ()
    """Functions that others take from it long before they call them."""
    marks: tuple[str, ...] = ()
    """Decorators that note something about what they are given, and return it."""
    wrappers: tuple[str, ...] = ()
    """Decorators that return another function."""
    independent: str = ""
    """Pattern of its submodules that do without it; it is imported before any other."""


_DEFERRED = {
    "diffusers.hooks": _Deferral(independent="*"),
    "diffusers.models.transformers": _Deferral(independent="*"),
    "scipy.integrate": _Deferral(),
    "scipy.ndimage": _Deferral(),
    "scipy.optimize": _Deferral(functions=("linear_sum_assignment",)),
    "scipy.stats": _Deferral(),
    "torch._dynamo": _Deferral(
        marks=("allow_in_graph", "assume_constant_result"),
        wrappers=("disable",),
        independent="*._trace_wrapped_higher_order_op",
    ),
    "transformers.models": _Deferral(independent="*"),
}


def install() -> None:
    """Have all that this process imports from now on imported so."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds modules where Python does, and has another loader execute them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return where a module of this project is, or one that is deferred; None of all others."""
        _import_packages_of(fullname)
        deferral = _DEFERRED.get(fullname)
        if deferral is None and not fullname.startswith(_OWN):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            loader = spec.loader
            spec.loader = _DeferringLoader(loader, deferral) if deferral else _OwnLoader(fullname, loader.path)
        return spec


def _import_packages_of(fullname: str) -> None:
    """Import the packages of a module that it does not do without."""
    package = fullname.rpartition(".")[0]
    while package:
        if package in _DEFERRED and not fnmatch(fullname, _DEFERRED[package].independent):
            module = sys.modules.get(package)
            if isinstance(module, _DeferredModule):
                module.import_now()
        package = package.rpartition(".")[0]


class _OwnLoader(SourceFileLoader):
    """Executes a module without looking for garbage."""

    def exec_module(self, module: ModuleType) -> None:
        """Execute a module."""
        if not gc.isenabled():
            super().exec_module(module)
            return
        had_torch = "torch" in sys.modules
        gc.disable()
        try:
            super().exec_module(module)
        finally:
            if not had_torch and "torch" in sys.modules:
                # What there is are modules, as no tensor can be older than torch: it is never looked through.
                gc.freeze()
            gc.enable()


class _DeferringLoader(Loader):
    """Executes a module that is deferred only when something in it is used."""

    def __init__(self, loader: SourceFileLoader, deferral: _Deferral) -> None:
        self._loader, self._deferral = loader, deferral

    def __getattr__(self, name: str) -> Any:
        """Return what the module's own loader has: its source, and files beside it."""
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module, still empty."""
        return _DeferredModule(spec.name, self._loader.exec_module, self._deferral)

    def exec_module(self, module: ModuleType) -> None:
        """Leave it empty."""


class _DeferredModule(ModuleType):
    """A module whose file is executed when something in it is used; like any other from then on."""

    def __init__(self, name: str, execute: Callable[[ModuleType], None], deferral: _Deferral) -> None:
        super().__init__(name)
        self._execute, self._deferral, self._marked = execute, deferral, list[tuple[str, Any]]()
        self._executing, self.is_begun = threading.RLock(), False

    def __getattr__(self, name: str) -> Any:
        """Return what the module does not have yet."""
        if name.startswith("__") and name != "__all__":  # Python asks every module for such
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if not self.is_begun:
            if name in self._deferral.functions:
                return functools.partial(self._call, name)
            if name in self._deferral.marks:
                return functools.partial(self._mark, name)
            if name in self._deferral.wrappers:
                return functools.partial(self._wrap, name)
        self.import_now()
        module = sys.modules[self.__name__]  # some put another module in their own place
        if module is not self:
            return getattr(module, name)
        if name not in self.__dict__:  # also where what it imports asks for what it does not have yet
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return self.__dict__[name]

    def import_now(self) -> None:
        """Execute the module's file, unless this thread is at it or it is done; wait for another thread that is."""
        with self._executing:
            if self.is_begun:
                return
            self.is_begun = True
            try:
                self._execute(self)
            except BaseException:
                self.is_begun = False
                raise
            for name, marked in self._marked:
                self.__dict__[name](marked)

    def _call(self, name: str, *arguments: Any, **named: Any) -> Any:
        self.import_now()
        return self.__dict__[name](*arguments, **named)

    def _mark(self, name: str, marked: Any) -> Any:
        self._marked.append((name, marked))
        return marked

    def _wrap(self, name: str, function: Callable[..., Any] | None = None, *arguments: Any, **named: Any) -> Any:
        if function is None:  # as a decorator with arguments alone
            return functools.partial(self._wrap, name, *arguments, **named)
        wrapped = functools.cache(lambda: self._call(name, function, *arguments, **named))

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return wrapped()(*args, **kwargs)

        return call
