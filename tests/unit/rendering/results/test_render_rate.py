"""How much work items are."""

from animatediff.diffusion.context import Context
from animatediff.rendering.catalog.item import Item
from animatediff.rendering.results.render_rate import work_units


def item(**values):
    return Item(digest="d", entry="e", model="m", prompt="p", seed=0, **values)


def test_guidance_and_windows_take_more():
    whole = work_units(item(num_frames=64))
    assert work_units(item(num_frames=64, guidance_scale=1)) == whole / 2
    assert work_units(item(num_frames=64, context=Context(length=16, overlap=8))) == 2 * whole
    assert work_units(item(num_frames=64, context=Context(length=64, overlap=8))) == whole
    assert work_units(item(num_frames=64, num_inference_steps=50, width=256)) == whole
