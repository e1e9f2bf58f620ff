"""The worker of the animate job: keeps one base in memory, swaps models in and out, and commits clip after clip.

While the UNet computes, the next model's files are read ahead and the clips before are encoded and written. An item's
failure is its result; what is out of memory is tried again in half the batch.
"""

import gc
import hashlib
import json
import logging
import os
import platform
import time
from collections import defaultdict, deque
from collections.abc import Container, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError

from animatediff import storage
from animatediff.errors import UserError
from animatediff.rendering.animator import Animator, Clip
from animatediff.rendering.catalog.catalog import Item
from animatediff.rendering.catalog.entries import Model, Settings
from animatediff.rendering.formats import Format
from animatediff.rendering.outputs import encode
from animatediff.rendering.results import clip_files
from animatediff.rendering.results.ledger import describe, read_item, result_of, write_item
from animatediff.rendering.results.result import Result
from animatediff.storage.full import is_full
from pipelines.stages.animate.dispatch import MAX_DEATHS, Lease
from pipelines.terminal.failures import is_loss

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 2
"""Times that an item is tried which fails with anything but an error that says what is wrong with it."""
# Clips that wait for encoding: more would only fill the memory while the disk is slow.
_MAX_WAITING = 4
_OUT_OF_MEMORY = "out of memory with a single clip in the batch: use smaller or fewer frames, or a larger device"


@dataclass(frozen=True)
class RenderSpec:
    """What the workers need to know."""

    output_uri: str
    device: str
    batch_size: int
    formats: tuple[Format, ...]
    crf: int
    max_models: int | None
    max_memory_gb: float | None


class RenderSlices:
    """Render the slices that tickets stand for.

    Raises:
        UserError: the device cannot be used. The job ends if that is so at its start; a worker that is started again
            on such a device does no more.
    """

    def __init__(self, dispatcher: Any, spec: RenderSpec) -> None:
        if fault := _fault(spec.device):
            raise UserError(f"its device cannot be used ({fault}): mend the node, or set use_gpu: false")
        self._dispatcher, self._spec = dispatcher, spec
        self._animator: Animator | None = None
        self._resident: tuple[object, ...] = ()
        self._models_seen: set[str] = set()
        self._batch_sizes: dict[object, int] = {}
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="encode")
        # Sums round by the number of threads, and Ray's workers differ in it: one makes equal items equal bytes.
        torch.set_num_threads(1)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """`id` (one ticket) -> `digest` and `error`, a row an item."""
        (ticket,) = (int(number) for number in batch["id"])
        # The next process of this actor has the same name, and loads what this one held.
        context = ray.get_runtime_context()
        lease: Lease | None = _answer(
            self._dispatcher.lease.remote(ticket, context.get_actor_id(), context.get_worker_id())
        )
        if lease:
            self._recycle(lease.slice.model)
        results = self._render(ticket, lease) if lease else []
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

    def _render(self, ticket: int, lease: Lease) -> list[Result]:
        """Return the results of a slice; each is committed when it is made."""
        settled = [self._settled(lease, item) for item in lease.slice.items]
        pending = [item for item, result in zip(lease.slice.items, settled, strict=True) if result is None]
        results = [self._finish(result) for result in settled if result]
        if not pending:
            return results
        if not self._begin(ticket, ()):
            return results
        start = time.monotonic()
        try:
            animator = self._load(lease)
        except Exception as error:
            logger.exception("model %s", lease.slice.model)
            self._leave_broken_device()
            failed = (self._failed(lease, item, describe(error), attempts=1) for item in pending)
            return results + [self._finish(result) for result in failed]
        load_s = (time.monotonic() - start) / len(pending)
        if lease.upcoming is not None and _resident(lease.upcoming) == self._resident:
            animator.prefetch(lease.upcoming)
        return results + list(self._clips(ticket, lease, animator, pending, load_s))

    def _settled(self, lease: Lease, item: Item) -> Result | None:
        """Return what is committed of an item already, or is to be, since workers die of it."""
        if done := read_item(self._spec.output_uri, item.digest):
            return done
        if reason := lease.given_up.get(item.digest):
            return self._failed(lease, item, reason, attempts=MAX_DEATHS)
        return None

    def _begin(self, ticket: int, items: Sequence[Item]) -> bool:
        """Tell what is begun with; False where it is not to be, or where nobody is left to tell."""
        return bool(_answer(self._dispatcher.begin.remote(ticket, [item.digest for item in items])))

    def _finish(self, result: Result) -> Result:
        self._dispatcher.finish.remote(result.digest, result.status)
        return result

    def _leave_broken_device(self) -> None:
        """End the process if its GPU answers no more: every item after would fail, and be told to be at fault."""
        if fault := _fault(self._spec.device):
            logger.error("the device fails whatever it is asked, so the worker ends and a new one goes on: %s", fault)
            os._exit(1)

    def _load(self, lease: Lease) -> Animator:
        if self._animator is None or self._resident != _resident(lease.model):
            self._animator = None  # both would not fit
            self._animator = Animator.for_model(lease.model, device=self._spec.device)
            self._resident = _resident(lease.model)
        self._models_seen.add(lease.slice.model)
        self._animator.load(lease.model)
        return self._animator

    def _clips(
        self, ticket: int, lease: Lease, animator: Animator, items: Sequence[Item], load_s: float
    ) -> Iterator[Result]:
        """Render the items, while the writer's thread encodes and commits those before."""
        waiting: deque[tuple[Item, Future[Result]]] = deque()
        for batch in self._batches(items, lease.suspects):
            while waiting and batch[0].digest in lease.suspects:  # nothing else is to be blamed for it
                yield self._finish(self._written(*waiting.popleft()))
            if not self._begin(ticket, [*(item for item, _ in waiting), *batch]):
                break
            for item, outcome, attempts in self._attempt(animator, batch):
                job = self._writer.submit(self._commit, lease, item, outcome, attempts=attempts, load_s=load_s)
                waiting.append((item, job))
            while len(waiting) > _MAX_WAITING:
                yield self._finish(self._written(*waiting.popleft()))
        while waiting:
            yield self._finish(self._written(*waiting.popleft()))

    def _batches(self, items: Sequence[Item], suspects: Container[str]) -> Iterator[list[Item]]:
        """Items that one call of the UNet can take; those that a worker died with last, and by themselves."""
        alike: dict[object, list[Item]] = defaultdict(list)
        for item in items:
            if item.digest not in suspects:
                alike[_shape(item)].append(item)
        for shape, group in alike.items():
            begun = 0
            while begun < len(group):  # the size may shrink meanwhile
                size = self._batch_size(shape)
                yield group[begun : begun + size]
                begun += size
        yield from ([item] for item in items if item.digest in suspects)

    def _batch_size(self, shape: object) -> int:
        return self._batch_sizes.get(shape, self._spec.batch_size)

    def _attempt(self, animator: Animator, batch: list[Item]) -> Iterator[tuple[Item, Clip | Exception, int]]:
        """Each item with its clip or why it has none, and the attempts that this took."""
        outcome = self._try(animator, batch)
        if isinstance(outcome, list):
            yield from ((item, clip, 1) for item, clip in zip(batch, outcome, strict=True))
            return
        if parts := self._smaller(batch, outcome):
            for part in parts:
                yield from self._attempt(animator, part)
            return
        attempts = 1
        while not isinstance(outcome, (list, UserError)) and attempts < MAX_ATTEMPTS:
            outcome, attempts = self._try(animator, batch), attempts + 1
        yield batch[0], outcome[0] if isinstance(outcome, list) else outcome, attempts

    def _smaller(self, batch: list[Item], failure: Exception) -> list[list[Item]]:
        """Return what to try in place of a batch that failed.

        Halves where memory was short, else each item by itself.
        """
        shape = _shape(batch[0])
        size = self._batch_size(shape)
        if _is_out_of_memory(failure) and size > 1:
            self._batch_sizes[shape] = max(1, min(size, len(batch)) // 2)
            logger.warning("out of memory with %d clips: going on with %d", size, self._batch_sizes[shape])
            middle = (len(batch) + 1) // 2
            return [half for half in (batch[:middle], batch[middle:]) if half]
        return [[item] for item in batch] if len(batch) > 1 else []

    def _try(self, animator: Animator, batch: list[Item]) -> list[Clip | UserError] | Exception:
        try:
            return animator.render_batch(batch, max_batch=self._batch_size(_shape(batch[0])))
        except Exception as error:
            if not isinstance(error, UserError):
                logger.exception("items %s", [item.digest for item in batch])
            failure = error.with_traceback(None)  # whose frames hold the tensors
        gc.collect()
        self._leave_broken_device()
        return failure

    def _commit(self, lease: Lease, item: Item, outcome: Clip | Exception, *, attempts: int, load_s: float) -> Result:
        """Write an item's files, and then its result."""
        attempts += 1 if item.digest in lease.suspects else 0
        if isinstance(outcome, Exception):
            text = _OUT_OF_MEMORY if _is_out_of_memory(outcome) else describe(outcome)
            return self._failed(lease, item, text, attempts=attempts)
        seconds = {"load": load_s, **outcome.seconds, "encode": 0.0, "write": 0.0}
        files, hashes, sizes = self._write(lease, item, outcome, seconds)
        return self._committed(
            lease,
            item,
            status="ok",
            warning=outcome.warning,
            attempts=attempts,
            seconds={stage: round(taken, 4) for stage, taken in seconds.items()},
            files=files,
            sha256=hashes,
            num_bytes=sizes,
        )

    def _write(
        self, lease: Lease, item: Item, clip: Clip, seconds: dict[str, float]
    ) -> tuple[dict[str, str], dict[str, str], dict[str, int]]:
        """Write a clip's files; their paths, hashes and sizes by format."""
        spec, stem = self._spec, f"clips/{item.digest[:16]}"
        paths: dict[str, str] = {}
        hashes: dict[str, list[str]] = defaultdict(list)
        sizes: dict[str, int] = defaultdict(int)
        metadata = _metadata(item, lease.hashes, self._versions)
        started = time.monotonic()
        for each in encode(spec.formats, clip.frames, clip.latents, fps=item.fps, crf=spec.crf, metadata=metadata):
            encoded = time.monotonic()
            storage.write_bytes(storage.join(spec.output_uri, stem + each.suffix), each.data)
            paths[each.kind] = stem + each.suffix.partition("/")[0] if each.kind == "png" else stem + each.suffix
            hashes[each.kind].append(hashlib.sha256(each.data).hexdigest())
            sizes[each.kind] += len(each.data)
            seconds["encode"] += encoded - started
            started = time.monotonic()
            seconds["write"] += started - encoded
        # The poster is the first that is made, and the last that anybody asks for.
        paths["poster"] = paths.pop("poster")
        return paths, {kind: clip_files.joined(found) for kind, found in hashes.items()}, dict(sizes)

    def _written(self, item: Item, job: Future[Result]) -> Result:
        """Return what was committed; what could not be written is told all the same."""
        try:
            return job.result()
        except Exception as error:
            logger.exception("item %s", item.digest)
            if is_full(error):  # all that is rendered after it would be lost, too
                self._dispatcher.stop.remote(describe(error))
            return result_of(item, status="failed", error=describe(error))

    def _failed(self, lease: Lease, item: Item, error: str, *, attempts: int) -> Result:
        return self._committed(lease, item, status="failed", error=error, attempts=attempts)

    @cached_property
    def _versions(self) -> dict[str, str]:
        packages = {"animatediff": "animatediff-ray", "torch": "torch", "diffusers": "diffusers"}
        name = torch.cuda.get_device_name() if self._spec.device == "cuda" else platform.machine()
        return {package: version(project) for package, project in packages.items()} | {"device": name}

    def _committed(self, lease: Lease, item: Item, **outcome: Any) -> Result:
        result = result_of(item, model_hashes=dict(lease.hashes), versions=self._versions, **outcome)
        write_item(self._spec.output_uri, result)
        return result


def _answer(reference: Any) -> Any:
    """Return what the dispatcher says; None where it is lost: a new one goes on with what is not committed."""
    try:
        return ray.get(reference)
    except RayError as error:
        if not is_loss(error):
            raise
        logger.warning("the dispatcher is lost: %s", error)
        return None


def _resident(model: Model) -> tuple[object, ...]:
    """Return what stays in memory while models change."""
    return model.base, model.motion_module, model.noise_schedule


def _shape(item: Item) -> tuple[object, ...]:
    """Return what items must have in common to be rendered in one batch."""
    own = {"negative_prompt", "fps"}
    return tuple(getattr(item, name) for name in Settings.model_fields if name not in own)


def _is_out_of_memory(error: Exception) -> bool:
    says_so = "not enough memory" in str(error) or "can't allocate memory" in str(error)  # PyTorch on a CPU
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or says_so


def _metadata(item: Item, hashes: Mapping[str, str], versions: Mapping[str, str]) -> dict[str, str]:
    """Return what a clip's files say of themselves."""
    return {
        "prompt": item.prompt,
        "negative_prompt": item.negative_prompt,
        "seed": str(item.seed),
        "model": item.entry,
        "settings": item.model_dump_json(include=Settings.model_fields.keys() - {"negative_prompt"}),
        "digest": item.digest,
        "model_hashes": json.dumps(dict(hashes)),
        "versions": json.dumps(dict(versions)),
    }


def _fault(device: str) -> str | None:
    """Why a device does not compute, if it does not, after memory that is free was given back to it.

    After a fault in a kernel every call of a process fails, whatever it is.
    """
    try:
        if device == "cuda":
            torch.cuda.empty_cache()
        torch.ones(2, device=device).sum().item()
    except torch.OutOfMemoryError:
        return None
    except Exception as error:  # also an AssertionError, where PyTorch was built without CUDA
        return describe(error)
    return None


def _memory_gb() -> float:
    """Return what the process holds in memory, in GB; 0 where the system does not say."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e9 if statm.exists() else 0.0
