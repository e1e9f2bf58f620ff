"""What is put off when the libraries are imported, and that all of it is there when somebody uses it."""

import gc
import subprocess
import sys
import threading

import pytest

from pipelines import imports

# In a process of its own: here the libraries are imported already.
WORKER = """
import gc, sys
import pipelines.stages.animate.worker
from pipelines.imports import _DEFERRED
from animatediff.sprites import shipped
from animatediff.weights import base, motion_modules
base.load_unet(str(shipped.BASE)), base.load_text_encoder(str(shipped.BASE)), base.load_vae(str(shipped.BASE))
motion_modules.read(str(shipped.MOTION_MODULE))
print(sorted(name for name in _DEFERRED if not (name in sys.modules and not sys.modules[name].is_begun)))
print(gc.isenabled(), gc.get_freeze_count() > 100_000)

import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from diffusers.hooks import apply_group_offloading
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.transformers import Transformer2DModel
from transformers.loss.loss_for_object_detection import linear_sum_assignment
from transformers.models.bert import BertModel

assert linear_sum_assignment([[1, 2], [0, 5]])[1].tolist() == [1, 0]
sigmas = DPMSolverMultistepScheduler(use_beta_sigmas=True)
sigmas.set_timesteps(4)
assert len(sigmas.sigmas) == 5
torch.manual_seed(0)
block, x = BasicTransformerBlock(8, 2, 4).eval(), torch.randn(1, 3, 8)
compiled = torch.compile(block, backend="eager")
torch.testing.assert_close(compiled(x), block(x))
from torch._dynamo import trace_rules
assert id(BasicTransformerBlock) in trace_rules._allowed_callable_ids
"""


def test_a_worker_loads_its_models_without_what_is_deferred_and_whoever_uses_it_finds_it():
    done = subprocess.run([sys.executable, "-c", WORKER], capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()) == (0, ["[]", "True True"]), done.stderr


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package whose file says when it is executed, and what defers it."""
    name = tmp_path.name.replace("-", "_")
    folder = tmp_path / name
    folder.mkdir()
    (folder / "part.py").touch()
    (folder / "inside.py").write_text(f"import {name}\nassert {name}.done\n")
    (folder / "__init__.py").write_text(
        "import builtins\n"
        "builtins.executed.append(__name__)\n"
        "if builtins.failing: raise OSError('no')\n"
        "marked = []\n"
        "def add(a, b): return a + b\n"
        "def mark(f): marked.append(f); return f\n"
        "def double(f, times=2): return lambda *a: times * f(*a)\n"
        "done = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("builtins.executed", [], raising=False)
    monkeypatch.setattr("builtins.failing", False, raising=False)
    deferral = imports._Deferral(functions=("add",), marks=("mark",), wrappers=("double",), independent=f"{name}.part")
    monkeypatch.setitem(imports._DEFERRED, name, deferral)
    yield name
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        del sys.modules[module]


def executed():
    import builtins

    return builtins.executed


def test_a_module_is_executed_when_something_in_it_is_used_and_once(package):
    module = __import__(package)
    __import__(f"{package}.part")
    add = module.add
    assert executed() == []
    assert (add(2, 3), add(3, 4)) == (5, 7)
    assert module.done
    assert executed() == [package]
    assert module.add is not add
    with pytest.raises(AttributeError, match="nothing_of_it"):
        getattr(module, "nothing_of_it")  # noqa: B009


def test_decorators_of_a_module_take_effect_when_it_is_executed(package):
    module = __import__(package)

    @module.mark
    def f(x):
        return x + 1

    @module.double
    def g(x):
        return x + 1

    @module.double(times=3)
    def h(x):
        return x + 1

    assert f(1) == 2
    assert executed() == []
    assert (g(1), h(1), g(2)) == (4, 6, 6)
    assert module.marked == [f]
    assert g.__name__ == "g"


def test_a_submodule_that_needs_its_package_finds_it_executed(package):
    __import__(package)
    __import__(f"{package}.inside")
    assert executed() == [package]


def test_a_module_that_could_not_be_imported_says_so_each_time(package, monkeypatch):
    module = __import__(package)
    monkeypatch.setattr("builtins.failing", True)
    for _ in range(2):
        with pytest.raises(OSError, match="no"):
            getattr(module, "done")  # noqa: B009
    monkeypatch.setattr("builtins.failing", False)
    assert module.done


def test_threads_that_use_a_module_at_once_find_all_of_it(package):
    module, found = __import__(package), []
    threads = [threading.Thread(target=lambda: found.append(module.done)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 8
    assert executed() == [package]


def test_garbage_is_not_looked_for_while_a_module_of_ours_is_imported(tmp_path, monkeypatch):
    name = f"own_{tmp_path.name}".replace("-", "_")
    (tmp_path / name).mkdir()
    (tmp_path / name / "module.py").write_text("import gc\nwas_enabled = gc.isenabled()\n")
    (tmp_path / name / "broken.py").write_text("raise OSError('broken')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(imports, "_OWN", (f"{name}.",))
    assert not __import__(f"{name}.module").module.was_enabled
    assert gc.isenabled()
    with pytest.raises(OSError, match="broken"):
        __import__(f"{name}.broken")
    assert gc.isenabled()
