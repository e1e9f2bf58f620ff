"""A worker of the animate job: an actor that keeps one base in memory and renders the slices that tickets stand for.

Which slice it gets, and why each item is rendered once, is told in `dispatch`; which items share a batch in
`batching`; what is written of them in `commit`. While the UNet computes, the next model's files are read ahead, and
the clips before are encoded and written by a thread. An item's failure is its result.
"""

import logging
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError

from animatediff import storage
from animatediff.errors import UserError
from animatediff.rendering.animator import Animator
from animatediff.rendering.catalog.entries import ModelFiles
from animatediff.rendering.catalog.item import Item
from animatediff.rendering.formats import Format
from animatediff.rendering.results.ledger import error_line, make_result
from animatediff.rendering.results.result import Result
from animatediff.storage.full import is_full
from pipelines.stages.animate.batching import Batcher
from pipelines.stages.animate.commit import Committer
from pipelines.stages.animate.dispatch import Assignment
from pipelines.terminal.lost_processes import is_lost_process

logger = logging.getLogger(__name__)

# Clips that wait for encoding: more would only fill the memory while the disk is slow.
_MAX_WAITING = 4


@dataclass(frozen=True)
class RenderSpec:
    """What the driver tells every worker."""

    output_uri: str
    device: str
    """Either `cuda` or `cpu`."""
    batch_size: int
    """Clips a batch, as far as the memory holds them."""
    formats: tuple[Format, ...]
    crf: int
    """Quality of MP4; less is better."""
    max_models: int | None
    """Models that a process renders with before it ends; see `RecycleConfig`."""
    max_memory_gb: float | None
    """Memory beyond which a process ends before its next slice; see `RecycleConfig`."""

    @property
    def resources(self) -> dict[str, float]:
        """What one worker reserves, by Ray's names."""
        return {"CPU": 1, "GPU": 1} if self.device == "cuda" else {"CPU": 1}


class RenderSlices:
    """The actor: a ticket in, the results of its slice out.

    Raises:
        UserError: the device cannot be used. The job ends if that is so at its start; a worker that is started again
            on such a device does no more.
    """

    def __init__(self, dispatcher: Any, spec: RenderSpec) -> None:
        if fault := _device_fault(spec.device):
            raise UserError(f"its device cannot be used ({fault}): mend the node, or set use_gpu: false")
        storage.use_patient_retries()
        self._dispatcher, self._spec = dispatcher, spec
        self._animator: Animator | None = None
        self._resident_key: tuple[object, ...] = ()
        self._models_seen: set[str] = set()
        self._batcher = Batcher(spec.batch_size, self._exit_if_device_is_broken)
        self._committer = Committer(spec.output_uri, spec.formats, spec.crf, spec.device)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="encode")
        # Sums round by the number of threads, and Ray's workers differ in it: one makes equal items equal bytes.
        torch.set_num_threads(1)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Turn `id`, one ticket, into `digest` and `error`, a row an item."""
        (ticket,) = (int(number) for number in batch["id"])
        # The next process of this actor has the same name, and loads what this one held.
        context = ray.get_runtime_context()
        assignment: Assignment | None = _get_or_none_if_lost(
            self._dispatcher.assign.remote(ticket, context.get_actor_id(), context.get_worker_id())
        )
        if assignment:
            self._recycle(assignment.slice.model_digest)
        results = self._render(ticket, assignment) if assignment else []
        return {
            "digest": [result.digest for result in results],
            "error": [result.error or "" for result in results],
        }

    def _recycle(self, model: str) -> None:
        """End the process where it has grown old; Ray starts a new one, which takes the ticket over."""
        spec, memory_gb = self._spec, _memory_gb()
        is_new = model not in self._models_seen
        is_old = spec.max_models is not None and is_new and len(self._models_seen) >= spec.max_models
        is_large = spec.max_memory_gb is not None and self._models_seen and memory_gb > spec.max_memory_gb
        if is_old or is_large:
            logger.info("the worker ends after %d models, at %.1f GB", len(self._models_seen), memory_gb)
            os._exit(0)

    def _render(self, ticket: int, assignment: Assignment) -> list[Result]:
        """Return the results of a slice; each is committed when it is made."""
        existing_results = [self._committer.existing_result(assignment, item) for item in assignment.slice.items]
        pending = [
            item for item, result in zip(assignment.slice.items, existing_results, strict=True) if result is None
        ]
        results = [self._tell_finish(result) for result in existing_results if result]
        if not pending:
            return results
        if not self._tell_begin(ticket, ()):
            return results
        start = time.monotonic()
        try:
            animator = self._load(assignment)
        except Exception as error:
            logger.exception("model %s", assignment.slice.model_digest)
            self._exit_if_device_is_broken()
            failed = (
                self._committer.commit_failure(assignment, item, error_line(error), attempts=1) for item in pending
            )
            return results + [self._tell_finish(result) for result in failed]
        load_s = (time.monotonic() - start) / len(pending)
        if assignment.upcoming is not None and _resident_key(assignment.upcoming) == self._resident_key:
            animator.prefetch(assignment.upcoming)
        return results + list(self._render_and_commit(ticket, assignment, animator, pending, load_s))

    def _load(self, assignment: Assignment) -> Animator:
        if self._animator is None or self._resident_key != _resident_key(assignment.model):
            self._animator = None  # both would not fit
            self._animator = Animator.for_model(assignment.model, device=self._spec.device)
            self._resident_key = _resident_key(assignment.model)
        self._models_seen.add(assignment.slice.model_digest)
        self._animator.load(assignment.model)
        return self._animator

    def _render_and_commit(
        self, ticket: int, assignment: Assignment, animator: Animator, items: Sequence[Item], load_s: float
    ) -> Iterator[Result]:
        """Render the items, while the writer's thread encodes and commits those before."""
        waiting: deque[tuple[Item, Future[Result]]] = deque()
        for batch in self._batcher.batches(items, assignment.crash_suspects):
            while waiting and batch[0].digest in assignment.crash_suspects:  # nothing else is to be blamed for it
                yield self._tell_finish(self._committed_result(*waiting.popleft()))
            if not self._tell_begin(ticket, [*(item for item, _ in waiting), *batch]):
                break
            for item, clip_or_error, attempts in self._batcher.render(animator, batch):
                commit = self._committer.commit
                job = self._writer.submit(commit, assignment, item, clip_or_error, attempts=attempts, load_s=load_s)
                waiting.append((item, job))
            while len(waiting) > _MAX_WAITING:
                yield self._tell_finish(self._committed_result(*waiting.popleft()))
        while waiting:
            yield self._tell_finish(self._committed_result(*waiting.popleft()))

    def _committed_result(self, item: Item, job: Future[Result]) -> Result:
        """Return what was committed; what could not be written has a result all the same, which only the driver gets.

        A full storage stops the whole job, as all that is rendered after it would be lost, too.
        """
        try:
            return job.result()
        except Exception as error:
            logger.exception("item %s", item.digest)
            if is_full(error):
                self._dispatcher.stop.remote(error_line(error))
            return make_result(item, status="failed", error=error_line(error))

    def _tell_begin(self, ticket: int, items: Sequence[Item]) -> bool:
        """Ask to begin with items, or to load the model; False where the job stops, or the dispatcher is lost."""
        return bool(_get_or_none_if_lost(self._dispatcher.begin.remote(ticket, [item.digest for item in items])))

    def _tell_finish(self, result: Result) -> Result:
        self._dispatcher.finish.remote(result.digest, result.status, result.seconds)
        return result

    def _exit_if_device_is_broken(self) -> None:
        """End the process if its GPU answers no more: every item after would fail, and be told to be at fault."""
        if fault := _device_fault(self._spec.device):
            logger.error("the device fails whatever it is asked, so the worker ends and a new one goes on: %s", fault)
            os._exit(1)


def _get_or_none_if_lost(reference: Any) -> Any:
    """Return what the dispatcher says; None where it is lost: a new one goes on with what is not committed."""
    try:
        return ray.get(reference)
    except RayError as error:
        if not is_lost_process(error):
            raise
        logger.warning("the dispatcher is lost: %s", error)
        return None


def _resident_key(model: ModelFiles) -> tuple[object, ...]:
    """Return what stays in memory while models change."""
    return model.base, model.motion_module, model.noise_schedule


def _device_fault(device: str) -> str | None:
    """Return why a device does not compute, after memory that is free was given back to it; None if it does.

    After a fault in a kernel every call of a process fails, whatever it is.
    """
    try:
        if device == "cuda":
            torch.cuda.empty_cache()
        torch.ones(2, device=device).sum().item()
    except torch.OutOfMemoryError:
        return None
    except Exception as error:  # also an AssertionError, where PyTorch was built without CUDA
        return error_line(error)
    return None


def _memory_gb() -> float:
    """Return what the process holds in memory, in GB; 0 where the system does not say."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e9 if statm.exists() else 0.0
