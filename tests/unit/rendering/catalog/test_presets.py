"""Presets: what they set, what overrides them, and what is told of them."""

import pytest
from pydantic import ValidationError

from animatediff.rendering.catalog.catalog import Catalog, expand
from animatediff.rendering.catalog.entries import RenderSettings
from animatediff.rendering.catalog.presets import PRESETS, preset_as_measured, told
from animatediff.rendering.catalog.reading import catalog_files
from animatediff.rendering.results.render_rate import work_units

PATHS = {"base": "hub/base", "motion_module": "s3://gone/motion.safetensors"}


def items_of(*, entry=None, prompt=None, **shared):
    prompts = [{"prompt": "a cat"} | (prompt or {})]
    content = PATHS | shared | {"entries": [{"name": "one", "prompts": prompts} | (entry or {})]}
    return expand(Catalog.model_validate(content), content_hash=lambda uri: uri).items


def settings_of(item):
    return {name: getattr(item, name) for name in PRESETS["fast"].settings}


def test_all_presets_set_the_same_valid_fields():
    assert len({frozenset(preset.settings) for preset in PRESETS.values()}) == 1
    for preset in PRESETS.values():
        assert RenderSettings.model_validate(preset.settings).model_fields_set == preset.settings.keys()


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("where", ["catalog", "entry", "prompt"])
def test_a_preset_is_its_settings_written_out(name, where):
    def at(settings):
        return items_of(**(settings if where == "catalog" else {where: settings}))

    (named,), (written,) = at({"preset": name}), at(dict(PRESETS[name].settings))
    assert settings_of(named) == settings_of(written) == PRESETS[name].settings
    assert named.digest == written.digest
    assert named.preset == preset_as_measured(named) == name
    assert preset_as_measured(written) is None


def test_quality_is_what_items_without_preset_are():
    assert items_of(preset="quality")[0].digest == items_of()[0].digest


def test_what_stands_beside_a_preset_or_nearer_to_the_prompt_overrides_it():
    (item,) = items_of(preset="draft", num_inference_steps=9, prompt={"sampler": "euler"})
    assert (item.num_inference_steps, item.sampler) == (9, "euler")
    assert item.guidance_interval == PRESETS["draft"].settings["guidance_interval"]
    assert item.preset == "draft"
    assert preset_as_measured(item) is None  # its figures are not this item's


def test_a_nearer_preset_undoes_a_farther_one():
    (item,) = items_of(preset="draft", num_inference_steps=9, entry={"preset": "quality"})
    assert settings_of(item) == PRESETS["quality"].settings
    (item,) = items_of(entry={"preset": "quality"}, prompt={"preset": "fast"})
    assert settings_of(item) == PRESETS["fast"].settings


@pytest.mark.parametrize("value", ["slow", 3, ["fast"]])
def test_other_names_are_refused(value):
    with pytest.raises(ValidationError, match="preset\n  Input should be 'draft', 'fast' or 'quality'"):
        items_of(preset=value)


def test_a_column_of_a_table_can_name_it(tmp_path):
    table = tmp_path / "entries.csv"
    rows = ["name,prompt,preset,num_inference_steps", "one,a cat,fast,", "one,a dog,,", "one,a cow,fast,10"]
    table.write_text("\n".join(rows))
    (tmp_path / "catalog.yaml").write_text(f"base: hub/base\nmotion_module: m.safetensors\nentries_uri: {table.name}\n")
    plan = expand(catalog_files.read(str(tmp_path / "catalog.yaml")), content_hash=lambda uri: uri)
    fast, plain, changed = plan.items
    assert settings_of(fast) == PRESETS["fast"].settings
    assert settings_of(plain) == PRESETS["quality"].settings
    assert settings_of(changed) == PRESETS["fast"].settings | {"num_inference_steps": 10}


def test_what_they_were_measured_to_do_is_told_and_agrees_with_what_is_reckoned():
    for name, preset in PRESETS.items():
        (item,) = items_of(preset=name)
        reckoned = work_units(items_of(preset="quality")[0]) / work_units(item)
        # The VAE and the text, which cost all alike, are no part of it.
        assert 0.7 * reckoned < preset.measured.speed <= 1.05 * reckoned
        assert preset.measured.num_clips >= 60
        assert f"preset {name}: {preset.measured.speed:.1f} times the speed of preset quality" in told(name)
