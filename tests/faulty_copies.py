"""A child process that fails at shots that begin at certain timestamps: `python -m tests.faulty_copies FD`."""

import ctypes
import os
import signal

from animatediff.data.shots.copies import child, copy_shot
from animatediff.data.supervision.serving import run_child

CRASH, HANG, SWELL, CONFUSED = -101, -102, -103, -104
"""Timestamps, which no video of the tests has."""


def _swell():
    """Memory as native code takes it, until there is none."""
    blocks = []
    while True:
        blocks.append(bytearray(64 << 20))


def _confused():
    raise ZeroDivisionError("by nothing")


_FAULTS = {
    CRASH: lambda: ctypes.string_at(0),
    HANG: signal.pause,
    SWELL: _swell,
    CONFUSED: _confused,
}


def _faulty(file, *, start_pts, **fields):
    if start_pts in _FAULTS:
        # Each try leaves a line, so that tests can count them.
        with open(os.environ["FAULTS_LOG"], "a") as log:  # noqa: PTH123
            log.write(f"{start_pts}\n")
        _FAULTS[start_pts]()
    return copy_shot(file, start_pts=start_pts, **fields)


if __name__ == "__main__":
    vars(child)["copy_shot"] = _faulty
    run_child(child._prepare)
