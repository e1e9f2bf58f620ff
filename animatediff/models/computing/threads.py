"""How many threads a process computes on."""

import os

import torch


def use_threads(number: int) -> None:
    """Have PyTorch compute on so many threads, or on as many as the environment's `OMP_THREAD_LIMIT` leaves.

    PyTorch shares out work by the number that it was told and does not ask whether OpenMP gave as many threads: with
    fewer, its bfloat16 products hold what was in the memory before, and losses are not finite.

    Args:
        number: 1 or more.
    """
    limit = os.environ.get("OMP_THREAD_LIMIT", "")
    torch.set_num_threads(min(number, int(limit)) if limit.isdecimal() and int(limit) else number)
