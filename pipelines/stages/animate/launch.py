"""Animate on Ray workers: actors that keep one base in memory take slices of a catalog, a ticket for each."""

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from animatediff import storage
from animatediff.errors import UserError
from animatediff.rendering.catalog.catalog import RenderPlan
from animatediff.rendering.catalog.item import Item
from animatediff.rendering.catalog.model_identity import base_folder
from animatediff.rendering.results.ledger import Ledger
from animatediff.rendering.results.reports import write_reports
from animatediff.weights.layouts.architectures import PARTS
from pipelines.cluster.runtime import actor_on_driver_node, connect, num_cpus, num_gpus, wants_gpus
from pipelines.cluster.worker_start import waiting_for_workers
from pipelines.settings import AnimateConfig
from pipelines.stages.animate.dispatch import Dispatcher, cut_into_slices
from pipelines.stages.animate.precision import warn_of_slow_nodes
from pipelines.stages.animate.reports import InterimReports
from pipelines.stages.animate.tally import Tally
from pipelines.stages.animate.worker import RenderSlices, RenderSpec
from pipelines.terminal.deaths import death_of
from pipelines.terminal.failures import DroppedBlockReasons, as_user_errors, describe_failure
from pipelines.terminal.lost_processes import LostProcess, find_lost_process
from pipelines.terminal.progress import Progress
from pipelines.tracking.metrics import JobMetrics

logger = logging.getLogger(__name__)

# Bound on repeats of one slice. Deaths by its items, while their model is loaded, and to make room stay below it; more
# means broken machines.
_MAX_TASK_RETRIES = 50
# Deaths of one worker besides those to make room, which are one a ticket at most: a worker that dies as it starts must
# not be started for ever.
_MAX_CRASHES = 1000
# A new dispatcher goes on with what is not committed; the workers load their models anew for it.
_MAX_DISPATCHERS = 5
_DISPATCHER_LOST = "the process that shares out the work was lost"
_WHAT_IS_KEPT = "what is rendered is kept, and the same command goes on"
_MEMORY_FIELDS = "num_actors or batch_size"
# What is younger may be another driver's, which is still at work.
_DRAFT_AGE_S = 3600.0
_FOLLOW_S = 2.0
_BATCH_SIZES = {"cpu": 1, "cuda": 8}
# What a worker on a CPU takes before it has a base, and how much larger than its files a base is with its activations:
# Stable Diffusion 1.5 has 2.7 GB in half precision, and takes some 8 GB for clips of 512 x 512 in single precision.
_WORKER_BYTES, _TIMES_THE_BASE = 1e9, 3


def pending_items(plan: RenderPlan, finished: set[str]) -> list[Item]:
    """Return the items that can be rendered and are not, one of each digest: that of the highest priority."""
    chosen: dict[str, Item] = {}
    for item in plan.items:
        if item.digest not in chosen or item.priority > chosen[item.digest].priority:
            chosen[item.digest] = item
    return [
        item
        for item in plan.items
        if item is chosen[item.digest] and item.digest not in finished and item.digest not in plan.invalid
    ]


def render_pending(config: AnimateConfig, plan: RenderPlan, pending: list[Item], ledger: Ledger) -> None:
    """Render items on the cluster, with progress and reports on the way.

    Args:
        config: the job's.
        plan: what the catalog expands to.
        pending: items of distinct digests.
        ledger: of the output folder; it learns what is written.

    Raises:
        UserError: the work ended before its end; what is rendered is kept.
    """
    connect()
    use_gpu = wants_gpus(config.use_gpu)
    device = "cuda" if use_gpu else "cpu"
    output_uri = storage.absolute(config.output_uri)
    spec = RenderSpec(
        output_uri=output_uri,
        device=device,
        batch_size=config.batch_size or _BATCH_SIZES[device],
        formats=config.formats,
        crf=config.crf,
        max_models=config.recycle.max_models,
        max_memory_gb=config.recycle.max_memory_gb,
    )
    if not use_gpu:
        warn_of_slow_nodes({plan.models[item.model].precision for item in pending})
    storage.delete_drafts(output_uri, older_than_s=_DRAFT_AGE_S)  # of processes that were killed
    ledger.delete_results(item.digest for item in pending)
    reports = InterimReports(
        lambda: write_reports(output_uri, ledger.results(plan.items, plan.invalid, only_known=True))
    )
    num_actors = config.num_actors or _default_actors(plan, use_gpu)
    with (
        JobMetrics("animate", output_uri) as metrics,
        Progress("animate", total=len(pending), unit="item") as progress,
    ):
        num_invalid = sum(item.digest in plan.invalid for item in plan.items)
        metrics.count("animatediff_animate_items_total", num_invalid, status="invalid")
        job = _RenderJob(plan, spec, num_actors, ledger, reports, progress, metrics)
        left = pending
        for number in range(1, _MAX_DISPATCHERS + 1):
            lost = job.render(left)
            ledger.refresh()
            left = [item for item in left if not ledger.is_written(item.digest)]
            if lost is None or not left:
                return
            if number == _MAX_DISPATCHERS:
                hint = f"where memory is short, lower {_MEMORY_FIELDS}"
                raise UserError(f"{_DISPATCHER_LOST} {number} times: {lost.text}; {_WHAT_IS_KEPT}; {hint}")
            logger.warning("%s: %s; a new one goes on with the %d items left", _DISPATCHER_LOST, lost.text, len(left))


@dataclass(frozen=True)
class _RenderJob:
    """All that stays the same while one dispatcher follows another."""

    plan: RenderPlan
    spec: RenderSpec
    num_actors: int
    ledger: Ledger
    reports: InterimReports
    progress: Progress
    metrics: JobMetrics

    def render(self, items: list[Item]) -> LostProcess | None:
        """Render items, as far as the dispatcher lives.

        Returns:
            What became of the dispatcher, if it was lost.

        Raises:
            UserError: no worker can start, or all are lost, or the output's storage is full.
        """
        slices = cut_into_slices(items, self.num_actors)
        # It answers in microseconds and must not wait for a CPU. It dies with the job.
        plan = self.plan
        dispatcher = actor_on_driver_node(
            Dispatcher, slices, plan.models, plan.file_hashes, plan.network_hashes, death_of
        )
        number = min(self.num_actors, len(slices))
        needs, classes = self.spec.resources, (RenderSlices.__name__,)
        with (
            DroppedBlockReasons() as dropped,
            _polling_progress(dispatcher, self.progress, self.metrics, self.progress.total - len(items)) as poller,
            as_user_errors(what_is_kept=_WHAT_IS_KEPT, memory_fields=_MEMORY_FIELDS),
            waiting_for_workers(
                "render worker", number, needs, classes=classes, memory_fields=_MEMORY_FIELDS
            ) as end_waiting,
        ):
            for row in _ticket_dataset(len(slices), dispatcher, self.spec, number).iter_rows():
                end_waiting()
                self.ledger.note_outcome(row["digest"], row["error"])
                self.reports.write_if_due()
        if dropped.reason:
            self.ledger.no_result = f"no result: {dropped.reason}"
        if poller.lost is None and (reason := ray.get(dispatcher.stopped.remote())):
            raise UserError(reason)
        return poller.lost


def _default_actors(plan: RenderPlan, use_gpu: bool) -> int:
    """Return one actor a GPU, or one a CPU as far as the memory goes."""
    if use_gpu:
        return max(1, num_gpus())
    base_bytes = max(_num_bytes(uri) for uri in {model.base for model in plan.models.values()})
    fitting = ray.cluster_resources().get("memory", 0) // (_WORKER_BYTES + _TIMES_THE_BASE * base_bytes)
    return max(1, min(num_cpus(), int(fitting)))


def _num_bytes(base_uri: str) -> int:
    folder = Path(base_folder(base_uri))
    return sum(file.stat().st_size for part in PARTS for file in folder.glob(f"{part}/*") if file.is_file())


class _ProgressPoller(threading.Thread):
    """Shows how far the workers are, as the rows of a slice come only when all of it is done."""

    def __init__(self, dispatcher: ActorHandle, progress: Progress, metrics: JobMetrics, before: int) -> None:
        super().__init__(daemon=True)
        self._dispatcher, self._progress, self._metrics, self._before = dispatcher, progress, metrics, before
        self.ended = threading.Event()
        self.lost: LostProcess | None = None

    def run(self) -> None:
        """Ask until the work ends or the dispatcher does."""
        is_last, told = False, Tally(Counter(), Counter(), 0)
        while not is_last:
            is_last = self.ended.wait(_FOLLOW_S)
            try:
                tally: Tally = ray.get(self._dispatcher.tally.remote())
            except RayError as error:
                self.lost = find_lost_process(error) or LostProcess(describe_failure(error))
                ray.kill(self._dispatcher)  # one that only does not answer must not come back
                return
            done = self._before + tally.items.total()
            new = done - self._progress.num_done
            self._progress.update(new, failed=tally.items["failed"])
            count_for_prometheus(tally - told, self._metrics)
            if new:
                self._metrics.progress(done, self._progress.total)
            told = tally


@contextmanager
def _polling_progress(
    dispatcher: ActorHandle, progress: Progress, metrics: JobMetrics, before: int
) -> Iterator[_ProgressPoller]:
    poller = _ProgressPoller(dispatcher, progress, metrics, before)
    poller.start()
    try:
        yield poller
    finally:
        poller.ended.set()
        poller.join()


def _ticket_dataset(num_tickets: int, dispatcher: ActorHandle, spec: RenderSpec, num_actors: int) -> ray.data.Dataset:
    """Return rows of `digest` and `error` of the items of finished slices; a lost slice has none."""
    # In memory from the start: what must be read first would wait for a CPU that the actors have taken.
    tickets = ray.data.from_items([{"id": i} for i in range(num_tickets)], override_num_blocks=num_tickets)
    # A slice that kills its actor must not end the others, and a slow one on a CPU is not a hang.
    tickets.context.max_errored_blocks = -1
    tickets.context.execution_no_progress_timeout_s = -1
    return tickets.map_batches(
        RenderSlices,
        fn_constructor_args=(dispatcher, spec),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=num_actors, max_tasks_in_flight_per_actor=1),
        num_cpus=spec.resources["CPU"],
        num_gpus=spec.resources.get("GPU", 0),
        max_task_retries=_MAX_TASK_RETRIES,
        max_restarts=num_tickets + _MAX_CRASHES,
    )


def count_for_prometheus(done: Tally, metrics: JobMetrics) -> None:
    """Count what was done since the last time, for Prometheus."""
    for status, number in done.items.items():
        metrics.count("animatediff_animate_items_total", number, status=status)
    for stage, seconds in done.seconds.items():
        metrics.count("animatediff_animate_stage_seconds_total", seconds, stage=stage)
    metrics.count("animatediff_animate_model_swaps_total", done.num_swaps)
