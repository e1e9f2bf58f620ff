"""How many threads a process computes on."""

import os
import sys

import torch


def use_threads(number: int) -> None:
    """Have PyTorch compute on so many threads, or on as many as are sure to be given.

    PyTorch and oneDNN share out work by the number that they were told and do not ask whether OpenMP gave as many
    threads: with fewer, oneDNN's matrix products hold what was in the memory before, and losses are not finite.

    Args:
        number: 1 or more.
    """
    torch.set_num_threads(min(number, most_threads()))


def most_threads() -> int:
    """Return the most threads that OpenMP gives for sure, by what the environment says."""
    if os.environ.get("OMP_DYNAMIC", "").strip().lower() == "true":  # fewer whenever the machine is busy
        return 1
    limit = os.environ.get("OMP_THREAD_LIMIT", "")
    return int(limit) if limit.isdecimal() and int(limit) else sys.maxsize
