"""A catalog is set by what distilled files say of their sampling, and told where it says something else."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from animatediff.diffusion.steps.guidance_interval import GuidanceInterval
from animatediff.models.config import MotionConfig
from animatediff.models.lora import LowRankAdapters
from animatediff.models.motion_unet import MotionModules
from animatediff.rendering.catalog.catalog import Catalog, expand
from animatediff.rendering.checks.catalog import check, read
from animatediff.rendering.checks.few_step import set_by_files
from animatediff.weights import adapters, motion_modules
from animatediff.weights.base import load_unet
from animatediff.weights.layouts.few_step import FewStepSampling, lora_metadata
from tests.support_base import build_base

EULER = FewStepSampling(sampler="euler", timestep_spacing="trailing", num_inference_steps=6)
REST = EULER.model_copy(update={"guidance_scale": 3.0, "guidance_interval": GuidanceInterval(start=0.5)})
LCM = FewStepSampling(sampler="lcm", num_inference_steps=4)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    motion = MotionModules.for_base(load_unet(str(build_base(folder / "base"))), MotionConfig())
    motion_modules.write(str(folder / "many.safetensors"), motion)
    motion_modules.write(str(folder / "few.safetensors"), motion, few_step=EULER)
    motion_modules.write(str(folder / "rest.safetensors"), motion, few_step=REST)
    (folder / "run").mkdir()
    motion_modules.write(str(folder / "run" / "motion_module.safetensors"), motion, few_step=LCM)
    lora = LowRankAdapters.for_motion(motion, 2)
    adapters.write(str(folder / "lora.safetensors"), lora, metadata=lora_metadata(LCM))
    adapters.write(str(folder / "plain.safetensors"), lora, metadata={})
    return folder


def catalog_of(files, *entries, motion_module="many.safetensors", **shared):
    named = [{"name": f"e{i}", "prompts": ["a cat"], **entry} for i, entry in enumerate(entries or ({},))]
    content = {"base": str(files / "base"), "motion_module": str(files / motion_module), "width": 64, "height": 64}
    return Catalog.model_validate(content | {"entries": named} | shared)


def sampled(catalog):
    items = expand(set_by_files(catalog)).items
    return [
        FewStepSampling.model_validate({n: getattr(i, n) for n in FewStepSampling.model_fields})
        if i.sampler != "ddim"
        else None
        for i in items
    ]


def test_files_set_the_entries_that_name_them_or_that_the_catalog_gives_them(files, caplog):
    few, run = str(files / "few.safetensors"), str(files / "run")
    loras = [str(files / name) for name in ("plain.safetensors", "lora.safetensors")]
    entries = [{}, {"motion_module": few}, {"motion_module": run}, {"motion_loras": loras}, {"motion_loras": loras[:1]}]
    catalog = catalog_of(files, *entries)
    assert sampled(catalog) == [None, EULER, LCM, LCM, None]
    assert sampled(catalog_of(files, motion_module="few.safetensors")) == [EULER]
    assert check(set_by_files(catalog)) == {}
    assert caplog.text == ""


def test_digests_of_others_stay_and_those_of_few_steps_are_as_if_they_were_written_down(files):
    plain = catalog_of(files)
    assert [i.digest for i in expand(set_by_files(plain)).items] == [i.digest for i in expand(plain).items]
    by_file = expand(set_by_files(catalog_of(files, motion_module="few.safetensors"))).items
    written = expand(catalog_of(files, EULER.settings, motion_module="few.safetensors")).items
    assert [i.digest for i in by_file] == [i.digest for i in written]


@pytest.mark.parametrize(
    ("where", "said", "warning"),
    [
        ("entry", {"guidance_scale": 8}, "is a distilled motion module: its pictures need a guidance_scale of 1 to 2"),
        ("catalog", {"num_inference_steps": 25}, "need num_inference_steps 6"),
        ("entry", {"sampler": "ddim"}, "need sampler euler with timestep_spacing trailing"),
        ("prompt", {"num_inference_steps": 8}, "need num_inference_steps 6"),
        ("entry", {"preset": "quality"}, "need sampler euler with timestep_spacing trailing, num_inference_steps 6"),
        ("entry", {"guidance_scale": 1.5}, None),
    ],
)
def test_what_the_catalog_says_itself_stays_and_is_told_where_it_contradicts(files, caplog, where, said, warning):
    entry = {"entry": said, "prompt": {"prompts": [{"prompt": "a cat", **said}]}}.get(where, {})
    shared = said if where == "catalog" else {}
    catalog = set_by_files(catalog_of(files, entry, motion_module="few.safetensors", **shared))
    assert check(catalog) == {}
    (item,) = expand(catalog).items
    assert all(getattr(item, name) == value for name, value in said.items())
    assert (warning is None and caplog.text == "") or warning in caplog.text


@pytest.mark.parametrize(
    ("said", "warning"),
    [
        ({}, None),
        ({"guidance_scale": 2.0, "guidance_interval": None}, None),
        ({"guidance_scale": 3.5}, None),
        ({"guidance_scale": 1.0}, "need guidance_scale 3"),
        ({"guidance_scale": 8.0}, "need guidance_scale 3"),
        ({"guidance_interval": None}, "need guidance_interval {start: 0.5, end: 1.0}"),
        ({"guidance_interval": GuidanceInterval(start=0.4)}, None),
        (
            {"guidance_scale": 1.5, "guidance_interval": GuidanceInterval(end=0.5)},
            "need guidance_interval {start: 0.5,",
        ),
        ({"preset": "quality"}, "num_inference_steps 6, guidance_interval {start: 0.5, end: 1.0}"),
    ],
)
def test_guidance_that_a_file_leaves_to_its_last_steps_is_set_and_its_lack_told(files, caplog, said, warning):
    catalog = set_by_files(catalog_of(files, said, motion_module="rest.safetensors"))
    assert check(catalog) == {}
    (item,) = expand(catalog).items
    expected = {name: getattr(REST, name) for name in ("guidance_scale", "guidance_interval")} | said
    assert all(getattr(item, name) == value for name, value in expected.items() if "preset" not in said)
    assert caplog.text == "" if warning is None else warning in caplog.text


def test_a_lora_is_told_of_too(files, caplog):
    entry = {"motion_loras": [str(files / "lora.safetensors")], "num_inference_steps": 20, "deep_cache": {}}
    found = check(set_by_files(catalog_of(files, entry, {})))
    what = f"beside the distilled MotionLoRA {entry['motion_loras'][0]}"
    assert f"is {what}: its pictures need num_inference_steps 4" in caplog.text
    assert "leave deep_cache away" in found[0]


def test_a_lora_that_is_left_out_sets_nothing(files, caplog):
    lora = {"path": str(files / "lora.safetensors"), "scale": 0}
    catalog = catalog_of(files, {"motion_loras": [lora]})
    assert sampled(catalog) == [None]
    assert check(set_by_files(catalog)) == {}
    assert not caplog.records


def test_two_files_of_few_steps_are_told_by_name(files, caplog):
    few, lora = (str(files / f"{name}.safetensors") for name in ("few", "lora"))
    twice, both = {"motion_loras": [lora, lora]}, {"motion_module": few, "motion_loras": [lora]}
    assert check(set_by_files(catalog_of(files, twice, both))) == {}
    told = [record.getMessage() for record in caplog.records]
    assert f"beside the distilled MotionLoRA {lora} and beside the distilled MotionLoRA {lora}, of which" in told[0]
    assert f"{few} is a distilled motion module and beside the distilled MotionLoRA {lora}, of which each" in told[1]


def test_a_second_pass_has_the_steps_of_the_file_too(files, caplog):
    few, second = {"motion_module": str(files / "few.safetensors")}, {"num_inference_steps": 25}
    assert check(set_by_files(catalog_of(files, few | {"second_pass": second}))) == {}
    assert "its pictures need second_pass.num_inference_steps 6" in caplog.text


def test_reading_a_catalog_sets_it(files, tmp_path):
    catalog = catalog_of(files, motion_module="few.safetensors").model_dump(mode="json", exclude_unset=True)
    (tmp_path / "catalog.yaml").write_text(json.dumps(catalog))
    assert read(str(tmp_path / "catalog.yaml")).entries[0].num_inference_steps == 6


def test_a_file_that_says_nonsense_is_left_to_the_checks(files, tmp_path):
    lora, module = tmp_path / "lora.safetensors", tmp_path / "module.safetensors"
    save_file({"x": torch.ones(1)}, lora, {"few_step": "{"})
    save_file({"x": torch.ones(1)}, module, {"motion_config": json.dumps({"few_step": {"sampler": "heun"}})})
    entries = [{"motion_loras": [str(lora)]}, {"motion_module": str(module)}, {"motion_module": "gone.safetensors"}]
    assert sampled(catalog_of(files, *entries[:2])) == [None, None]
    assert set_by_files(catalog_of(files, *entries)).entries[2].sampler == "ddim"


def test_a_lora_that_says_nonsense_of_its_sampling_is_told_in_one_line(files, tmp_path):
    lora = str(tmp_path / "damaged.safetensors")
    save_file(load_file(files / "lora.safetensors"), lora, {"few_step": '{"sampler": "heun"}'})
    catalog = catalog_of(files, {"motion_loras": [lora]}, {"motion_loras": [str(files / "lora.safetensors")]})
    found = check(set_by_files(catalog))
    assert found.keys() == {0}
    assert "\n" not in found[0]
    assert f"{lora} is damaged where it says how it is sampled" in found[0]
    assert "num_inference_steps" in found[0]
