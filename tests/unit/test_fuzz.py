"""The fuzzer: it finds faults of every kind, and finds none in a short run; `make fuzz` is the long one."""

import os
import time

import numpy as np
import pytest

from animatediff.errors import UserError
from tests.fuzz import folders, tables, videos, weights
from tests.fuzz.harness import Report, Subject, fuzz, rng_of


class PanicError(BaseException):
    """As libraries in Rust raise."""


def of_another_class(_rng, _folder):
    return {}["key"]


def panics(_rng, _folder):
    raise PanicError("called `Option::unwrap()` on a `None` value")


def hangs(_rng, _folder):
    time.sleep(60)


def takes_memory(_rng, _folder):
    return f"read {np.ones(100 << 20, np.uint8).sum()}"


def dies(_rng, _folder):
    os._exit(1)


def recurses(rng, folder):
    return recurses(rng, folder)


FAULTY = (of_another_class, panics, hangs, takes_memory, dies, recurses)


@pytest.mark.parametrize("faulty", FAULTY)
def test_every_kind_of_fault_is_found_and_costs_its_case_alone(faulty, monkeypatch):
    monkeypatch.setattr("tests.fuzz.harness.PATIENCE_S", 5)

    def run(rng, folder):
        if rng.random() == rng_of(subject, 3, 1).random():
            return faulty(rng, folder)
        return "read"

    # A busy machine may take seconds to begin a case; only what hangs is waited for.
    subject = Subject("some", run, deadline_s=1 if faulty is hangs else 60, memory_mb=64)
    report = fuzz(subject, range(3), seed=3)
    assert report.cases == 3
    assert 1 in [number for number, _ in report.faults]
    assert faulty is hangs or len(report.faults) == 1


@pytest.mark.parametrize(
    ("outcome", "seconds", "peak", "is_fault"),
    [
        ("read", 5.0, 64.0, False),
        ("read", 5.1, 0.0, True),
        ("refused", 0.0, 65.0, True),
        ("FAULT: KeyError", 0.0, 0.0, True),
        ("FAULT message: of two lines", 0.0, 0.0, True),
    ],
)
def test_a_deadline_and_a_bound_are_kept_or_told(outcome, seconds, peak, is_fault):
    subject, report = Subject("some", lambda rng, folder: "", deadline_s=5, memory_mb=64), Report("some")
    report.add(subject, 7, outcome, seconds, peak)
    assert [number for number, _ in report.faults] == [7] * is_fault
    assert f"{len(report.faults)} faults" in str(report)


def test_refusals_are_no_faults_and_a_seed_gives_the_same_cases():
    def run(rng, folder):
        if rng.random() < 0.5:
            raise UserError("it is broken")
        (folder / "a").write_bytes(rng.randbytes(rng.randrange(9)))
        return (folder / "a").read_bytes().hex() or "none"

    subject = Subject("some", run, deadline_s=60, memory_mb=64)
    first, again, other = (fuzz(subject, range(20), seed=seed) for seed in (1, 1, 2))
    assert not first.faults
    assert first.outcomes["refused"] > 0
    assert first.outcomes == again.outcomes != other.outcomes


@pytest.mark.parametrize(
    ("subject", "cases", "warm"),
    [
        (weights.WEIGHTS, 120, weights.warm),
        (tables.TABLES, 150, tables.warm),
        (videos.VIDEOS, 40, videos.warm),
        (folders.FOLDERS, 8, weights.warm),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_no_file_gets_through(subject, cases, warm):
    warm()
    report = fuzz(subject, range(cases), seed=1)
    assert report.cases == cases
    assert not report.faults, report


@pytest.mark.slow
@pytest.mark.parametrize(
    ("subject", "cases", "warm"),
    [
        (weights.WEIGHTS, 1000, weights.warm),
        (tables.TABLES, 1000, tables.warm),
        (videos.VIDEOS, 500, videos.warm),
        (folders.FOLDERS, 60, weights.warm),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_no_file_of_many_gets_through(subject, cases, warm):
    test_no_file_gets_through(subject, cases, warm)
