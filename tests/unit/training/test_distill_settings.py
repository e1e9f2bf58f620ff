"""What is told of guidance that would leave out every step can be done."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from animatediff.training.distill_settings import DistillConfig


def distill(num_steps, start):
    return DistillConfig(num_inference_steps=num_steps, sampled_guidance={"start": start})


def refusal(num_steps, start):
    with pytest.raises(ValidationError, match="none would be guided") as caught:
        distill(num_steps, start)
    return re.search(r"start (\S+) lies behind .* set at most ([\d.]+)", str(caught.value)).groups()


@pytest.mark.parametrize("num_steps", range(2, 101))
def test_the_start_that_is_suggested_is_accepted_and_no_other_of_three_places_is_later(num_steps):
    _, suggested = refusal(num_steps, 0.9999)
    assert distill(num_steps, float(suggested)).sampled_guidance.start == float(suggested)
    with pytest.raises(ValidationError, match="none would be guided"):
        distill(num_steps, float(suggested) + 0.001)


@given(st.integers(2, 100), st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_what_is_refused_reads_otherwise_than_what_is_suggested(num_steps, start):
    if (num_steps - 1) / num_steps >= start:
        distill(num_steps, start)
    else:
        told, suggested = refusal(num_steps, start)
        assert float(told) == start > float(suggested)
