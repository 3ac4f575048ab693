import math

import pytest
import torch

from relprop.training.schedules import SCHEDULES, Position, best_epoch, should_stop


@pytest.mark.parametrize(
    ("spec", "epoch", "expected"),
    [
        ("constant", 7.5, 1.0),
        ("step", 29.9, 1.0),
        ("step", 30.0, 0.1),
        ("step", 60.0, 0.01),
        ("step:every=2:factor=0.5", 5.0, 0.25),
        ("one-cycle:warmup=0.2", 0.0, 0.0),
        ("one-cycle:warmup=0.2", 10.0, 0.5),
        ("one-cycle:warmup=0.2", 20.0, 1.0),
        ("one-cycle:warmup=0.2", 60.0, 0.5),
        ("one-cycle:warmup=0.2", 100.0, 0.0),
        ("one-cycle:warmup=0", 0.0, 1.0),
        ("cosine:warmup=0.1", 5.0, 0.5),
        ("cosine:warmup=0.1", 10.0, 1.0),
        ("cosine:warmup=0.1", 55.0, 0.5),
        ("cosine:warmup=0.1", 100.0, 0.0),
    ],
)
def test_factor_by_hand(spec, epoch, expected):
    assert SCHEDULES.build(spec)(Position(epoch, 100)) == pytest.approx(expected, abs=1e-12)


def test_a_plateau_cuts_after_more_than_patience_epochs_without_a_better_loss():
    schedule = SCHEDULES.build("plateau:factor=0.5:patience=1")
    losses = (1.0, 0.9, 0.95, 0.91, 0.92, 0.93, 0.5, 0.6)
    #         new  new  waits cut   waits cut   new  waits
    expected = [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25]
    assert [schedule(Position(n, 10, losses[:n])) for n in range(1, 9)] == expected


@pytest.mark.parametrize("patience", [0, 1, 3])
def test_a_plateau_cuts_when_torch_does(patience):
    losses = torch.rand(60, generator=torch.Generator().manual_seed(patience)).tolist()
    schedule = SCHEDULES.build(f"plateau:factor=0.333:patience={patience}")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.333, patience=patience, eps=0.0)
    for done, loss in enumerate(losses, start=1):
        theirs.step(loss)
        ours = schedule(Position(done, 60, tuple(losses[:done])))
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)


def test_released_does_what_a_step_schedule_given_the_loss_does():
    losses = [5.3, 4.0, 29.9, 31.0, 65.0, 0.2]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.StepLR(optimizer, step_size=30, gamma=0.1)
    optimizer.step()
    for done, loss in enumerate(losses, start=1):
        with pytest.warns(UserWarning, match="epoch parameter"):
            theirs.step(loss)
        ours = SCHEDULES.build("released")(Position(done, 300, tuple(losses[:done])))
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
    assert SCHEDULES.build("released")(Position(0.0, 300)) == 1.0


def test_training_stops_after_patience_epochs_without_a_new_best():
    losses = [3.0, 2.0, 2.0, 2.5, 1.9, 2.2]
    assert [should_stop(losses[:n], 2) for n in range(7)] == [False, False, False, False, True, False, False]
    assert not should_stop(losses, None)


def test_the_first_of_equal_losses_is_the_best_and_nan_never_is():
    assert best_epoch([3.0, 1.0, 1.0]) == 1
    assert best_epoch([math.nan, 5.0]) == 1
