"""What a job waits for until its first result: told at once, and every few seconds, with what the cluster lacks.

Ray starts processes that it has ended to free memory anew for ever: where none of a job gets as far as to work, the
job ends here.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import ray
from ray._private.state import actors
from ray.exceptions import RayError

from animatediff.errors import UserError
from pipelines.terminal import interrupts
from pipelines.terminal.deaths import last_death, num_ended_for_memory

logger = logging.getLogger(__name__)

_EVERY_S, _LATER_S = 10.0, 60.0
# Processes that Ray has ended for memory, and the time without a single worker, after which the job ends. What other
# jobs take may become free before; Ray ends two processes a second where nothing does.
_MOST_ENDED, _WITHOUT_WORKERS_S = 20, 60.0


@contextmanager
def waiting_for_workers(
    what: str, number: int, needs: Mapping[str, float], *, classes: tuple[str, ...], memory_fields: str
) -> Iterator[Callable[[], None]]:
    """Tell how many workers are up, until there is a result.

    Args:
        what: their name in the singular, as `render worker`.
        number: how many are wanted.
        needs: the resources that each takes.
        classes: names of their actors' classes; empty for tasks, which are not counted.
        memory_fields: the settings that decide how much memory the job takes.

    Yields:
        What to call when a result is there: nothing more is told from the first on.

    Raises:
        UserError: the machines' memory lets no worker start.
    """
    ended = threading.Event()
    with interrupts.stoppable() as stop:
        watch = _Watch(_Wanted(what, number, needs, classes, memory_fields), ended, stop)
        watch.start()
        try:
            yield watch.arrived.set
        finally:
            ended.set()
            watch.join(_EVERY_S)


class _Wanted(NamedTuple):
    """The workers that are waited for; see `waiting_for_workers`."""

    what: str
    number: int
    needs: Mapping[str, float]
    classes: tuple[str, ...]
    memory_fields: str


class _Watch(threading.Thread):
    """Looks at the workers every few seconds until the work ends."""

    def __init__(self, wanted: _Wanted, ended: threading.Event, stop: Callable[[UserError], None]) -> None:
        super().__init__(daemon=True)
        self._wanted, self._ended, self._stop_job = wanted, ended, stop
        self.arrived = threading.Event()
        self._since_s = time.time()

    def run(self) -> None:
        """Look until the context ends."""
        what, number, needs, classes, _ = self._wanted
        logger.info("starting %d %s (%s each)", number, _named(what, number), _amounts(needs))
        wait_s = _EVERY_S
        while not self._ended.wait(wait_s):
            try:
                workers = _workers(classes) if classes else None
                wait_s = _EVERY_S if workers is None or workers.up < number else _LATER_S
                if not self.arrived.is_set():
                    logger.info("%s", _state(what, number, needs, workers))
                if reason := self._in_vain(workers):
                    self._stop_job(reason)
                    return
            except (RayError, OSError, ValueError) as error:  # the work itself meets it as well, and ends by it
                logger.debug("%s", error)

    def _in_vain(self, workers: "_Workers | None") -> UserError | None:
        """Return why no more is to be waited for; None if it is."""
        if workers is None or workers.up:  # Ray bounds what it repeats of tasks
            self._since_s = time.time()
            return None
        without_s, ended = time.time() - self._since_s, num_ended_for_memory(self._since_s)
        if without_s < _WITHOUT_WORKERS_S or ended < _MOST_ENDED:
            return None
        return UserError(
            f"no {self._wanted.what} can start: Ray ended {ended} processes in {without_s:.0f} s for want of memory, "
            f"the last one {last_death()}; lower {self._wanted.memory_fields}, or free memory"
        )


class _Workers(NamedTuple):
    placed: int
    """With a process."""
    up: int
    """Whose constructor is done."""
    deaths: int
    """Deaths of processes that others have followed."""


def _workers(classes: tuple[str, ...]) -> _Workers:
    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    # An ingest on fewer machines has smaller pools than before, whose actors are dead for good.
    wanted = [
        actor
        for actor in actors(job_id=job).values()
        if actor["State"] != "DEAD" and any(each in actor["ActorClassName"] for each in classes)
    ]
    placed = sum(bool(actor["Pid"]) for actor in wanted)
    up = sum(actor["State"] == "ALIVE" for actor in wanted)
    return _Workers(placed, up, sum(actor["NumRestarts"] for actor in wanted))


def _state(what: str, number: int, needs: Mapping[str, float], workers: _Workers | None) -> str:
    if workers is None:
        return f"waiting for the first result{_lack(needs)}"
    if workers.up >= number:
        up = f"all {number} {what}s are" if number > 1 else f"the {what} is"
        return f"{up} up, at work on the first results"
    lack = _lack(needs) if workers.placed < number else ""
    deaths = _told_of(workers.deaths)
    return f"{workers.up} of {number} {_named(what, number)} {'are' if number > 1 else 'is'} up{lack}{deaths}"


def _told_of(deaths: int) -> str:
    if not deaths:
        return ""
    told = f"; {deaths} have died and are started anew" if deaths > 1 else "; 1 has died and is started anew"
    why = last_death()  # nothing of a process that was lost with its machine
    return f"{told}, the last one {why}" if why else told


def _lack(needs: Mapping[str, float]) -> str:
    """Why there is no further worker, as far as it is for want of resources."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(machine.get(name, 0) >= amount for name, amount in needs.items()) for machine in machines):
        return f": no machine of the cluster has {_amounts(needs)}, waiting for one"
    free = ray.available_resources()
    short = [name for name, amount in needs.items() if free.get(name, 0) < amount]
    total = {name: sum(machine.get(name, 0) for machine in machines) for name in short}
    waits = ", ".join(f"{name} ({free.get(name, 0):g} of {total[name]:g} free)" for name in short)
    return f", waiting for {waits}" if waits else ""


def _amounts(needs: Mapping[str, float]) -> str:
    return " and ".join(f"{amount:g} {name}" for name, amount in needs.items() if amount)


def _named(what: str, number: int) -> str:
    return what if number == 1 else f"{what}s"
