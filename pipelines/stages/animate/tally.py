"""How far an animate job is: items, seconds, and models loaded."""

from collections import Counter
from typing import NamedTuple


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
