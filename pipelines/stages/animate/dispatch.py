"""Which slice of a catalog an animate worker renders next: workers keep their model as long as there is work for it.

Ray Data hands out tickets; what a ticket stands for is decided here when a worker comes with it. So the choice can
look at which model the worker holds, and the worker learns in time which one comes next and can read it ahead.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from animatediff.rendering.catalog.catalog import Item
from animatediff.rendering.catalog.entries import Model

# A slice shares the loading of a model and is what a lost worker leaves behind. Ray Data takes milliseconds for each.
_MAX_SLICE, _MAX_SLICES = 16, 4000
# Times that a worker may die with an item, or while it loads a model, before these are given up.
MAX_DEATHS = 2


class Slice(NamedTuple):
    """Items of one model and one priority: what a worker is given at a time."""

    model: str
    priority: int
    items: tuple[Item, ...]


class Lease(NamedTuple):
    """What a worker is to do."""

    slice: Slice
    model: Model
    hashes: Mapping[str, str]
    """Of its weights, by URI."""
    upcoming: Model | None
    """What the worker will need next, if that is another model."""
    suspects: frozenset[str]
    """Digests that a worker died with: each is rendered by itself, after the others."""
    given_up: Mapping[str, str]
    """Digests that are not tried again, and why."""


def slices_of(items: Iterable[Item], num_workers: int) -> list[Slice]:
    """Items by priority and model, in the order given, in pieces.

    A group of items is one piece if it is small, so that its model is loaded once. A large one is cut, so that it can
    be shared out.
    """
    groups: dict[tuple[int, str], list[Item]] = defaultdict(list)
    for item in items:
        groups[item.priority, item.model].append(item)
    total = sum(map(len, groups.values()))
    most = max(1, min(_MAX_SLICE, math.ceil(total / num_workers)), math.ceil(total / _MAX_SLICES))
    return [
        Slice(model, priority, tuple(group[start : start + most]))
        for (priority, model), group in groups.items()
        for start in range(0, len(group), most)
    ]


class Dispatcher:
    """The slices that are not yet rendered, and who holds what.

    Args:
        slices: all of a job; as many tickets are handed out.
        models: the weights by `Slice.model`.
        hashes: those of each model's weights, by URI.
        death_of: why a process died, given its id.
    """

    def __init__(
        self,
        slices: Sequence[Slice],
        models: Mapping[str, Model],
        hashes: Mapping[str, Mapping[str, str]],
        death_of: Callable[[str], str],
    ) -> None:
        self._models, self._hashes, self._death_of = dict(models), dict(hashes), death_of
        self._waiting: dict[int, dict[str, list[Slice]]] = defaultdict(lambda: defaultdict(list))
        for each in slices:
            self._waiting[each.priority][each.model].append(each)
        for groups in self._waiting.values():
            for group in groups.values():
                group.reverse()  # taken from the end
        self._leased: dict[int, Slice] = {}
        self._begun: dict[int, frozenset[str]] = {}
        self._processes: dict[int, str] = {}
        self._deaths: dict[str, int] = defaultdict(int)
        self._causes: dict[str, str] = {}
        self._finished: dict[str, str] = {}
        self._holds: dict[str, str] = {}
        self._promised: dict[str, str] = {}
        self._stopped: str | None = None

    def lease(self, ticket: int, worker: str, process: str) -> Lease | None:
        """Return the slice of a ticket; None if all are taken, or no more is to be rendered.

        A ticket that comes again comes from the process that follows one which died: it stands for the same slice.
        """
        again = ticket in self._leased
        if self._stopped is not None:
            return None
        if again:
            self._blame(ticket)
        elif (chosen := self._choose(worker)) is not None:
            self._leased[ticket] = chosen
        else:
            return None
        self._processes[ticket] = process
        taken = self._leased[ticket]
        self._holds[worker] = taken.model
        self._promised.pop(worker, None)
        upcoming = self._upcoming(worker, taken.model)
        return Lease(taken, self._models[taken.model], self._hashes[taken.model], upcoming, *self._judged(taken))

    def begin(self, ticket: int, digests: Iterable[str]) -> bool:
        """Note that a worker begins with these items, or with loading the model if there are none.

        False if it is not to.
        """
        self._begun[ticket] = frozenset(digests)
        return self._stopped is None

    def finish(self, digest: str, status: str) -> None:
        """Note that a worker is done with an item, or found that another was."""
        self._finished[digest] = status

    def finished(self) -> Counter[str]:
        """Items that workers are done with so far, by status."""
        return Counter(self._finished.values())

    def stop(self, reason: str) -> None:
        """Let nothing more be begun: what is rendered could not be written."""
        self._stopped = self._stopped or reason

    def stopped(self) -> str | None:
        """Return the reason that `stop` was given first, if it was."""
        return self._stopped

    def _choose(self, worker: str) -> Slice | None:
        group = self._best(worker)
        if group is None:
            return None
        chosen = group.pop()
        self._forget_empty()
        return chosen

    def _best(self, worker: str) -> list[Slice] | None:
        """Return the group to take from.

        The worker's own, the one promised to it, a fresh one, or a part of others'.
        """
        if not self._waiting:
            return None
        groups = self._waiting[max(self._waiting)]
        for model in (self._holds.get(worker), self._promised.get(worker)):
            if model in groups:
                return groups[model]
        others = {model for held in (self._holds, self._promised) for name, model in held.items() if name != worker}
        fresh = [model for model in groups if model not in others]
        # The longest first: what is begun last should be short, so that all workers end together.
        return groups[max(fresh or groups, key=lambda model: len(groups[model]))]

    def _upcoming(self, worker: str, model: str) -> Model | None:
        if not self._waiting or model in self._waiting[max(self._waiting)]:
            return None
        group = self._best(worker)
        if group is None:
            return None
        self._promised[worker] = group[-1].model
        return self._models[group[-1].model]

    def _forget_empty(self) -> None:
        highest = max(self._waiting)
        groups = self._waiting[highest]
        for model in [model for model, group in groups.items() if not group]:
            del groups[model]
        if not groups:
            del self._waiting[highest]

    def _blame(self, ticket: int) -> None:
        begun = self._begun.pop(ticket, None)
        if begun is not None:  # else it died before it began with anything
            cause = self._death_of(self._processes[ticket])
            for name in begun or (self._loading(self._leased[ticket]),):
                self._deaths[name] += 1
                self._causes[name] = cause

    def _judged(self, taken: Slice) -> tuple[frozenset[str], dict[str, str]]:
        digests = [item.digest for item in taken.items]
        loading = self._loading(taken)
        if self._deaths[loading] >= MAX_DEATHS:
            return frozenset(), dict.fromkeys(digests, self._told(loading, "loaded the model"))
        given_up = {
            digest: self._told(digest, "rendered this") for digest in digests if self._deaths[digest] >= MAX_DEATHS
        }
        return frozenset(digest for digest in digests if 0 < self._deaths[digest] < MAX_DEATHS), given_up

    def _told(self, name: str, doing: str) -> str:
        return f"the worker died {self._deaths[name]} times while it {doing}, the last one {self._causes[name]}"

    @staticmethod
    def _loading(taken: Slice) -> str:
        return f"loading {taken.model}"
