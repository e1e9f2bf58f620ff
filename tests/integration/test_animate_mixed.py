"""One catalog over a Stable Diffusion 1.x base and an SDXL base, each entry on its own."""

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from animatediff.errors import UserError
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.rendering.animator import Animator
from animatediff.rendering.catalog.catalog import Catalog, expand
from animatediff.rendering.results.ledger import read_results
from animatediff.weights import motion_modules
from animatediff.weights.base import load_unet
from pipelines.animate import main
from pipelines.settings import AnimateConfig
from tests.support_base import build_base
from tests.support_sdxl import build_sdxl, write_motion, write_personal_files

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("workers_here")]

PROMPT = "a large red star"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    small, xl = build_base(folder / "small"), build_sdxl(folder / "xl")
    build_base(folder / "small_other", seed=1)
    motion = MotionModules.for_base(load_unet(str(small)), MotionConfig())
    motion_modules.write(str(folder / "motion.safetensors"), motion)
    write_motion(folder / "motion_xl.safetensors", xl)
    write_personal_files(folder, build_sdxl(folder / "xl_other", seed=1))
    attention = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn{}"
    for name, attn, width in (("small_lora", "1_to_q", 32), ("sd1", "2_to_k", 768), ("sdxl", "2_to_k", 2048)):
        factors = {"lora_down": torch.randn(2, width), "lora_up": torch.randn(32, 2)}
        key = attention.format(attn)
        save_file(
            {f"{key}.{factor}.weight": tensor for factor, tensor in factors.items()}, folder / f"{name}.safetensors"
        )
    save_file({"emb_params": torch.randn(2, 32)}, folder / "red.safetensors")
    return folder


def entries_of(files):
    """Twelve, those of one base between those of the other; the last two are each on the wrong one."""
    path = {
        name: str(files / f"{name}.safetensors") for name in ("small_lora", "sd1", "sdxl", "red", "single", "kohya")
    }
    path |= {name: str(files / f"{name}.safetensors") for name in ("te2", "grey")}
    xl = {"base": str(files / "xl"), "motion_module": str(files / "motion_xl.safetensors")}
    own = {
        "bare": {},
        "xl-bare": xl,
        "checkpoint": {"checkpoint": str(files / "small_other")},
        "xl-single": xl | {"checkpoint": path["single"]},
        "lora": {"loras": [{"path": path["small_lora"]}]},
        "xl-lora": xl | {"loras": [{"path": path["kohya"]}]},
        "word": {"embeddings": [path["red"]]},
        "xl-word": xl | {"embeddings": [{"path": path["grey"], "token": "red"}]},
        "xl-second": xl | {"loras": [path["te2"]]},
        "xl-long": xl | {"num_frames": 6, "context": {"length": 4, "overlap": 1}},
        "wrong": {"loras": [path["sdxl"]]},
        "xl-wrong": xl | {"loras": [path["sd1"]]},
    }
    return [{"name": name, **fields} for name, fields in own.items()]


def catalog_of(files, entries):
    return {
        **{"base": str(files / "small"), "motion_module": str(files / "motion.safetensors"), "prompts": [PROMPT]},
        **{"width": 32, "height": 16, "num_frames": 4, "num_inference_steps": 2, "entries": entries},
    }


def render(content, output):
    catalog = output.with_suffix(".yaml")
    catalog.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match="2 of 12 items failed"):
        main(AnimateConfig(catalog_uri=str(catalog), output_uri=str(output), num_actors=1, formats=("png",)))
    return {result.entry: result for result in read_results(str(output))}


def frames_base_by_base(content):
    """By entry, rendered in this process: all of one base, then all of the other."""
    plan = expand(Catalog.model_validate(content))
    animators, found = {}, {}
    for item in plan.items:
        model = plan.models[item.model]
        if model.resident not in animators:
            animators[model.resident] = Animator.for_model(model, device="cpu")
        animators[model.resident].load(model)
        found[item.entry] = animators[model.resident].render(item)
    return found


def test_a_catalog_mixes_bases(files, tmp_path):
    """From one base to the other at each entry, with the bytes of each base by itself."""
    entries = entries_of(files)
    ordered = [{**entry, "priority": -number} for number, entry in enumerate(entries)]
    results = render(catalog_of(files, ordered), tmp_path / "out")
    wrong = {name for name, result in results.items() if result.status == "invalid"}
    assert wrong == {"wrong", "xl-wrong"}
    assert {result.status for name, result in results.items() if name not in wrong} == {"ok"}
    assert f"{files}/sdxl.safetensors is an SDXL LoRA, the base is Stable Diffusion 1.x" in results["wrong"].error
    assert f"{files}/sd1.safetensors is a Stable Diffusion 1.x LoRA, the base is SDXL" in results["xl-wrong"].error
    assert len({result.sha256["png"] for name, result in results.items() if name not in wrong}) == 10
    right = sorted((entry for entry in entries if entry["name"] not in wrong), key=lambda entry: "base" in entry)
    for name, frames in frames_base_by_base(catalog_of(files, right)).items():
        pictures = sorted((tmp_path / "out" / results[name].files["png"]).iterdir())
        np.testing.assert_array_equal(np.stack([np.asarray(Image.open(path)) for path in pictures]), frames)
