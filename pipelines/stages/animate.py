"""Animate on Ray workers: actors that keep one base in memory take slices of a catalog, a ticket for each."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, RayActorError

from animatediff import storage
from animatediff.errors import UserError
from animatediff.rendering.catalog import Item, Plan, base_folder
from animatediff.weights.architectures import PARTS
from pipelines.progress import Progress
from pipelines.runtime import beside_the_driver, connect, num_cpus, num_gpus, wants_gpus
from pipelines.settings import AnimateConfig
from pipelines.stages.dispatch import Dispatcher, slices_of
from pipelines.stages.ledger import Ledger
from pipelines.stages.render import RenderSlices, RenderSpec
from pipelines.stages.reports import InterimReports, write_reports

# A worker dies at most so often with each of a slice's items, or while it loads their model, or to make room; beyond
# these it is the machines' fault.
_MAX_TASK_RETRIES = 50
# Deaths of one worker besides those to make room, which are one a ticket at most: a worker that dies as it starts must
# not be started for ever.
_MAX_CRASHES = 1000
_DISPATCHER_LOST = (
    "the process that shares out the work has died, perhaps for want of memory on the job's machine: run the job "
    "again, which goes on from what is there"
)
# What is younger may be another driver's, which is still at work.
_DRAFT_AGE_S = 3600.0
_FOLLOW_S = 2.0
_BATCH_SIZES = {"cpu": 1, "cuda": 8}
# What a worker on a CPU takes before it has a base, and how much larger than its files a base is with its activations:
# Stable Diffusion 1.5 has 2.7 GB in half precision, and takes some 8 GB for clips of 512 x 512 in single precision.
_WORKER_BYTES, _TIMES_THE_BASE = 1e9, 3


def pending_items(plan: Plan, finished: set[str]) -> list[Item]:
    """The items that can be rendered and are not, one of each digest: that of the highest priority."""
    chosen: dict[str, Item] = {}
    for item in plan.items:
        if item.digest not in chosen or item.priority > chosen[item.digest].priority:
            chosen[item.digest] = item
    return [
        item
        for item in plan.items
        if item is chosen[item.digest] and item.digest not in finished and item.digest not in plan.invalid
    ]


def render_pending(config: AnimateConfig, plan: Plan, pending: list[Item], ledger: Ledger) -> None:
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
    storage.delete_drafts(output_uri, older_than_s=_DRAFT_AGE_S)  # of processes that were killed
    ledger.forget(item.digest for item in pending)
    reports = InterimReports(
        lambda: write_reports(output_uri, ledger.results(plan.items, plan.invalid, only_known=True))
    )
    num_actors = config.num_actors or _default_actors(plan, use_gpu)
    slices = slices_of(pending, num_actors)
    # It answers in microseconds and must not wait for a CPU. It dies with the job.
    dispatcher = beside_the_driver(Dispatcher, slices, plan.models, plan.hashes)
    with _following(dispatcher, len(pending)):
        try:
            for row in _dataset(len(slices), dispatcher, spec, num_actors).iter_rows():
                ledger.wrote(row["digest"], row["error"])
                reports.maybe()
        except ActorDiedError as error:  # as they started, else the others would have gone on
            reason = str(error).strip().splitlines()[-1].removeprefix(f"{UserError.__module__}.UserError: ")
            raise UserError(f"no worker can start: {reason}") from error
    ledger.look_again()


def _default_actors(plan: Plan, use_gpu: bool) -> int:
    """One a GPU, or one a CPU as far as the memory goes."""
    if use_gpu:
        return max(1, num_gpus())
    base = max(_num_bytes(uri) for uri in {model.base for model in plan.models.values()})
    fitting = ray.cluster_resources().get("memory", 0) // (_WORKER_BYTES + _TIMES_THE_BASE * base)
    return max(1, min(num_cpus(), int(fitting)))


def _num_bytes(base_uri: str) -> int:
    folder = Path(base_folder(base_uri))
    return sum(file.stat().st_size for part in PARTS for file in folder.glob(f"{part}/*") if file.is_file())


@contextmanager
def _following(dispatcher: ActorHandle, total: int) -> Iterator[None]:
    """Show how far the workers are, as the rows of a slice come only when all of it is done.

    Raises:
        UserError: the dispatcher has died meanwhile; the workers could not go on then.
    """
    ended, lost = threading.Event(), threading.Event()

    def follow(progress: Progress) -> None:
        shown = 0
        while True:
            is_last = ended.wait(_FOLLOW_S)
            try:
                finished: Counter[str] = ray.get(dispatcher.finished.remote())
            except RayActorError:
                lost.set()
                return
            progress.update(finished.total() - shown, failed=finished["failed"])
            shown = finished.total()
            if is_last:
                return

    with Progress("animate", total=total, unit="item") as progress:
        follower = threading.Thread(target=follow, args=(progress,), daemon=True)
        follower.start()
        try:
            yield
        finally:
            ended.set()
            follower.join()
        if lost.is_set():
            raise UserError(_DISPATCHER_LOST)


def _dataset(num_tickets: int, dispatcher: ActorHandle, spec: RenderSpec, num_actors: int) -> ray.data.Dataset:
    """Rows of `digest` and `error` of the items of finished slices; a lost slice has none."""
    # In memory from the start: what must be read first would wait for a CPU that the actors have taken.
    tickets = ray.data.from_items([{"id": i} for i in range(num_tickets)], override_num_blocks=num_tickets)
    # A slice that kills its actor must not end the others, and a slow one on a CPU is not a hang.
    tickets.context.max_errored_blocks = -1
    tickets.context.execution_no_progress_timeout_s = -1
    return tickets.map_batches(
        RenderSlices,
        fn_constructor_args=(dispatcher, spec),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(num_actors, num_tickets), max_tasks_in_flight_per_actor=1),
        num_cpus=1,
        num_gpus=1 if spec.device == "cuda" else 0,
        max_task_retries=_MAX_TASK_RETRIES,
        max_restarts=num_tickets + _MAX_CRASHES,
    )
