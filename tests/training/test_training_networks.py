import pytest
import torch
from torch import nn

from relprop.errors import ModelError
from relprop.training import RECIPES, override
from relprop.training.checkpoint import save_weights
from relprop.training.networks import build_network, with_new_head


def test_fine_tuning_keeps_everything_but_the_last_layer(tmp_path):
    recipe = override(RECIPES.build("cub"), "arch=cifar-resnet8-b", "init=random", "size=8", "resize=8")
    before = build_network(recipe, 10, seed=1)
    path = tmp_path / "before.safetensors"
    save_weights(path, before.state_dict(), recipe, tuple("abcdefghij"), seed=1)
    after = build_network(override(recipe, f"init={path}"), 3, seed=2)
    assert after.fc.weight.shape == (3, 64)
    old = before.state_dict()
    changed = {name for name, tensor in after.state_dict().items() if not torch.equal(tensor, old[name])}
    assert changed == {"fc.weight", "fc.bias"}


def test_the_seed_draws_the_weights():
    recipe = override(RECIPES.build("cub"), "arch=resnet18", "init=random")
    one, again, other = (build_network(recipe, 3, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["conv1.weight"], other["conv1.weight"])
    assert not torch.equal(one["fc.weight"], other["fc.weight"])


def test_the_head_is_found_wherever_it_is():
    model = nn.Sequential(nn.Linear(2, 4), nn.ModuleDict({"head": nn.Linear(4, 9, bias=False)}))
    with_new_head(model, 5)
    assert model[0].weight.shape == (4, 2)
    assert model[1]["head"].weight.shape == (5, 4)
    assert model[1]["head"].bias is None


def test_a_network_without_a_linear_layer_is_refused():
    with pytest.raises(ModelError, match=r"Sequential has no nn.Linear that could be its last layer"):
        with_new_head(nn.Sequential(nn.Conv2d(3, 4, 1)), 5)


def test_an_unknown_architecture_is_named():
    with pytest.raises(ModelError, match="no model is named 'resnet51'; did you mean"):
        build_network(override(RECIPES.build("cub"), "arch=resnet51", "init=random"), 3, seed=0)
