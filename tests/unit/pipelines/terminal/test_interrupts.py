"""Signals to a job: one line, the shell's exit code, the clean-up done; a second one does not wait for it."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines.terminal import own_processes
from tests.integration.processes import below

JOB = """
    import os, signal, sys, time
    from pipelines.cluster.runtime import end_with_one_line

    def job():
        try:
            print("ready", flush=True)
            time.sleep(60)
        finally:
            {clean_up}
            print("cleaned up", flush=True)

    end_with_one_line(job)
"""


def started(clean_up="pass", ignored=None):
    command = [sys.executable, "-c", textwrap.dedent(JOB.format(clean_up=clean_up))]
    if ignored:
        before = signal.signal(ignored, signal.SIG_IGN)  # as `nohup` and a shell's `&` leave it
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if ignored:
        signal.signal(ignored, before)
    assert job.stdout.readline() == "ready\n"
    return job


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_a_job_by_one_line(number, code):
    job = started()
    job.send_signal(number)
    job.send_signal(number)  # `timeout` sends its signal to the process and to its group
    out, err = job.communicate()
    assert job.returncode == code
    assert out == "cleaned up\n"
    (line,) = err.splitlines()
    told = f"stopped by {number.name}; nothing was written; to go on, run the same command again: python -c"
    assert line.endswith(told)


AT_EXIT = """
    import atexit, time
    from pipelines.cluster.runtime import end_with_one_line

    def close():
        print("closing", flush=True)
        time.sleep({seconds})
        print("closed", flush=True)

    atexit.register(close)
    end_with_one_line(lambda: None)
"""


TAKEN_APART = """
    import os, signal
    from pipelines.cluster.runtime import end_with_one_line

    class Module:
        def __del__(self, kill=os.kill, to=os.getpid(), number=signal.SIGTERM):
            kill(to, number)

    module = Module()
    end_with_one_line(lambda: print("done", flush=True))
"""


def test_a_job_that_has_ended_is_not_killed_while_python_takes_it_apart():
    command = [sys.executable, "-c", textwrap.dedent(TAKEN_APART)]
    job = subprocess.run(command, capture_output=True, text=True)
    assert (job.returncode, job.stdout, job.stderr) == (0, "done\n", "")


@pytest.mark.parametrize(("seconds", "signals", "code", "closed"), [(0.5, 1, 0, "closed\n"), (60, 2, 143, "")])
def test_a_job_that_has_ended_closes_what_it_opened_unless_it_is_told_twice(seconds, signals, code, closed):
    command = [sys.executable, "-c", textwrap.dedent(AT_EXIT.format(seconds=seconds))]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert job.stdout.readline() == "closing\n"
    for number in range(signals):
        time.sleep(1.2 * number)
        job.send_signal(signal.SIGTERM)
    assert job.communicate() == (closed, "")
    assert job.returncode == code


def test_a_second_signal_does_not_wait_for_the_clean_up():
    job = started(clean_up="print('cleaning', flush=True); time.sleep(1.2); print('again', flush=True); time.sleep(60)")
    job.send_signal(signal.SIGTERM)
    assert job.stdout.readline() == "cleaning\n"
    assert job.stdout.readline() == "again\n"
    job.send_signal(signal.SIGINT)
    out, err = job.communicate()
    assert job.returncode == 130
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("stopped by SIGTERM")


def test_what_is_to_be_ignored_stays_ignored():
    job = started(ignored=signal.SIGHUP)
    job.send_signal(signal.SIGHUP)
    job.send_signal(signal.SIGTERM)
    job.communicate()
    assert job.returncode == 143


STOPPABLE = """
    import threading, time
    from animatediff.errors import UserError
    from pipelines.terminal import interrupts
    from pipelines.cluster.runtime import end_with_one_line

    def job():
        with interrupts.stoppable() as stop:
            {inside}
        {after}

    end_with_one_line(job)
"""
LATER = "threading.Timer(0.2, stop, [UserError('nothing can start')]).start()"


@pytest.mark.parametrize(
    ("inside", "after", "code", "told"),
    [
        (f"{LATER}; time.sleep(60)", "pass", 1, "ERROR nothing can start"),
        (f"{LATER}; threading.Event().wait()", "pass", 1, "ERROR nothing can start"),
        # The work ended by itself before.
        (LATER, "time.sleep(1); print('done')", 0, ""),
        # The user's own signal is told as what it is.
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", "pass", 143, "stopped by SIGTERM"),
    ],
)
def test_a_thread_ends_what_waits_in_vain(inside, after, code, told):
    job = textwrap.dedent(STOPPABLE.format(inside=inside, after=after))
    ended = subprocess.run([sys.executable, "-c", job], capture_output=True, text=True, timeout=60)
    assert ended.returncode == code
    assert told in ended.stderr
    assert len(ended.stderr.splitlines()) == (1 if told else 0)


LOST = """
    import os, signal, threading
    from ray.exceptions import WorkerCrashedError
    from pipelines.cluster.runtime import end_with_one_line

    def job():
        threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGTERM]).start()
        raise WorkerCrashedError

    end_with_one_line(job)
"""


def test_a_worker_that_got_the_signal_first_is_not_to_blame():
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(LOST)], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 143
    (line,) = ended.stderr.splitlines()
    assert "stopped by SIGTERM" in line


def test_a_signal_while_modules_are_imported_ends_by_one_line(tmp_path):
    config = tmp_path / "ingest.yaml"
    config.write_text(f"source: {{uri: {tmp_path}}}\noutput_uri: {tmp_path / 'out'}\nbase: base\n")
    command = [sys.executable, "-m", "pipelines.ingest", "--config", str(config)]
    job = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert "MLflow" in job.stderr.readline()  # the last that is done before them
    time.sleep(random.random())
    job.send_signal(signal.SIGTERM)
    err = job.communicate()[1]
    assert job.returncode == 143, err
    (line,) = err.splitlines()
    assert "stopped by SIGTERM; " in line
    assert line.endswith(f"--config {config}")


RAYLET = """import subprocess, sys; sys.exit(subprocess.run([sys.executable, "-c", "import time; time.sleep(100)"]))"""
STARTING = """
    import hashlib, os, subprocess, sys, time

    import ray
    from pipelines.cluster.runtime import end_with_one_line, without_native_stderr
    from pipelines.terminal import interrupts

    def job():
        with interrupts.starting_ray(), without_native_stderr():
            subprocess.Popen([sys.executable, "-c", sys.argv[1]])
            print("starting", flush=True)
            %s
        print("it goes on", flush=True)

    end_with_one_line(job)
"""


@pytest.mark.parametrize("waits", ["time.sleep(60)", "hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)"])
def test_a_signal_while_ray_starts_ends_what_of_it_is_there(waits):
    command = [sys.executable, "-c", textwrap.dedent(STARTING % waits), RAYLET]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert job.stdout.readline() == "starting\n"
    while len(started := below(job.pid)) < 3:
        time.sleep(0.02)
    for pid in started:
        os.kill(pid, signal.SIGTERM)
    began = time.monotonic()
    out, err = job.communicate(timeout=60)
    assert (job.returncode, out) == (143, "")
    assert time.monotonic() - began < 10
    (line,) = err.splitlines()
    assert "stopped by SIGTERM; " in line
    wait_for_end(pid for pid in started if pid != job.pid)


def wait_for_end(pids):
    for status in (Path(f"/proc/{pid}/stat") for pid in pids):
        deadline = time.monotonic() + 10
        while status.exists() and "Z" not in status.read_text().split()[2]:
            assert time.monotonic() < deadline
            time.sleep(0.1)


OWN_RAY = """
    import subprocess, sys, time
    from types import SimpleNamespace

    import ray
    from pipelines.cluster.runtime import end_with_one_line
    from pipelines.terminal import interrupts

    def job():
        with interrupts.starting_ray():
            process = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
            node = SimpleNamespace(all_processes={"raylet": [SimpleNamespace(process=process)]})
            node.destroy_external_storage = lambda: print("what was spilled is gone", flush=True)
            ray._private.worker._global_node = node

        def shutdown():  # as Ray does
            process.terminate()
            process.wait(5)
            ray._private.worker._global_node = None

        ray.is_initialized, ray.shutdown = lambda: True, shutdown
        print("ready", flush=True)
        try:
            time.sleep(float(sys.argv[2]))
        finally:
            print("the raylet is there:", process.poll() is None, flush=True)

    end_with_one_line(job)
"""


@pytest.mark.parametrize(
    ("seconds", "code", "last"), [(60, 143, "what was spilled is gone\n"), (0, 0, "")], ids=["stopped", "done"]
)
def test_signals_pass_by_the_processes_of_a_jobs_own_ray_which_end_with_it(seconds, code, last):
    command = [sys.executable, "-c", textwrap.dedent(OWN_RAY), RAYLET, str(seconds or 2)]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert job.stdout.readline() == "ready\n"
    while len(started := below(job.pid)) < 3:
        time.sleep(0.02)
    for pid in sorted(started, key=lambda pid: pid == job.pid):
        if pid != job.pid or seconds:
            os.kill(pid, signal.SIGTERM)
            time.sleep(0.2)
    out, err = job.communicate(timeout=60)
    assert (job.returncode, out) == (code, f"the raylet is there: True\n{last}"), err
    assert len(err.splitlines()) == bool(seconds)
    wait_for_end(pid for pid in started if pid != job.pid)


def test_leaving_ray_ends_what_ray_has_started_and_nothing_else(monkeypatch):
    raylet, other = (
        subprocess.Popen([sys.executable, "-c", code]) for code in (RAYLET, "import time; time.sleep(100)")
    )
    try:
        while len(started := below(raylet.pid)) < 2:
            time.sleep(0.02)
        node = SimpleNamespace(all_processes={"raylet": [SimpleNamespace(process=raylet)]})
        worker = SimpleNamespace(_global_node=node)
        ray = SimpleNamespace(
            _private=SimpleNamespace(worker=worker), is_initialized=lambda: True, shutdown=raylet.kill
        )
        monkeypatch.setattr(own_processes, "imported_ray", lambda: ray)
        own_processes.close_ray()
        wait_for_end(started)
        assert other.poll() is None
    finally:
        for process in (raylet, other):
            process.kill()
            process.wait()
