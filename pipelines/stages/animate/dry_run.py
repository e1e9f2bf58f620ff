"""A dry run of the animate job: what it would render, and how long that takes."""

from collections.abc import Collection, Iterable, Mapping
from itertools import islice

from animatediff.rendering.catalog.catalog import Item, Plan
from animatediff.rendering.results.result import Result
from pipelines.settings import RenderRate
from pipelines.terminal.hours import cost, duration

_MEASURED = 10_000  # finished items that are looked at: more tell no more


def estimate(plan: Plan, done: Collection[str], rate: RenderRate, results: Iterable[Result] = ()) -> list[str]:
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
    units = sum(map(work_units, pending))
    return [
        f"to render: {len(pending):,} of {len(plan.items):,} items; {num_done:,} are done, {num_duplicates:,} have the "
        f"content of another, {num_invalid:,} cannot be rendered",
        f"they are {len(pending):,} clips of {sum(item.num_frames for item in pending):,} frames with "
        f"{len({item.model for item in pending}):,} models",
        _time(units, measured_rate(results), rate),
    ]


def work_units(item: Item) -> float:
    """Return the work of an item: millions of pixels over all frames and steps.

    Frames in several windows count as often as they are computed, and without guidance, which takes each step's UNet
    call twice, they count half.
    """
    passes = 1.0 if item.guidance_scale > 1 else 0.5
    if item.context is not None and item.num_frames > item.context.length:
        passes *= item.context.length / (item.context.length - item.context.overlap)
    return passes * item.width * item.height / 1e6 * item.num_frames * item.num_inference_steps


def measured_rate(results: Iterable[Result]) -> float | None:
    """Return the seconds that finished items took for a unit of work; None where there are none."""
    finished = [result for result in islice(results, _MEASURED) if result.status == "ok" and result.seconds]
    units = sum(map(work_units, finished))
    return sum(_busy_s(result.seconds) for result in finished) / units if units else None


def _busy_s(seconds: Mapping[str, float]) -> float:
    """Return how long a clip keeps its worker: it is encoded and written while the next ones are computed."""
    beside = sum(seconds.get(stage, 0.0) for stage in ("encode", "write"))
    return max(beside, sum(seconds.values()) - beside)


def _time(units: float, measured: float | None, rate: RenderRate) -> str:
    hours = units * (measured or rate.seconds_per_unit) / rate.num_workers / 3600
    source = "as its finished items took" if measured else "rate.* says what to reckon with"
    price = cost(hours, rate.num_workers, rate.usd_per_hour)
    workers = f"{rate.num_workers} worker{'s' if rate.num_workers > 1 else ''}"
    return f"time: {duration(hours)} on {workers}{price} ({source})"
