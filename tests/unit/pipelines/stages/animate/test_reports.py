"""Reports of a running animate job: not too often, and a storage that fails for a moment does not end the job."""

import itertools

import pytest

from animatediff.errors import UserError
from pipelines.stages.animate import reports
from pipelines.stages.animate.reports import InterimReports


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when they are told to."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    found = Clock()
    monkeypatch.setattr(reports, "time", found)
    return found


def test_reports_take_a_small_part_of_the_time(clock):
    written = []

    def write():
        written.append(clock.now)
        clock.now += 6.0

    interim = InterimReports(write)
    end = clock.now + 3000
    while clock.now < end:
        clock.now += 1
        interim.write_if_due()
    assert written[0] == 1030
    # 6 s every 306 s are 2 %.
    assert [later - earlier for earlier, later in itertools.pairwise(written)] == [306.0] * 9


def test_a_storage_that_fails_is_a_warning(clock, caplog):
    calls = []

    def write():
        calls.append(clock.now)
        if len(calls) == 1:
            raise UserError("cannot reach s3://bucket")

    interim = InterimReports(write)
    for _ in range(3):
        clock.now += 31
        interim.write_if_due()
    assert len(calls) == 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "cannot reach s3://bucket" in caplog.text
