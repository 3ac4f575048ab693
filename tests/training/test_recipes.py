import json

import pytest

from relprop.errors import UnknownNameError, UsageError
from relprop.training import RECIPES, Recipe, override


def test_cub_is_the_recipe_of_the_release():
    cub = RECIPES.build("cub")
    assert (cub.arch, cub.init, cub.size, cub.resize, cub.augment) == ("resnet50", "pretrained", 224, 256, "crop")
    assert (cub.lr, cub.floor, cub.weight_decay, cub.batch) == (1e-3, 1e-6, 1e-4, 32)
    assert (cub.epochs, cub.patience, cub.holdout, cub.keep) == (300, 6, 0.1, "best")
    assert cub.seeds == (40, 41, 42, 43, 44)
    assert cub.schedule == "plateau:factor=0.333:patience=1"
    assert override(cub, "schedule=step:every=30:factor=0.1").schedule == "step:every=30:factor=0.1"


def test_cub_released_is_what_the_script_does():
    released = RECIPES.build("cub-released")
    changes = ("schedule=released", "augment=resize-crop", "holdout_by=random", "validate=augmented")
    assert override(RECIPES.build("cub"), *changes).to_json() | {"name": "cub-released"} == released.to_json()


def test_folder_takes_its_root():
    assert RECIPES.build("folder:pictures/mine").data == "folder:pictures/mine"


@pytest.mark.parametrize("name", ["cub", "cub-released", "cifar10"])
def test_what_is_printed_can_be_set(name):
    recipe = RECIPES.build(name)
    lines = [line.split(None, 1) for line in str(recipe).splitlines()]
    settings = [f"{line[0]}={line[1] if len(line) > 1 else ''}" for line in lines if line[0] != "name"]
    assert override(Recipe(name=name, epochs=1), *settings) == recipe


def test_json_is_plain():
    plain = RECIPES.build("cub").to_json()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["seeds"] == [40, 41, 42, 43, 44]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["epoch=3"], "cannot set 'epoch=3': write NAME=VALUE, with a name among data, test, arch"),
        (["epochs"], "cannot set 'epochs'"),
        (["epochs=many"], "epochs must be a whole number, not 'many'"),
        (["mean=0.5"], "mean takes 3 values with commas, not '0.5'"),
        (["augment=rotate"], "augment must be one of crop, resize-crop, shift, not 'rotate'"),
        (["epochs=0"], "epochs must be at least 1, not 0"),
        (["batch=30", "accumulate=4"], r"batch \(30\) must be a multiple of accumulate \(4\)"),
        (["size=300"], r"resize \(256\) must be at least size \(300\)"),
        (["holdout=0"], "without holdout there is no validation loss: set patience=none, keep=last"),
        (["holdout=1"], "holdout must be a share from 0 up to 1, not 1.0"),
        (["epochs=0", "lr=0"], r"epochs must be at least 1, not 0; lr \(0.0\) must be positive"),
        (["nesterov=true", "momentum=0"], "nesterov needs a momentum"),
        (["size=4", "resize=4"], r"pad must be from 0 up to size \(4\), not 4"),
        (["seeds=none"], "seeds must name at least one"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(UsageError, match=message):
        override(RECIPES.build("cub"), *settings)


def test_an_unknown_schedule_is_named():
    with pytest.raises(UnknownNameError, match="did you mean 'cosine'"):
        override(RECIPES.build("cub"), "schedule=cosin")
