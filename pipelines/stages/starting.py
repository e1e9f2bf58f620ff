"""What a job waits for until its first result: told at once, and every few seconds, with what the cluster lacks."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import ray
from ray._private.state import actors
from ray.exceptions import RayError

from pipelines.failures import last_death

logger = logging.getLogger(__name__)

_EVERY_S, _LATER_S = 10.0, 60.0


@contextmanager
def starting(
    what: str, number: int, needs: Mapping[str, float], *, classes: tuple[str, ...]
) -> Iterator[Callable[[], None]]:
    """Tell how many workers are up.

    Args:
        what: their name in the singular, as `render worker`.
        number: how many are wanted.
        needs: the resources that each takes.
        classes: names of their actors' classes; empty for tasks, which are not counted.

    Yields:
        What to call when a result is there: nothing more is told then.
    """
    ended = threading.Event()

    def tell() -> None:
        logger.info("starting %d %s (%s each)", number, _named(what, number), _amounts(needs))
        wait_s = _EVERY_S
        while not ended.wait(wait_s):
            try:
                workers = _workers(classes) if classes else None
                wait_s = _EVERY_S if workers is None or workers.up < number else _LATER_S
                logger.info("%s", _state(what, number, needs, workers))
            except (RayError, OSError, ValueError) as error:  # the work itself meets it as well, and ends by it
                logger.debug("%s", error)

    threading.Thread(target=tell, daemon=True).start()
    try:
        yield ended.set
    finally:
        ended.set()


class _Workers(NamedTuple):
    placed: int
    """With a process."""
    up: int
    """Whose constructor is done."""
    deaths: int
    """Of processes that others follow."""


def _workers(classes: tuple[str, ...]) -> _Workers:
    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    found = [actor for actor in actors(job_id=job).values() if any(each in actor["ActorClassName"] for each in classes)]
    living = [actor for actor in found if actor["State"] != "DEAD" and actor["Pid"]]
    up = sum(actor["State"] == "ALIVE" for actor in living)
    return _Workers(len(living), up, sum(actor["NumRestarts"] for actor in found))


def _state(what: str, number: int, needs: Mapping[str, float], workers: _Workers | None) -> str:
    if workers is None:
        return f"waiting for the first result{_lack(needs)}"
    if workers.up >= number:
        up = f"all {number} {what}s are" if number > 1 else f"the {what} is"
        return f"{up} up, at work on the first results"
    lack = _lack(needs) if workers.placed < number else ""
    deaths = f"; {workers.deaths} have died and are started anew, the last one {last_death()}" if workers.deaths else ""
    return f"{workers.up} of {number} {_named(what, number)} {'are' if number > 1 else 'is'} up{lack}{deaths}"


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
