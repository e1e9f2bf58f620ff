"""Functions that Ray's processes pass on without opening them."""

import nturl2path
import sys

import pytest
import ray

from pipelines.cluster.object_store import FunctionInObjectStore

pytestmark = pytest.mark.ray


def test_only_who_calls_a_function_imports_what_it_needs(cluster):
    @ray.remote(num_cpus=0)
    def carry_and_call(function):
        before = "nturl2path" in sys.modules
        return before, function(p="a"), "nturl2path" in sys.modules

    stored = FunctionInObjectStore(nturl2path.pathname2url)
    assert ray.get(carry_and_call.remote(stored)) == (False, "a", True)
