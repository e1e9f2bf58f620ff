"""The platform, once for all tests; and why there can be none here."""

import sys
import tempfile
from pathlib import Path

import pytest

from tests.cluster import network
from tests.cluster.platform import REPOSITORY, Platform, postgres_programs, wait_until


def _why_not():
    if reason := network.why_not():
        return reason
    if postgres_programs() is None:
        return "PostgreSQL's programs are not there: apt-get install postgresql"
    # The hosts have a /tmp of their own.
    return "the checkout must not be in /tmp" if str(REPOSITORY).startswith("/tmp/") else None


@pytest.fixture(scope="session")
def platform():
    if reason := _why_not():
        pytest.skip(reason)
    # Not in /tmp, which the hosts do not share: PostgreSQL has its data there.
    with tempfile.TemporaryDirectory(prefix="ad-", dir="/var/tmp") as folder, Platform(Path(folder)) as made:
        yield made
        sys.stdout.write(made.log())  # shown where a test has failed


@pytest.fixture
def whole(platform):
    """The platform with all of its hosts, also where an earlier test has lost one."""
    for name in ("one", "two"):
        host = platform.network.hosts[name]
        host.restore()
        if not host.is_running():
            platform.start_ray(name)
    wait_until(lambda: platform.num_hosts() == 3, "not all hosts are there")
    return platform
