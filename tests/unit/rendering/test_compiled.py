"""A compiled UNet: what is compiled, how often, and that frames still depend on the item alone.

PyTorch's `eager` backend traces as all backends do and computes with the same kernels, so that frames are those of a
UNet that is not compiled, bit for bit. Each form that is traced takes seconds.
"""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from animatediff.diffusion.steps.deep_cache import DeepCache
from animatediff.errors import UserError
from animatediff.rendering.animator import Animator
from animatediff.rendering.catalog.controls import ControlSpec
from animatediff.rendering.catalog.entries import Entry, Lora
from animatediff.rendering.catalog.item import Item
from animatediff.rendering.compiled import CompiledUNet
from tests.support_base import build_base
from tests.support_controls import build_controls

BARE = Entry(name="bare")
LORA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compiled")
    build_base(folder / "base")
    generator = torch.Generator().manual_seed(0)
    factors = {"down": torch.randn(2, 32, generator=generator), "up": torch.randn(32, 2, generator=generator)}
    save_file({f"{LORA}.lora_{way}.weight": factor for way, factor in factors.items()}, folder / "lora.safetensors")
    return folder


def make(folder, *, compile, **settings):
    return Animator(str(folder / "base"), None, schedule=None, device="cpu", compile=compile, **settings)


@pytest.fixture(scope="module")
def plain(folder):
    return make(folder, compile=False)


@pytest.fixture(scope="module")
def compiled(folder):
    """An animator whose UNet is compiled by the backend `eager`, and the graphs that were made, one a form."""
    graphs, real = [], torch.compile

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    def compile_with_eager(model, **options):
        return real(model, backend=backend, **{name: value for name, value in options.items() if name != "mode"})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", compile_with_eager)
        animator = make(folder, compile=True)
    yield animator, graphs
    torch._dynamo.reset()


def item(**changes):
    settings = {"prompt": "a red circle", "negative_prompt": "grey", "seed": 3, "num_inference_steps": 3}
    size = {"width": 32, "height": 16, "num_frames": 2}
    return Item(digest="0", entry="x", model="", **(settings | size | changes))


def rendered(animator, entry=BARE, **changes):
    animator.load(entry)
    return animator.render(item(**changes))


def test_steps_prompts_and_swapped_weights_are_of_one_form(compiled, plain, folder):
    animator, graphs = compiled
    lora = Entry(name="lora", loras=(Lora(path=str(folder / "lora.safetensors")),))
    bare = rendered(animator)
    number = len(graphs)
    assert number == 1
    changed = rendered(animator, lora)
    other = rendered(animator, prompt="a blue square", seed=4, num_inference_steps=5, guidance_scale=3.0)
    again = rendered(animator)
    assert len(graphs) == number
    np.testing.assert_array_equal(again, bare)
    np.testing.assert_array_equal(bare, rendered(plain))
    np.testing.assert_array_equal(changed, rendered(plain, lora))
    assert (changed != bare).any()
    assert (other != bare).any()


def test_compiling_has_seconds_of_its_own(compiled, plain):
    animator, graphs = compiled
    animator.load(BARE)
    number = len(graphs)
    seconds = [animator.render_batch([item(width=16)])[0].seconds for _ in range(2)]
    assert len(graphs) == number + 1
    assert seconds[0]["compile"] > seconds[0]["unet"] > 0
    assert seconds[1]["compile"] == 0
    assert seconds[1]["unet"] > 0
    plain.load(BARE)
    assert "compile" not in plain.render_batch([item()])[0].seconds


def test_steps_that_take_deep_features_again_are_of_two_forms(compiled, plain):
    animator, graphs = compiled
    settings = {"deep_cache": DeepCache(every=2, layers=2), "num_inference_steps": 5}
    before = len(graphs)
    found = rendered(animator, **settings)
    assert len(graphs) == before + 2
    np.testing.assert_array_equal(found, rendered(plain, **settings))
    np.testing.assert_array_equal(rendered(animator, **settings), found)
    assert len(graphs) == before + 2


def test_a_control_is_compiled_with_the_unet(compiled, plain, folder):
    animator, graphs = compiled
    files = build_controls(folder / "controls", folder / "base")
    control = ControlSpec(net=files["control_net"], pictures=(files["one"],))
    bare = rendered(animator)
    before = len(graphs)
    found = rendered(animator, controls=(control,))
    assert len(graphs) == before + 1
    np.testing.assert_array_equal(found, rendered(plain, controls=(control,)))
    np.testing.assert_array_equal(rendered(animator), bare)
    np.testing.assert_array_equal(rendered(animator, controls=(control,)), found)
    assert len(graphs) == before + 1


@pytest.mark.parametrize(("device", "mode"), [("cpu", "default"), ("cuda", "reduce-overhead")])
def test_all_of_the_unet_is_compiled_with_cuda_graphs_on_a_gpu(monkeypatch, device, mode):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda model, **options: asked.append((model, options)))
    unet = SimpleNamespace(base=SimpleNamespace(device=torch.device(device)))
    CompiledUNet(unet)
    assert asked == [(unet, {"mode": mode, "fullgraph": True, "dynamic": False})]


def test_what_cuda_graphs_write_over_is_copied(monkeypatch):
    memory = torch.zeros(2)
    monkeypatch.setattr(torch, "compile", lambda model, **options: lambda *given: memory.add_(1))
    predict = CompiledUNet(SimpleNamespace(base=SimpleNamespace(device=torch.device("cpu"))))
    first, second = (predict(torch.zeros(1), 0, None) for _ in range(2))
    assert (first.tolist(), second.tolist()) == ([1, 1], [2, 2])


def test_a_machine_that_cannot_compile_says_so(folder, monkeypatch):
    def backend(graph, _):
        raise RuntimeError("there is no C++ compiler")

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **options: real(lambda x, *_: x + 1, backend=backend))
    predict = CompiledUNet(SimpleNamespace(base=SimpleNamespace(device=torch.device("cpu"))))
    with pytest.raises(UserError, match=r"^compile: the UNet cannot .*no C\+\+ compiler.* set compile: false$"):
        predict(torch.zeros(1), 0, None)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="PyTorch compiles for a CPU with a C++ compiler")
def test_kernels_that_were_compiled_follow_the_weights_as_they_are_swapped(folder, plain):
    animator = make(folder, compile=True)
    lora = Entry(name="lora", loras=(Lora(path=str(folder / "lora.safetensors")),))
    first, changed, again = (rendered(animator, entry).astype(int) for entry in (BARE, lora, BARE))
    np.testing.assert_array_equal(again, first)
    assert abs(first - rendered(plain)).mean() < 0.1
    assert abs(changed - rendered(plain, lora)).mean() < 0.1
    assert abs(changed - first).mean() > 1
    animator.close()
