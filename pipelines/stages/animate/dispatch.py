"""Who renders what of a catalog: slices, tickets and assignments, and why no item is lost or rendered twice.

The words
    A *slice* is a few items of one model: what a worker is given at a time. A *ticket* is a number, one a slice: all
    that Ray Data knows of the work and hands to the workers. An *assignment* is the slice that a ticket stands for,
    with all that a worker needs for it. The *dispatcher* is the one actor that turns tickets into assignments. Ray
    Data could hand out slices themselves; but when a worker comes with a ticket, one knows which model it holds and
    which it should read ahead, and a slice can be chosen for that (see `Dispatcher._best`).

The protocol, by calls of a worker
    `assign(ticket, ...)`     gives the slice. Items that the ledger has already are skipped.
    `begin(ticket, [])`       before the model is loaded.
    `begin(ticket, digests)`  before a batch is rendered, with all that could be to blame if the process died now: the
                              batch, and the items that still wait to be encoded and written.
    `finish(digest, ...)`     after an item is committed; the driver's progress, and nothing that decides anything.
    `stop(reason)`            when the output is full. From then on `assign` gives nothing, and `begin` says no.
    An item is *committed* by its file in the ledger, which appears whole and after its clip's files (`commit`).

No item is lost
    The driver starts with the items that the ledger lacks, each in one slice, and as many tickets as slices. The first
    time that a ticket comes it takes a slice that no other has, and keeps it. Ray Data repeats a ticket whose worker
    died, and it stands for the same slice then. So when all tickets have ended, every item is committed, as a clip or
    as a failure, but for those of tickets that Ray gave up, or that were refused after a stop or without a
    dispatcher. These have no file in the ledger, and whoever reads it next has them among what is left: the next
    dispatcher of this job (`launch.render_pending`), or the next run of the command.

No item is rendered twice
    Slices share no item, and tickets no slice. A ticket is with one process at a time, as Ray repeats it only after
    it lost the one before; and the process that repeats it reads the ledger first. What is rendered again is thus
    only what died between `begin` and its commit. Where the dispatcher itself is lost, every worker's next call
    fails: it commits what it has rendered, begins nothing more and returns. Only when all have returned does the
    driver read the ledger and start another dispatcher, so that two never share out the same item. (Were it rendered
    twice all the same, the files would be the same: frames depend on the item alone, and files appear whole.)

Deaths end
    A ticket that comes again tells that a process died. If it had begun with items, one of these may have killed it,
    so each of them is blamed for one death and becomes a *suspect*: it is rendered after the others, alone, with
    nothing left to be written beside it. A second death has no one else to blame, and after `MAX_DEATHS` it is given
    up with the cause that Ray tells; its neighbours of the first time are cleared by being committed. A process that
    dies while it loads a model blames the model, for all workers. One that dies before it began blames nobody: that
    is how a worker ends itself to give its memory back. Hence a slice of n items costs at most MAX_DEATHS (n + 1)
    deaths that blame something, and with Ray's own bounds on restarts (`launch`) the work ends.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from animatediff.rendering.catalog.entries import ModelFiles
from animatediff.rendering.catalog.item import Item

# A slice shares the loading of a model and is what a lost worker leaves behind. Ray Data takes milliseconds for each.
_MAX_SLICE, _MAX_SLICES = 16, 4000
MAX_DEATHS = 2
"""Times that a worker may die with an item, or while it loads a model, before these are given up."""


class Slice(NamedTuple):
    """Items of one model and one priority: what a worker is given at a time."""

    model_digest: str
    priority: int
    items: tuple[Item, ...]


class Assignment(NamedTuple):
    """A slice and all that a worker needs for it."""

    slice: Slice
    model: ModelFiles
    file_hashes: Mapping[str, str]
    """Hashes of its weights, by URI."""
    upcoming: ModelFiles | None
    """What the worker will need next, if that is another model."""
    crash_suspects: frozenset[str]
    """Digests that a worker died with."""
    given_up: Mapping[str, str]
    """Digests that are not tried again, and why."""


def cut_into_slices(items: Iterable[Item], num_workers: int) -> list[Slice]:
    """Cut the items into slices of one priority and one model, in the order given.

    A model's items are one slice where they are few, so that it is loaded once. Many are cut, so that workers can
    share them: into slices of `_MAX_SLICE`, or of a worker's equal part of all items where that is less; larger ones
    only where there would be more than `_MAX_SLICES`.
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


class Tally(NamedTuple):
    """What is done so far."""

    items: Counter[str]
    """Items that are committed, by status."""
    seconds: Counter[str]
    """What they took, by stage."""
    num_swaps: int
    """Times that a worker loaded another model than it held."""

    def __sub__(self, earlier: "Tally") -> "Tally":
        """Return what was done since an earlier one."""
        return Tally(self.items - earlier.items, self.seconds - earlier.seconds, self.num_swaps - earlier.num_swaps)


class Dispatcher:
    """Knows which slices wait, which ticket has which, what each worker holds, and who died of what.

    Args:
        slices: all of a job; as many tickets are handed out.
        models: the weights by `Slice.model_digest`.
        hashes: those of each model's weights, by URI.
        death_of: gives why a process died, by its id.
    """

    def __init__(
        self,
        slices: Sequence[Slice],
        models: Mapping[str, ModelFiles],
        hashes: Mapping[str, Mapping[str, str]],
        death_of: Callable[[str], str],
    ) -> None:
        self._models, self._hashes, self._death_of = dict(models), dict(hashes), death_of
        # By priority, then by model.
        self._waiting: dict[int, dict[str, list[Slice]]] = defaultdict(lambda: defaultdict(list))
        for each in slices:
            self._waiting[each.priority][each.model_digest].append(each)
        for groups in self._waiting.values():
            for group in groups.values():
                group.reverse()  # taken from the end
        # By ticket: its slice, the process that came with it last, and the digests which that one began with.
        self._assigned: dict[int, Slice] = {}
        self._processes: dict[int, str] = {}
        self._begun: dict[int, frozenset[str]] = {}
        # By worker: the model of its last assignment, and the one that it was told to read ahead.
        self._holds: dict[str, str] = {}
        self._promised: dict[str, str] = {}
        # By digest, or by `_loading` a model: how many processes died of it, and why the last one did.
        self._deaths: dict[str, int] = defaultdict(int)
        self._causes: dict[str, str] = {}
        self._finished: set[str] = set()
        self._tally = Tally(Counter(), Counter(), 0)
        # By process: the model that it has in memory.
        self._loaded: dict[str, str] = {}
        self._stopped: str | None = None

    def assign(self, ticket: int, worker: str, process: str) -> Assignment | None:
        """Return what a ticket stands for; None after `stop`, or if there are more tickets than slices.

        Args:
            ticket: one that has come before has lost its process since.
            worker: an actor; the process that follows one which died has the same name.
            process: the actor's process, as `death_of` knows it.
        """
        if self._stopped is not None:
            return None
        if ticket in self._assigned:
            self._blame(ticket)
        elif (chosen := self._choose(worker)) is not None:
            self._assigned[ticket] = chosen
        else:
            return None
        self._processes[ticket] = process
        taken = self._assigned[ticket]
        self._holds[worker] = taken.model_digest
        self._promised.pop(worker, None)
        upcoming = self._upcoming(worker, taken.model_digest)
        return Assignment(
            taken,
            self._models[taken.model_digest],
            self._hashes[taken.model_digest],
            upcoming,
            *self._suspects_and_given_up(taken),
        )

    def begin(self, ticket: int, digests: Iterable[str]) -> bool:
        """Note that a ticket's worker begins with these items, or with loading the model if there are none.

        Returns:
            False after `stop`: it must not begin.
        """
        self._begun[ticket] = frozenset(digests)
        process, model = self._processes[ticket], self._assigned[ticket].model_digest
        if self._loaded.get(process) != model:
            self._loaded[process] = model
            self._tally = self._tally._replace(num_swaps=self._tally.num_swaps + 1)
        return self._stopped is None

    def finish(self, digest: str, status: str, seconds: Mapping[str, float]) -> None:
        """Note that an item is committed, by this worker or one before, and what it took by stage."""
        if digest not in self._finished:
            self._finished.add(digest)
            self._tally.items[status] += 1
            self._tally.seconds.update(seconds)

    def tally(self) -> Tally:
        """Return what is done so far."""
        return self._tally

    def stop(self, reason: str) -> None:
        """Let nothing more be begun, because what is rendered could not be written."""
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
        """Return the slices of the model that the worker should render next, never empty; None if all are taken.

        Only those of the highest priority that waits are looked at, whatever loading costs. Among them:

        1. the model that the worker holds. Another one means reading gigabytes, the next slice of this one nothing;
        2. the model promised to it, which it has been reading ahead;
        3. a model that no other worker holds or was promised: each model is then loaded by one worker, once. The one
           with most slices first, since a worker stays with its model: a long one that is begun last would be
           rendered by one worker while the others have nothing to do;
        4. where none such is left, a model of others', again with most slices. It is loaded a second time, but the
           worker would be idle else, and what is left of the longest model is what the job's end waits for.
        """
        if not self._waiting:
            return None
        groups = self._waiting[max(self._waiting)]
        for model in (self._holds.get(worker), self._promised.get(worker)):
            if model in groups:
                return groups[model]
        others = {model for held in (self._holds, self._promised) for name, model in held.items() if name != worker}
        fresh = [model for model in groups if model not in others]
        return groups[max(fresh or groups, key=lambda model: len(groups[model]))]

    def _upcoming(self, worker: str, model: str) -> ModelFiles | None:
        """Promise the worker the model that it would get next, if its own has no slices left, and return it.

        A promise keeps others from loading that model (3.), as long as they find a fresh one.
        """
        if not self._waiting or model in self._waiting[max(self._waiting)]:
            return None
        group = self._best(worker)
        if group is None:
            return None
        self._promised[worker] = group[-1].model_digest
        return self._models[group[-1].model_digest]

    def _forget_empty(self) -> None:
        highest = max(self._waiting)
        groups = self._waiting[highest]
        for model in [model for model, group in groups.items() if not group]:
            del groups[model]
        if not groups:
            del self._waiting[highest]

    def _blame(self, ticket: int) -> None:
        """Count the death of a ticket's process against what it had begun with."""
        begun = self._begun.pop(ticket, None)
        if begun is not None:  # else it died before it began with anything
            cause = self._death_of(self._processes[ticket])
            for name in begun or (self._loading(self._assigned[ticket]),):
                self._deaths[name] += 1
                self._causes[name] = cause

    def _suspects_and_given_up(self, taken: Slice) -> tuple[frozenset[str], dict[str, str]]:
        """Return a slice's crash_suspects, and those of its items that are given up, with the reason."""
        digests = [item.digest for item in taken.items]
        loading = self._loading(taken)
        if self._deaths[loading] >= MAX_DEATHS:
            return frozenset(), dict.fromkeys(digests, self._died_while(loading, "loaded the model"))
        given_up = {
            digest: self._died_while(digest, "rendered this")
            for digest in digests
            if self._deaths[digest] >= MAX_DEATHS
        }
        return frozenset(digest for digest in digests if 0 < self._deaths[digest] < MAX_DEATHS), given_up

    def _died_while(self, name: str, doing: str) -> str:
        return f"the worker died {self._deaths[name]} times while it {doing}, the last one {self._causes[name]}"

    @staticmethod
    def _loading(taken: Slice) -> str:
        return f"loading {taken.model_digest}"
