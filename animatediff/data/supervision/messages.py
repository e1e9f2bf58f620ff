"""Messages between a process and its child: pickles, with the arrays in them sent as they lie in memory."""

import os
import pickle
import struct
from multiprocessing.connection import Connection
from typing import Any

_COUNT = struct.Struct("<Q")


def send(connection: Connection, value: Any) -> None:
    """Send a value; arrays are not copied before the socket takes them.

    Raises:
        ConnectionError: the other end is closed.
        BlockingIOError: it takes no more for longer than the socket's timeout.
    """
    arrays: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(value, protocol=5, buffer_callback=arrays.append)
    # Not joined with anything: an hour's shots are 30 MB of pictures, which a child has twice here as it is.
    parts = [memoryview(pickled), *(array.raw() for array in arrays)]
    connection.send_bytes(b"".join(_COUNT.pack(len(part)) for part in parts))
    for part in parts:
        left = part
        while left:
            left = left[os.write(connection.fileno(), left) :]


def receive(connection: Connection) -> Any:
    """Return the next value.

    Raises:
        EOFError: the other end is closed.
        ConnectionError: likewise, in the midst of a value.
        BlockingIOError: nothing comes for longer than the socket's timeout.
    """
    sizes = [size for (size,) in _COUNT.iter_unpack(connection.recv_bytes())]
    pickled, *arrays = [_read(connection.fileno(), size) for size in sizes]
    return pickle.loads(pickled, buffers=arrays)


def _read(fd: int, size: int) -> bytearray:
    content = bytearray(size)
    left = memoryview(content)
    while left:
        number = os.readv(fd, [left])
        if not number:
            raise EOFError
        left = left[number:]
    return content
