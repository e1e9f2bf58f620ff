"""A dry run of the animate job: what it would render, and how long that takes."""

from collections.abc import Collection, Iterable
from functools import cache

from animatediff.rendering.catalog.catalog import RenderPlan
from animatediff.rendering.catalog.presets import PRESETS, preset_as_measured, told
from animatediff.rendering.results.render_rate import measured_rate, work_units
from animatediff.rendering.results.result import Result
from animatediff.weights.base_facts import BaseFacts, find_architecture
from pipelines.settings import RenderRate
from pipelines.terminal.hours import cost, duration


def estimate(plan: RenderPlan, done: Collection[str], rate: RenderRate, results: Iterable[Result] = ()) -> list[str]:
    """Return what a run would do, in lines for a log.

    Args:
        plan: of the catalog.
        done: digests of the items that are rendered already.
        rate: what to reckon with.
        results: of items in the same output folder: how long they took says more than `rate`.
    """
    first = {item.digest: item for item in reversed(plan.items)}
    pending = [item for digest, item in first.items() if digest not in done and digest not in plan.invalid]
    num_done = len(first.keys() & set(done))
    num_invalid = sum(item.digest in plan.invalid for item in plan.items)
    num_duplicates = len(plan.items) - num_invalid - num_done - len(pending)
    architecture = cache(lambda base: find_architecture(BaseFacts(base)))
    bases = {digest: architecture(model.base) for digest, model in plan.models.items()}
    named = set(map(preset_as_measured, pending))
    units = sum(work_units(item, bases[item.model]) for item in pending)
    compiled = {digest for digest, model in plan.models.items() if model.compile}
    measured = measured_rate(results, bases, compiled)
    source = "as its finished items took" if measured else "rate.* says what to reckon with"
    if measured is None and any(item.model in compiled for digest, item in first.items() if digest in done):
        source += ", as what its finished items took has compiling in it"
    if any(item.model in compiled for item in pending):
        source += "; each worker compiles each form of clips, which takes minutes more"
    return [
        f"to render: {len(pending):,} of {len(plan.items):,} items; {num_done:,} are done, {num_duplicates:,} have the "
        f"content of another, {num_invalid:,} cannot be rendered",
        f"they are {len(pending):,} clips of {sum(item.num_frames for item in pending):,} frames with "
        f"{len({item.model for item in pending}):,} models",
        _time(units, measured, rate, source),
        *(told(name) for name in PRESETS if name in named),
    ]


def _time(units: float, measured: float | None, rate: RenderRate, source: str) -> str:
    hours = units * (measured or rate.seconds_per_unit) / rate.num_workers / 3600
    price = cost(hours, rate.num_workers, rate.usd_per_hour)
    workers = f"{rate.num_workers} worker{'s' if rate.num_workers > 1 else ''}"
    return f"time: {duration(hours)} on {workers}{price} ({source})"
