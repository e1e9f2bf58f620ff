"""Signals to a job: one line, the shell's exit code, the clean-up done; a second one does not wait for it."""

import signal
import subprocess
import sys
import textwrap

import pytest

JOB = """
    import os, signal, sys, time
    from pipelines.runtime import end_with_one_line

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
    assert line.endswith("ERROR interrupted; the same command continues where this one stopped")


def test_a_second_signal_does_not_wait_for_the_clean_up():
    job = started(clean_up="print('cleaning', flush=True); time.sleep(1.2); print('again', flush=True); time.sleep(60)")
    job.send_signal(signal.SIGTERM)
    assert job.stdout.readline() == "cleaning\n"
    assert job.stdout.readline() == "again\n"
    job.send_signal(signal.SIGINT)
    out, err = job.communicate()
    assert job.returncode == 130
    assert out == ""
    assert err.splitlines() == ["interrupted; the same command continues where this one stopped"]


def test_what_is_to_be_ignored_stays_ignored():
    job = started(ignored=signal.SIGHUP)
    job.send_signal(signal.SIGHUP)
    job.send_signal(signal.SIGTERM)
    job.communicate()
    assert job.returncode == 143
