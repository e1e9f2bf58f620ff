"""How much work items are."""

import pytest

from animatediff.diffusion.context import Context
from animatediff.diffusion.passes.free_init import FreeInit
from animatediff.diffusion.passes.second_pass import SecondPass
from animatediff.diffusion.steps.deep_cache import DeepCache
from animatediff.diffusion.steps.guidance_interval import GuidanceInterval
from animatediff.rendering.catalog.controls import ControlSpec
from animatediff.rendering.catalog.item import Item
from animatediff.rendering.results.render_rate import measured_rate, work_units
from animatediff.rendering.results.result import Result


def item(**values):
    return Item(**{"digest": "d", "entry": "e", "model": "m", "prompt": "p", "seed": 0} | values)


def test_guidance_and_windows_take_more():
    whole = work_units(item(num_frames=64))
    assert work_units(item(num_frames=64, guidance_scale=1)) == whole / 2
    assert work_units(item(num_frames=64, context=Context(length=16, overlap=8))) == 2 * whole
    assert work_units(item(num_frames=64, context=Context(length=64, overlap=8))) == whole
    assert work_units(item(num_frames=64, num_inference_steps=50, width=256)) == whole


def test_a_network_adds_its_share_where_it_runs():
    def added(guidance_scale=8.0, **changes):
        controls = (ControlSpec(net="net.safetensors", pictures="a.png", **changes),)
        bare = work_units(item(guidance_scale=guidance_scale))
        return work_units(item(guidance_scale=guidance_scale, controls=controls)) - bare

    whole = added()
    assert 0.2 < whole / work_units(item()) < 0.6
    assert added(start=0.25, end=0.75) == pytest.approx(whole / 2)
    assert added(guess_mode=True) == pytest.approx(whole / 2)
    assert added(guidance_scale=1.0) == pytest.approx(whole / 2)


def test_steps_that_are_left_out_or_taken_again_count():
    whole = work_units(item(num_inference_steps=20))
    assert work_units(item(num_inference_steps=20, init_image="a.png", strength=0.5)) == whole / 2
    assert work_units(item(num_inference_steps=20, free_init=FreeInit(iterations=2))) == 2 * whole
    fast = work_units(item(num_inference_steps=20, free_init=FreeInit(iterations=4, fast=True)))
    assert fast == pytest.approx((0.25 + 0.5 + 0.75 + 1) * whole)
    # Twice the width and height, half of the steps.
    second = SecondPass(scale=2.0, strength=0.5)
    assert work_units(item(num_inference_steps=20, second_pass=second)) == pytest.approx(3 * whole)
    other = SecondPass(scale=2.0, strength=0.5, num_inference_steps=10)
    assert work_units(item(num_inference_steps=20, second_pass=other)) == pytest.approx(2 * whole)


def test_steps_without_the_negative_prediction_count_half():
    def work(**settings):
        return work_units(item(num_inference_steps=20, **settings))

    assert work(guidance_interval=GuidanceInterval(end=0.5)) == pytest.approx(work() * 0.75)
    sparse = work(guidance_after_every=2, guidance_interval=GuidanceInterval(end=0.5))
    assert sparse == pytest.approx(work() * (20 + 15) / 40)
    assert work(guidance_every=2) == pytest.approx(work() * 0.75)
    both = work(guidance_every=2, guidance_interval=GuidanceInterval(end=0.5))
    assert both == pytest.approx(work() * (20 + 5) / 40)
    assert work(guidance_scale=1, guidance_every=2) == work(guidance_scale=1)
    network = (ControlSpec(net="net.safetensors", pictures="a.png"),)
    added = work(controls=network, guidance_every=2) - work(guidance_every=2)
    assert added == pytest.approx(0.75 * (work(controls=network) - work()))


def test_steps_with_the_deep_features_of_another_count_as_the_layers_that_are_left():
    whole = work_units(item(num_inference_steps=20))
    found = [work_units(item(num_inference_steps=20, deep_cache=DeepCache(layers=k))) for k in (1, 3, 11)]
    assert found == sorted(found)
    assert found[0] == pytest.approx(whole * (10 + 10 * 0.074) / 20)
    rare = work_units(item(num_inference_steps=20, deep_cache=DeepCache(every=5, layers=1)))
    assert rare == pytest.approx(whole * (4 + 16 * 0.074) / 20)
    # With every second difference, too, the negative branch is computed in steps that compute all layers.
    both = work_units(item(num_inference_steps=20, deep_cache=DeepCache(layers=1), guidance_every=2))
    assert both == pytest.approx(whole * (20 + 10 * 0.074) / 40)


def test_a_pixel_of_sdxl_is_worth_several():
    assert work_units(item(), "sdxl") == pytest.approx(1.8 * work_units(item()))
    results = [
        Result(**item(model=model).model_dump(), status="ok", seconds={"unet": seconds})
        for model, seconds in (("old", 10), ("new", 18))
    ]
    rate = measured_rate(results, {"old": "sd1", "new": "sdxl"})
    assert rate == pytest.approx(measured_rate(results[:1], {"old": "sd1"}))


def results(*seconds, model="m", **values):
    return [Result(**item(model=model, **values).model_dump(), status="ok", seconds=each) for each in seconds]


def test_a_few_items_that_were_held_up_do_not_count():
    work = work_units(item())
    assert measured_rate(results(*({"unet": s} for s in (5000, 10, 12, 11, 900))), {}) == pytest.approx(12 / work)
    small = results(*[{"unet": 900}] * 3, width=64, height=64)
    assert measured_rate([*small, *results({"unet": 10})], {}) == pytest.approx(10 / work)  # which is most of the work


def test_compiling_is_not_what_an_item_takes():
    rate = 3 / work_units(item())
    first, later = {"compile": 150, "unet": 2, "vae": 1}, {"compile": 0, "unet": 2, "vae": 1}
    assert measured_rate(results(first), {}, {"m"}) == pytest.approx(rate)
    assert measured_rate(results(first, first, first, later), {}, {"m"}) == pytest.approx(rate)


def test_what_an_earlier_version_wrote_of_a_compiled_model_tells_only_beside_others():
    rate = 3 / work_units(item())
    first, later = {"unet": 152, "vae": 1}, {"unet": 2, "vae": 1}
    assert measured_rate(results(first), {}, {"m"}) is None
    assert measured_rate(results(first), {}) == pytest.approx(153 / work_units(item()))
    assert measured_rate(results(first, later), {}, {"m"}) == pytest.approx(rate)
    assert measured_rate(results(first, *[later] * 5), {}, {"m"}) == pytest.approx(rate)
    assert measured_rate([*results(first, first), *results(later, model="plain")], {}, {"m"}) == pytest.approx(rate)
