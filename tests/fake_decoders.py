"""Decoders that fail on purpose, each for videos whose bytes carry its marker, and are PyAV for all others.

They are named in a config as `tests.fake_decoders:Segfault`, and a video is marked by its title:
`encode(frames, codec="libx264", title=Segfault.marker)`.
"""

import ctypes
import os
import time

import numpy as np

from animatediff.data.decoding.decoders.pyav import PyAV


class Marked(PyAV):
    marker = ""

    def frames(self, data, info, indices, *, height, width):
        if self.marker.encode() in data:
            self.fail()
        return super().frames(data, info, indices, height=height, width=width)

    def fail(self):
        raise NotImplementedError


class Segfault(Marked):
    name, marker = "segfault", "fake-segfault"

    def fail(self):
        ctypes.string_at(0)


class BadAlloc(Marked):
    """Dies like C++ code that gets no memory."""

    name, marker = "badalloc", "fake-bad-alloc"

    def fail(self):
        os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n")
        os.abort()


class Hang(Marked):
    """Sleeps in native code without releasing the interpreter, so that only a kill helps."""

    name, marker = "hang", "fake-hang"

    def fail(self):
        ctypes.PyDLL(None).sleep(1_000_000)


class Hungry(Marked):
    name, marker = "hungry", "fake-hungry"

    def fail(self):
        hoard = []
        while True:
            hoard.append(np.ones(2**27, np.uint8))


class Slow(Marked):
    """Takes two seconds."""

    name, marker = "slow", "fake-slow"

    def fail(self):
        time.sleep(2)


class Chatty(Marked):
    """Prints a megabyte to both of its outputs."""

    name, marker = "chatty", "fake-chatty"

    def fail(self):
        for fd in (1, 2):
            for _ in range(1000):
                os.write(fd, b"chatter " * 125)


class Wicked(PyAV):
    """All that ends a decoding process, each for its own marker."""

    name = "wicked"

    def frames(self, data, info, indices, *, height, width):
        for kind in (Segfault, Hang, Hungry):
            if kind.marker.encode() in data:
                kind().fail()
        return super().frames(data, info, indices, height=height, width=width)
