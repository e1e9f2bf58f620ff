import socket
import threading
from multiprocessing.connection import Connection

import numpy as np
import pytest

from animatediff.data.supervision import messages


@pytest.fixture
def ends():
    ours, theirs = (Connection(end.detach()) for end in socket.socketpair())
    yield ours, theirs
    ours.close()
    theirs.close()


def test_values_arrive_whole_and_one_after_the_other(ends):
    ours, theirs = ends
    large = np.random.default_rng(0).integers(0, 255, (16, 256, 256, 3), dtype=np.uint8)
    sent = [("answer", [large, large[:, ::2], np.zeros((0, 3))]), ("busy", ("decord", 1.5)), ("error", None)]
    thread = threading.Thread(target=lambda: [messages.send(theirs, value) for value in sent])
    thread.start()
    (kind, arrays), *others = [messages.receive(ours) for _ in sent]
    thread.join()
    assert kind == "answer"
    assert [array.shape for array in arrays] == [large.shape, large[:, ::2].shape, (0, 3)]
    assert np.array_equal(arrays[0], large)
    assert np.array_equal(arrays[1], large[:, ::2])
    arrays[0] += 1  # it is the receiver's own
    assert others == sent[1:]


def test_a_sender_that_dies_in_the_midst_of_an_array_is_told(ends):
    ours, theirs = ends
    theirs.send_bytes(messages._COUNT.pack(1000))
    theirs.close()
    with pytest.raises(EOFError):
        messages.receive(ours)
