import math

import pytest
import torch
from safetensors.torch import load_file
from training_helpers import pictures

from relprop.errors import DataError, RunError
from relprop.models import load_model
from relprop.training import Finished, Row, Step, measure, override, train
from relprop.training.state import start

BY_HAND = (
    "arch=training_helpers:Means",
    "mean=0,0,0",
    "std=1,1,1",
    "holdout=0",
    "pad=0",
    "batch=2",
    "schedule=constant",
    "momentum=0",
    "nesterov=false",
    "weight_decay=0",
    "ema=0",
    "epochs=1",
)


def finish(recipe, dataset, out, seed=0, until=None, **options):
    """Train to the end, or stop as a kill would after `until` events; returns the final event and the weights."""
    events = []
    for event in train(recipe, dataset, out, seed=seed, device="cpu", **options):
        events.append(event)
        if len(events) == until:
            return events, None
    return events, load_file(out / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_one_step_by_hand(small, tmp_path):
    # red (label 0) and blue (label 1), weights 0: p = (1/2, 1/2), and the gradient of the mean loss with respect to
    # the weights is the mean of (p - y) x^T: row 0 is (-1/4, 0, 1/4), row 1 its opposite; that of the bias is 0
    data = pictures([((255, 0, 0), 0), ((0, 0, 255), 1)])
    events, weights = finish(override(small, *BY_HAND, "lr=2"), data, tmp_path)
    assert weights["fc.weight"].tolist() == [[0.5, 0.0, -0.5], [-0.5, 0.0, 0.5]]
    assert weights["fc.bias"].tolist() == [0.0, 0.0]
    step, row, finished = events
    assert step == Step(epoch=0, step=0, steps=1, pictures=2, loss=pytest.approx(math.log(2)))
    assert (row.epoch, row.lr, row.train_loss, row.val_loss) == (0, 2.0, pytest.approx(math.log(2)), None)
    assert (finished.kept, finished.rows) == (0, (row,))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["label_smoothing=0.2"], 0.4),  # y = (0.9, 0.1), so p - y = (-0.4, 0.4) for red
        (["momentum=0.5"], 0.5),  # the first velocity is the gradient
        (["momentum=0.5", "nesterov=true"], 0.75),  # the step is g + 0.5 v
    ],
)
def test_settings_of_the_step_by_hand(small, tmp_path, settings, expected):
    data = pictures([((255, 0, 0), 0), ((0, 0, 255), 1)])
    _, weights = finish(override(small, *BY_HAND, "lr=2", *settings), data, tmp_path)
    row = [expected, 0.0, -expected]
    assert weights["fc.weight"].flatten().tolist() == pytest.approx([*row, *(-value for value in row)])


def test_an_epoch_draws_full_batches_in_an_order_of_its_own(small, noise, tmp_path):
    read = []

    def recorded(sample):
        read.append(sample.id)
        return noise.read(sample)

    recipe = override(small, "augment=crop", "batch=10", "epochs=2")
    finish(recipe, type(noise)("recorded", noise.samples, recorded, noise.classes), tmp_path)
    held = {sample.id for sample in held_out(noise, recipe).samples}
    assert len(held) == 8
    assert len(read) == 2 * (30 + 8)  # of 32 pictures, three batches of 10; then those held out
    first, second = read[:30], read[38:68]
    assert set(read[30:38]) == set(read[68:]) == held
    for epoch in (first, second):
        assert len(set(epoch)) == 30
        assert not held & set(epoch)
    assert first != second


def test_validation_can_be_augmented_as_released(small, noise, tmp_path):
    runs = {}
    for way in ("centred", "augmented"):
        recipe = override(small, "augment=crop", "batch=10", "epochs=2", f"validate={way}")
        events, runs[way, "weights"] = finish(recipe, noise, tmp_path / way)
        runs[way] = [event.val_loss for event in events if hasattr(event, "val_loss")]
    assert same(runs["centred", "weights"], runs["augmented", "weights"])  # the same training, and yet
    assert all(a != b for a, b in zip(runs["centred"], runs["augmented"], strict=True))


def test_weight_decay_and_momentum_by_hand(small, tmp_path):
    data = pictures([((255, 255, 255), 0), ((255, 255, 255), 0)])
    recipe = override(small, *BY_HAND, "lr=1", "epochs=2", "momentum=0.5", "weight_decay=0.1", "classes=a,b")
    _, weights = finish(recipe, data, tmp_path)
    # bias b of class 0, first step: g = p - 1 = -1/2, v = g, b = 1/2; its weights do the same, class 1 the opposite
    # second: logits, sums of 4 such, differ by 4; p = sigmoid(4), g = p - 1 + 0.1 b, v = 0.5 (-1/2) + g, b = 1/2 - v
    gradient = -(1 - 1 / (1 + math.exp(-4))) + 0.1 * 0.5
    expected = 0.5 - (0.5 * -0.5 + gradient)
    assert weights["fc.bias"].tolist() == pytest.approx([expected, -expected])


def test_accumulated_parts_make_the_step_of_the_whole_batch(small, tmp_path):
    draw = torch.Generator().manual_seed(0)
    data = pictures([(torch.randint(256, (3,), generator=draw).tolist(), i % 2) for i in range(8)])
    recipe = override(small, *BY_HAND, "batch=8", "epochs=3", "lr=0.5")
    _, whole = finish(recipe, data, tmp_path / "whole")
    _, parts = finish(override(recipe, "accumulate=4"), data, tmp_path / "parts")
    torch.testing.assert_close(parts["fc.weight"], whole["fc.weight"], rtol=1e-5, atol=1e-7)
    assert whole["fc.weight"].abs().min() > 0


def test_the_floor_holds_the_learning_rate(small, tmp_path):
    data = pictures([((255, 0, 0), 0), ((0, 0, 255), 1)])
    events, _ = finish(override(small, *BY_HAND, "epochs=3", "schedule=step:every=1", "floor=0.005"), data, tmp_path)
    assert [event.lr for event in events if isinstance(event, Row)] == pytest.approx([0.1, 0.01, 0.005])


def test_pictures_are_learnt_by_heart(small, noise, tmp_path):
    recipe = override(small, "epochs=25", "batch=32", "pad=0", "ema=0.5")
    events, _ = finish(recipe, noise, tmp_path)
    rows = [event for event in events if isinstance(event, Row)]
    assert rows[0].train_loss > 1.2  # ln 4 = 1.39 is chance
    assert rows[-1].train_loss < 0.4
    assert rows[-1].train_accuracy > 0.9
    assert measure(tmp_path / "model.safetensors", noise).accuracy > 0.7  # the pictures held out are still noise


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("until", [1, 3, 5])  # in the first epoch, after it, in the second
def test_a_run_stopped_anywhere_ends_with_the_same_weights(small, noise, tmp_path, precision, until):
    recipe = override(small, f"precision={precision}")
    events, whole = finish(recipe, noise, tmp_path / "whole")
    assert [type(event) for event in events] == [Step, Step, Row] * 3 + [Finished]
    finish(recipe, noise, tmp_path / "stopped", until=until)
    resumed, weights = finish(recipe, noise, tmp_path / "stopped")
    assert len([event for event in resumed if isinstance(event, Row)]) == 3 - until // 3
    assert same(weights, whole)
    assert [row.val_loss for row in resumed[-1].rows] == [row.val_loss for row in events[-1].rows]


def test_dropout_resumes_too(small, noise, tmp_path):
    recipe = override(small, "arch=training_helpers:Dropped", "momentum=0.9", "batch=8")
    _, whole = finish(recipe, noise, tmp_path / "whole")
    finish(recipe, noise, tmp_path / "stopped", until=6)
    torch.rand(7)  # torch's own generator is elsewhere by now
    _, weights = finish(recipe, noise, tmp_path / "stopped")
    assert same(weights, whole)


def test_the_seed_decides(small, noise, tmp_path):
    (_, first), (_, again), (_, other) = (
        finish(small, noise, tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert same(first, again)
    assert not same(first, other)


def test_training_leaves_torchs_generator_alone(small, noise, tmp_path):
    state = torch.get_rng_state()
    finish(small, noise, tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


def test_it_stops_early_and_keeps_the_best(small, noise, tmp_path):
    recipe = override(small, "epochs=60", "patience=2", "keep=best", "ema=0", "schedule=constant")
    events, weights = finish(recipe, noise, tmp_path)
    losses = [row.val_loss for row in events[-1].rows]
    assert len(losses) < 60
    assert events[-1].kept == losses.index(min(losses)) == len(losses) - 3
    best = measure(tmp_path / "model.safetensors", held_out(noise, recipe))
    assert best.loss == pytest.approx(min(losses), rel=1e-4)
    again, unchanged = finish(recipe, noise, tmp_path)  # a finished run is not trained any further
    assert [type(event) for event in again] == [Finished]
    assert same(weights, unchanged)


def held_out(dataset, recipe):
    """The pictures that seed 0 holds out."""
    from relprop.training.pictures import hold_out

    labels = torch.tensor([sample.label for sample in dataset.samples])
    _, held = hold_out(labels, recipe.holdout, 0)
    return type(dataset)("held", tuple(dataset.samples[i] for i in held), dataset.read, dataset.classes)


def test_the_moving_average_by_hand(small):
    state = start(override(small, "arch=training_helpers:Means", "ema=0.25"), 2, seed=0)
    for value in (1.0, 2.0, 3.0):
        torch.nn.init.constant_(state.model.fc.bias, value)
        state.average.update_parameters(state.model)
    # the first is copied; decay (1 + 1) / (10 + 1) at n = 1, then min(0.25, 3 / 12)
    second = 1 * 2 / 11 + 2 * 9 / 11
    assert state.judged.fc.bias.tolist() == pytest.approx([second / 4 + 3 * 3 / 4] * 2)


def test_the_file_loads_with_all_it_needs(small, noise, tmp_path):
    finish(override(small, "store=float16"), noise, tmp_path)
    loaded = load_model(str(tmp_path / "model.safetensors"))
    assert loaded.classes == ("a", "b", "c", "d")
    assert (loaded.preprocess.size, loaded.preprocess.mean) == (8, small.mean)
    stored = load_file(tmp_path / "model.safetensors")
    assert stored["conv1.weight"].dtype == torch.float16
    assert loaded.model.layer2[0].downsample[0].weight.shape == (32, 16, 1, 1)


def test_another_run_in_the_same_folder_is_refused(small, noise, tmp_path):
    finish(small, noise, tmp_path, until=3)
    with pytest.raises(RunError, match=r"holds another run: its lr is 0.1, not 0.2; its seed is 0, not 1\. Choose"):
        finish(override(small, "lr=0.2"), noise, tmp_path, seed=1)
    fewer = type(noise)("fewer", noise.samples[:36], noise.read, noise.classes)
    with pytest.raises(RunError, match=r"its data is '40 pictures, digest .*', not '36 pictures"):
        finish(small, fewer, tmp_path)


def test_divergence_is_said_and_the_last_good_checkpoint_kept(small, noise, tmp_path):
    with pytest.raises(RunError, match=r"the loss is (nan|inf) at step \d of epoch \d.*training diverged"):
        finish(override(small, "lr=1e30", "schedule=constant"), noise, tmp_path)
    assert not list(tmp_path.glob("model*"))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("batch=64", "32 pictures are left to train on, fewer than a batch of 64"),
        ("holdout=0.01", "holdout=0.01 of so few pictures a class rounds to none"),
    ],
)
def test_too_few_pictures_are_refused(small, noise, tmp_path, setting, message):
    with pytest.raises(DataError, match=message):
        finish(override(small, setting), noise, tmp_path)
