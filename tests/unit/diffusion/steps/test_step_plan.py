"""Which predictions each step computes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from animatediff.diffusion.steps.guidance_interval import GuidanceInterval
from animatediff.diffusion.steps.step_plan import plan_steps

intervals = st.tuples(st.floats(0, 1), st.floats(0, 1)).filter(lambda ends: ends[0] < ends[1])


def shown(num_steps, **settings):
    """A letter a step: `2` both predictions, `d` guided by an earlier difference, `1` not guided."""
    plan = plan_steps(num_steps, **{"is_guided": True} | settings)
    return "".join("2" if len(step.computed) == 2 else "d" if step.is_guided else "1" for step in plan)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "22222222"),
        ({"is_guided": False, "guidance_every": 2}, "11111111"),
        ({"guidance_interval": GuidanceInterval(end=0.5)}, "22221111"),
        ({"guidance_interval": GuidanceInterval(start=0.25, end=0.5)}, "11221111"),
        # No part of a guided step lies outside.
        ({"guidance_interval": GuidanceInterval(start=0.26, end=0.74)}, "11122111"),
        # Behind the interval some are guided again, none before it.
        ({"guidance_interval": GuidanceInterval(end=0.5), "guidance_after_every": 2}, "22221212"),
        ({"guidance_interval": GuidanceInterval(start=0.25, end=0.5), "guidance_after_every": 3}, "11221121"),
        ({"guidance_interval": GuidanceInterval(end=0.01), "guidance_after_every": 2}, "12121212"),
        ({"guidance_interval": GuidanceInterval(end=0.5), "guidance_after_every": 2, "guidance_every": 3}, "2dd21d12"),
        ({"guidance_every": 2}, "2d2d2d2d"),
        ({"guidance_every": 3}, "2dd2dd2d"),
        ({"guidance_every": 9}, "2ddddddd"),
        ({"guidance_every": 2, "guidance_interval": GuidanceInterval(start=0.125, end=0.75)}, "12d2d211"),
        ({"guidance_every": 4, "renewed": frozenset({1, 6})}, "22ddd22d"),
    ],
)
def test_of_eight_steps(settings, expected):
    assert shown(8, **settings) == expected


@given(st.integers(1, 60), intervals, st.integers(1, 10), st.frozensets(st.integers(0, 59)))
def test_a_difference_is_never_older_than_said_nor_taken_over_a_renewal(num_steps, ends, every, renewed):
    interval = GuidanceInterval(start=ends[0], end=ends[1])
    plan = plan_steps(num_steps, is_guided=True, guidance_interval=interval, guidance_every=every, renewed=renewed)
    for step, planned in enumerate(plan):
        assert planned.is_guided == interval.is_on(step, num_steps)
        assert planned.computed[-1] == "positive"
        if planned.is_guided and "negative" not in planned.computed:
            last = max(i for i in range(step) if "negative" in plan[i].computed)
            assert step - last < every
            assert renewed.isdisjoint(range(last + 1, step + 1))


@pytest.mark.parametrize("ends", [{"start": 0.5, "end": 0.5}, {"start": 0.8, "end": 0.2}, {"start": 1}])
def test_an_interval_without_a_step_in_it_is_refused(ends):
    with pytest.raises(ValidationError, match=r"guidance_interval\.start .* must be less than its end"):
        GuidanceInterval(**ends)
