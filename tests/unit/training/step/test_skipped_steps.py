import pytest
import torch

from animatediff.errors import UserError
from animatediff.training.step.skipped_steps import SkippedStep, SkippedSteps

NAN = float("nan")


def nothing():
    pass


def make(limit=2, *, gather=lambda ids: ids, scaler_may_skip=False, on_skip=nothing):
    return SkippedSteps(limit, gather, lr=1e-4, scaler_may_skip=scaler_may_skip, on_skip=on_skip)


def add(skips, step, is_finite, losses=(0.5, 0.5)):
    skips.add(step, torch.tensor(is_finite), torch.tensor(losses), ["a", "b"])


def test_each_skipped_step_is_counted_with_the_clips_whose_loss_is_not_finite():
    skips = make()
    add(skips, 0, True)
    add(skips, 1, False, (0.5, NAN))
    assert skips.number == 0  # nobody waits for the newest step
    add(skips, 2, True)
    skips.check_last_step()
    assert skips.number == 1
    assert skips.unreported == [SkippedStep(1, ["b"])]


def test_whoever_looks_at_a_skipped_step_it_is_told_once():
    told = []
    skips = make(on_skip=lambda: told.append(1))
    add(skips, 0, False)
    add(skips, 1, True)
    add(skips, 2, False)
    assert len(told) == 1
    skips.check_last_step()  # as before a checkpoint
    add(skips, 3, True)
    skips.check_last_step()
    assert len(told) == 2


def test_where_only_gradients_are_not_finite_the_whole_batch_is_named():
    skips = make()
    add(skips, 4, False)
    skips.check_last_step()
    assert skips.unreported == [SkippedStep(4, ["a", "b"])]


def test_an_overflow_of_the_loss_scaler_blames_no_clip():
    skips = make(scaler_may_skip=True)
    add(skips, 4, False)
    skips.check_last_step()
    assert skips.unreported == [SkippedStep(4, [])]


def test_too_many_in_a_row_stop_the_run_and_name_clips_of_all_workers():
    skips = make(gather=lambda ids: [*ids, "of-another-worker"])
    for step in (0, 1):
        add(skips, step, False, (NAN, 0.5))
    add(skips, 2, False, (NAN, 0.5))
    message = (
        r"3 steps in a row, up to step 3, had a loss or gradient that is not finite: try a lower optim\.lr than "
        r"0\.0001.*clips: a, of-another-worker\."
    )
    with pytest.raises(UserError, match=message) as caught:
        skips.check_last_step()
    assert "\n" not in str(caught.value)


def test_only_skips_in_a_row_are_too_many():
    skips = make(limit=1)
    for step in range(20):
        add(skips, step, step % 2 == 0)
    skips.check_last_step()
    assert skips.number == 10


def test_of_many_clips_the_first_are_named():
    skips = make(limit=0)
    skips.add(0, torch.tensor(False), torch.full((20,), NAN), [f"clip-{i}" for i in range(20)])
    with pytest.raises(UserError, match=r"clip-7 and 12 more\.$"):
        skips.check_last_step()
