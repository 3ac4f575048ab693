import pytest
import torch
from training_helpers import Means, pictures

from relprop.errors import DataError
from relprop.training import RECIPES, Report, Row, card, measure, override
from relprop.training.checkpoint import save_weights


def reds_and_blues(tmp_path):
    """A network that calls red 0 and blue 1 with logits 1 and 0, as a file."""
    model = Means()
    model.fc.weight.data = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    recipe = override(
        RECIPES.build("cifar10"), "arch=training_helpers:Means", "size=8", "resize=8", "mean=0,0,0", "std=1,1,1"
    )
    save_weights(tmp_path / "m.safetensors", model.state_dict(), recipe, ("red", "blue"), seed=3)
    return tmp_path / "m.safetensors", recipe


def test_confusion_accuracy_and_loss_by_hand(tmp_path):
    path, _ = reds_and_blues(tmp_path)
    red, blue = (255, 0, 0), (0, 0, 255)
    report = measure(path, pictures([(red, 0), (red, 0), (red, 1), (blue, 1)]), arch="training_helpers:Means", batch=3)
    assert report.confusion.tolist() == [[2, 0], [1, 1]]
    assert report.accuracy == 0.75
    assert report.standard_error == pytest.approx((0.75 * 0.25 / 4) ** 0.5)
    right = torch.tensor(1 + torch.e**-1).log().item()  # -log softmax of logits (1, 0) at the first
    assert report.loss == pytest.approx((3 * right + (right + 1)) / 4)


def test_a_label_that_the_network_lacks_is_refused(tmp_path):
    path, _ = reds_and_blues(tmp_path)
    with pytest.raises(DataError, match=r"memory has label 2; .*m.safetensors knows 0 to 1"):
        measure(path, pictures([((0, 0, 0), 2)]), arch="training_helpers:Means")


def test_the_card_says_it_all(tmp_path):
    _, recipe = reds_and_blues(tmp_path)
    rows = [Row(0, 0.4, 2.0, 0.2, 1.5, 0.5, 90.0, 10.0), Row(1, 0.2, 1.0, 0.6, 0.75, 0.875, 90.0, 10.0)]
    report = Report("here", torch.tensor([[40, 10], [5, 45]]), 0.5)
    text = card("Reds", recipe, 3, "relprop train x --seed 3", rows, 1, ("red", "blue"), report)
    for line in (
        "# Reds",
        "    relprop train x --seed 3",
        "    lr               0.4",
        "| red | 40 | 10 |",
        "| blue | 5 | 45 |",
    ):
        assert line in text.splitlines()
    assert (
        "seed 3: 2 epochs in 3 minutes; the weights of epoch 2 were kept. On the pictures held out: accuracy 87.5%"
        in text
    )
    assert (
        "the 100 test pictures, of this file as loaded: **85.00%** (standard error 3.57%); cross entropy 0.500" in text
    )


def test_many_classes_show_their_most_frequent_confusions(tmp_path):
    _, recipe = reds_and_blues(tmp_path)
    confusion = torch.diag(torch.full((30,), 9))
    confusion[4, 7], confusion[7, 4] = 3, 5
    text = card("Many", recipe, 0, "x", [Row(0, 1, 1, 1, None, None, 1, 1)], 0, tuple(map(str, range(30))),
                Report("here", confusion, 0.5))  # fmt: skip
    assert text.rstrip().splitlines()[-4:] == [
        "| class | taken for | pictures |",
        "| --- | --- | ---: |",
        "| 7 | 4 | 5 |",
        "| 4 | 7 | 3 |",
    ]
