"""A stage of a job on Ray Data: actors between which Ray Data carries the units of work."""

import pickle
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from animatediff.errors import UserError

InputT = TypeVar("InputT")
OutputT = TypeVar("OutputT")


class Stage(ABC, Generic[InputT, OutputT]):
    """One step of a unit's way, of which Ray Data runs a pool of actors.

    Each stands in a file of its own, so that its processes import no more than they need: without torch a decoder
    starts in a second, and takes a fifth of the memory. A row between two stages has two columns: the unit, pickled,
    and `error`, empty where all is well. What a user can mend travels as a row's error, because Ray Data keeps of a
    raised exception only its text.
    """

    input_column: ClassVar[str]
    """Name of the column that it reads."""
    output_column: ClassVar[str]
    """Name of the column that it writes in its place."""
    cpus: ClassVar[float] = 0.5
    """CPUs of one actor: half of one, so that a decoder and an encoder fit on a machine of one."""
    uses_device: ClassVar[bool] = False
    """Whether an actor computes on a GPU of its own, where the job uses any."""

    @classmethod
    def resources(cls, device: str) -> dict[str, float]:
        """Return what one actor reserves, by Ray's names.

        Args:
            device: what the job's stages that use one compute on, `cuda` or `cpu`.
        """
        gpu = {"GPU": 1.0} if cls.uses_device and device == "cuda" else {}
        return {"CPU": cls.cpus} | gpu

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Turn a row of `input_column` and `error` into one of `output_column` and `error`; an error passes through."""
        (data,), (error,) = batch[self.input_column], batch["error"]
        output = b""
        if not error:
            try:
                output = pickle.dumps(self.process(pickle.loads(data)), protocol=5)
            except UserError as mendable:
                error = str(mendable)
        return {self.output_column: [output], "error": [error]}

    @abstractmethod
    def process(self, work: InputT) -> OutputT:
        """Do the stage's work on one unit.

        Raises:
            UserError: what ends the job with one line; the unit stays pending.
        """


class Pool(NamedTuple):
    """The actors of a stage."""

    number: int
    needs: Mapping[str, float]
    """What Ray reserves for one actor, by Ray's names of resources."""


Pools = Mapping[type[Stage[Any, Any]], Pool]
"""Stage class to its pool, in the order in which units pass through the stages."""
