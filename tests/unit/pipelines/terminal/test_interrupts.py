"""Signals to a job: one line, the shell's exit code, the clean-up done; a second one does not wait for it."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

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


STARTING = """
    from pipelines.cluster.runtime import end_with_one_line, without_native_stderr
    from pipelines.terminal import interrupts

    def job():
        with interrupts.deferred(), without_native_stderr():
            import starting
        print("it goes on", flush=True)

    end_with_one_line(job)
"""
TERMINATE = "import os, signal, time; os.kill(os.getpid(), signal.SIGTERM)"


@pytest.mark.parametrize(
    ("signals", "out"), [(TERMINATE, "Ray is up\n"), (f"{TERMINATE}; time.sleep(1.2); {TERMINATE}", "")]
)
def test_a_signal_while_ray_starts_waits_for_it_and_is_told(tmp_path, signals, out):
    (tmp_path / "starting.py").write_text(f"{signals}\nprint('Ray is up', flush=True)\n")  # Ray imports as it starts
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-c", textwrap.dedent(STARTING)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)
    assert (ended.returncode, ended.stdout) == (143, out)
    (line,) = ended.stderr.splitlines()
    assert "stopped by SIGTERM; " in line


OF_ITS_OWN = """
    import hashlib, subprocess, sys
    from types import SimpleNamespace

    import ray
    from pipelines.cluster.runtime import end_with_one_line

    def started(seconds):
        command = [sys.executable, "-c", f"import time; time.sleep({seconds})"]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        return [SimpleNamespace(process=process)]

    def job():
        processes = {"raylet": started(30), "log_monitor": started(0)}
        ray._private.worker._global_node = SimpleNamespace(all_processes=processes)
        processes["log_monitor"][0].process.wait()
        (worker,) = started(30)
        print(worker.process.pid, flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # in compiled code, as Ray waits

    end_with_one_line(job)
"""


def test_a_job_whose_own_ray_gets_the_signal_too_waits_for_nothing_and_leaves_nothing():
    command = [sys.executable, "-c", textwrap.dedent(OF_ITS_OWN)]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    worker = Path(f"/proc/{int(job.stdout.readline())}")
    assert worker.exists()
    job.send_signal(signal.SIGTERM)
    assert job.wait(15) == 143
    assert "stopped by SIGTERM; " in job.stderr.read()
    deadline = time.monotonic() + 10
    while worker.exists() and "Z" not in (worker / "stat").read_text().split()[2]:
        assert time.monotonic() < deadline
        time.sleep(0.1)


CLOSING = """
    import atexit, os, subprocess, sys, time
    from types import SimpleNamespace

    import ray
    from pipelines.cluster.runtime import end_with_one_line

    def close():
        monitor = subprocess.Popen([sys.executable, "-c", "pass"])
        processes = {"log_monitor": [SimpleNamespace(process=monitor)]}
        ray._private.worker._global_node = SimpleNamespace(all_processes=processes)
        monitor.wait()
        print("closing", flush=True)
        time.sleep(10)
        os._exit(1)  # as Ray ends a driver whose raylet is gone

    atexit.register(close)
    end_with_one_line(lambda: sys.exit(%d))
"""


@pytest.mark.parametrize("code", [0, 2])
def test_a_job_that_has_ended_keeps_its_exit_code_where_its_own_ray_gets_a_signal(code):
    command = [sys.executable, "-c", textwrap.dedent(CLOSING % code)]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert job.stdout.readline() == "closing\n"
    job.send_signal(signal.SIGTERM)
    assert job.communicate() == ("", "")
    assert job.returncode == code


ALONE = """
    import subprocess, sys, time
    from pathlib import Path
    from types import SimpleNamespace

    import ray
    from pipelines.cluster.runtime import end_with_one_line

    def job():
        beat = "import time\\nwhile True: print('.', flush=True); time.sleep(0.05)"
        log = Path(sys.argv[1])
        raylet = subprocess.Popen([sys.executable, "-c", beat], stdout=log.open("w"))
        ray._private.worker._global_node = SimpleNamespace(all_processes={"raylet": [SimpleNamespace(process=raylet)]})
        ray.shutdown = raylet.kill
        try:
            print("ready", flush=True)
            time.sleep(60)
        finally:
            time.sleep(1.5)  # the raylet was held for a moment
            size = log.stat().st_size
            while log.stat().st_size == size:
                time.sleep(0.1)
            print("it goes on", flush=True)

    end_with_one_line(job)
"""


def test_a_raylet_that_did_not_get_the_signal_serves_the_clean_up(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(ALONE), str(tmp_path / "log")]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert job.stdout.readline() == "ready\n"
    job.send_signal(signal.SIGTERM)
    out, err = job.communicate(timeout=60)
    assert (job.returncode, out) == (143, "it goes on\n"), err
    assert len(err.splitlines()) == 1
