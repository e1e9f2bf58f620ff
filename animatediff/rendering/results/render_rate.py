"""How much work items are, and how long finished ones took for it: what a dry run reckons with."""

from collections.abc import Collection, Iterable, Mapping
from itertools import accumulate, islice

from animatediff.diffusion.passes.strength import num_kept_steps
from animatediff.diffusion.steps.step_plan import plan_steps
from animatediff.rendering.catalog.item import Item
from animatediff.rendering.results.result import Result

# What a network takes beside the UNet with its motion module. Of 16 frames of 512 x 512 under guidance, which are 31.2
# TFLOP, PyTorch's FlopCounterMode counts 6.9 for a ControlNet and 10.1 for a SparseCtrl encoder; catalogs do not say
# which of them a file is.
_NETWORK_SHARE = 0.3
# What a pixel takes. FlopCounterMode, with attention by its formula, counts 35.3 TFLOP for those frames of Stable
# Diffusion 1.x, and 250.4 for 16 frames of 1024 x 1024 of SDXL with SDXL-beta: four times the pixels.
_WORK_OF_PIXEL: Mapping[str, float] = {"sd1": 1.0, "sdxl": 1.8}
# What of that the last layers of the decoder take, 1, 2, ... of them, with the encoder's that they read: likewise.
_SHALLOW_SHARES: Mapping[str, tuple[float, ...]] = {
    "sd1": (0.074, 0.213, 0.36, 0.442, 0.543, 0.656, 0.735, 0.832, 0.932, 0.951, 0.968),
    "sdxl": (0.022, 0.061, 0.105, 0.168, 0.261, 0.359, 0.481, 0.689),
}
_MEASURED = 10_000  # finished items that are looked at: more tell no more


def work_units(item: Item, base: str | None = None) -> float:
    """Return the work of an item: millions of pixels over all frames and steps, those of a second pass, too.

    They are pixels of Stable Diffusion 1.x, of which one of SDXL is worth several.

    Frames in several windows count as often as they are computed, and steps without guidance, or that take its
    difference from an earlier one, half: they take the UNet once and not twice. What takes its deep features from an
    earlier step counts as the layers that are left. Networks of `controls` add their share in the steps in which they
    are on; what `images` add is not worth counting.
    """
    kind = base or "sd1"
    passes = item.width * item.height * sum(_passes(item, steps, kind) for steps in _num_steps(item))
    if second := item.second_pass:
        steps = num_kept_steps(second.num_inference_steps or item.num_inference_steps, second.strength)
        passes += item.output_width * item.output_height * _passes(item, steps, kind)
    if item.context is not None and item.num_frames > item.context.length:
        passes *= item.context.length / (item.context.length - item.context.overlap)
    return _WORK_OF_PIXEL[kind] * passes / 1e6 * item.num_frames


def _passes(item: Item, num_steps: int, base: str) -> float:
    """Return what denoising steps take, in guided UNet calls."""
    deep, shares = item.deep_cache, _SHALLOW_SHARES[base]
    plan = plan_steps(
        num_steps,
        is_guided=item.guidance_scale > 1,
        guidance_interval=item.guidance_interval,
        guidance_after_every=item.guidance_after_every,
        guidance_every=item.guidance_every,
        deep_every=deep.every if deep else 1,
    )
    num_negative = sum("negative" in step.computed for step in plan)
    num_shallow = sum(len(step.shallow) for step in plan)
    spared = 1 - shares[min(deep.layers, len(shares)) - 1] if deep else 0.0
    return (num_steps + num_negative - num_shallow * spared) / 2 + sum(
        _NETWORK_SHARE * (num_steps + (0 if control.guess_mode else num_negative)) / 2 * (control.end - control.start)
        for control in item.controls
    )


def _num_steps(item: Item) -> list[int]:
    """Return how many denoising steps are taken before a second pass, each time that the clip is sampled."""
    if item.free_init:
        return [item.free_init.num_steps(i, item.num_inference_steps) for i in range(item.free_init.iterations)]
    begins_from_pictures = item.init_image is not None or item.init_video is not None
    return [num_kept_steps(item.num_inference_steps, item.strength if begins_from_pictures else 1.0)]


def measured_rate(
    results: Iterable[Result], bases: Mapping[str, str | None], compiled: Collection[str] = ()
) -> float | None:
    """Return the seconds that finished items took for a unit of work, compiling aside; None where none tell.

    It is the median over their work, so that a few that were held up do not count.

    Args:
        results: the items'.
        bases: whose layers the base of each model has, by the model's digest.
        compiled: the digests of the models whose UNet is compiled.
    """
    finished = [result for result in islice(results, _MEASURED) if result.status == "ok" and result.seconds]
    # Earlier versions counted compiling as the UNet's: one such item may be all compiling, of several the first ones.
    clear = [result for result in finished if result.model not in compiled or "compile" in result.seconds]
    known = clear or (finished if len(finished) > 1 else [])
    works = [work_units(result, bases.get(result.model)) for result in known]
    rates = sorted((_busy_s(result.seconds) / work, work) for result, work in zip(known, works, strict=True) if work)
    until = accumulate(work for _, work in rates)
    return next((rate for (rate, _), done in zip(rates, until, strict=True) if done >= sum(works) / 2), None)


def _busy_s(seconds: Mapping[str, float]) -> float:
    """Return how long a clip keeps its worker: it is encoded and written while the next ones are computed."""
    beside = sum(seconds.get(stage, 0.0) for stage in ("encode", "write"))
    return max(beside, sum(seconds.values()) - beside - seconds.get("compile", 0.0))
