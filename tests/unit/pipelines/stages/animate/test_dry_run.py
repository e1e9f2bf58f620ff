"""What a dry run of the animate job tells: counts that add up, and hours by measure or by rate."""

import pytest

from animatediff.rendering.catalog.catalog import Catalog, expand
from animatediff.rendering.catalog.item import Item
from animatediff.rendering.catalog.presets import told
from animatediff.rendering.results.render_rate import measured_rate, work_units
from animatediff.rendering.results.result import Result
from pipelines.settings import RenderRate
from pipelines.stages.animate.dry_run import estimate

CATALOG = {
    "base": "/no/base",
    "motion_module": "mm.safetensors",
    "prompts": ["a", "b", "c"],
    "entries": [
        {"name": "one"},
        {"name": "two", "loras": [{"path": "two.safetensors"}]},
        {"name": "again"},
        {"name": "bad"},
    ],
}


def item(**values):
    return Item(digest="d", entry="e", model="m", prompt="p", seed=0, **values)


@pytest.fixture
def plan():
    return expand(Catalog.model_validate(CATALOG), problems={3: "no"}, content_hash=lambda uri: uri)


def test_counts_add_up(plan):
    lines = estimate(plan, {plan.items[0].digest, "of another catalog"}, RenderRate())
    assert lines[:2] == [
        "to render: 5 of 12 items; 1 are done, 3 have the content of another, 3 cannot be rendered",
        "they are 5 clips of 80 frames with 2 models",
    ]


def test_hours_follow_the_rate(plan):
    units = 5 * 16 * 25 * 512 * 512 / 1e6
    rate = RenderRate(seconds_per_unit=36, num_workers=4, usd_per_hour=2)
    hours = units * 36 / 3600 / 4
    line = estimate(plan, {plan.items[0].digest}, rate)[2]
    assert line == f"time: {hours:.1f} h on 4 workers, {hours * 8:.2f} USD (rate.* says what to reckon with)"
    assert estimate(plan, {i.digest for i in plan.items}, rate)[2].startswith("time: 0.0 min on 4 workers, 0.00 USD")


def test_the_hours_and_the_figures_of_a_preset():
    def lines(**settings):
        catalog = Catalog.model_validate(CATALOG | {"entries": CATALOG["entries"][:1]} | settings)
        return estimate(expand(catalog, content_hash=lambda uri: uri), set(), RenderRate(seconds_per_unit=1000))

    whole, fast = lines(), lines(preset="fast")
    assert len(whole) == 3
    assert fast[3:] == [told("fast")]
    hours = [float(found[2].split()[1]) for found in (whole, fast)]
    assert hours[0] / hours[1] == pytest.approx(25 / 7.5, rel=0.01)
    assert lines(preset="fast", num_inference_steps=10)[3:] == []
    of_prompts = lines(prompts=[{"prompt": "a", "preset": "fast"}, {"prompt": "b", "preset": "draft"}, "c"])
    assert of_prompts[3:] == [told("draft"), told("fast")]


def test_what_finished_items_took_is_better(plan):
    seconds = {"unet": 50, "vae": 10, "encode": 20, "write": 20}  # the last two while another clip is computed
    done = Result(**plan.items[0].model_dump(), status="ok", seconds=seconds)
    failed = Result(**plan.items[1].model_dump(), status="failed", seconds={"unet": 5000})
    assert measured_rate([failed], {}) is None
    line = estimate(plan, {done.digest}, RenderRate(), [done, failed])[2]
    assert line == "time: 5.0 min on 1 worker (as its finished items took)"


def test_compiling_is_told_beside_the_hours_and_never_multiplied():
    catalog = Catalog.model_validate(CATALOG | {"entries": [{"name": "one", "compile": True}]})
    plan = expand(catalog, content_hash=lambda uri: uri)
    rate = RenderRate(seconds_per_unit=60 / work_units(plan.items[0]))

    def line(seconds):
        done = [Result(**item.model_dump(), status="ok", seconds=seconds) for item in plan.items[:1]] if seconds else []
        return estimate(plan, {result.digest for result in done}, rate, done)[2]

    compiling = "; each worker compiles each form of clips, which takes minutes more)"
    assert line(None) == f"time: 3.0 min on 1 worker (rate.* says what to reckon with{compiling}"
    assert line({"compile": 600, "unet": 30}) == f"time: 1.0 min on 1 worker (as its finished items took{compiling}"
    unclear = ", as what its finished items took has compiling in it"
    assert line({"unet": 630}) == f"time: 2.0 min on 1 worker (rate.* says what to reckon with{unclear}{compiling}"


def test_the_default_is_the_figure_it_names():
    # 2.17 steps a second (Kosinkadink/ComfyUI-AnimateDiff-Evolved#146)
    assert RenderRate().seconds_per_unit * work_units(item()) == pytest.approx(25 / 2.17, rel=0.01)
