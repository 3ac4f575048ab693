import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from training_helpers import pictures

from relprop.errors import DataError
from relprop.seeding import generator, mix
from relprop.training import RECIPES, override
from relprop.training.pictures import Decoded, hold_out, prepare, reflect, shift_and_flip


def test_indices_beyond_the_border_are_reflected():
    assert reflect(torch.arange(-3, 7), 4).tolist() == [3, 2, 1, 0, 1, 2, 3, 2, 1, 0]


def test_each_picture_is_a_shift_or_a_flipped_shift_of_itself():
    row = torch.tensor([0, 1, 2, 3, 4, 5], dtype=torch.uint8)
    pixels = row.view(1, 1, 6, 1).expand(400, 6, 6, 3).contiguous()  # columns tell the horizontal shift
    out = shift_and_flip(pixels, generator(0), pad=1, cutout=0)[:, 0, :, 0].tolist()
    left, stay, right = [1, 2, 3, 4, 5, 4], [0, 1, 2, 3, 4, 5], [1, 0, 1, 2, 3, 4]
    possible = [wanted[::step] for wanted in (left, stay, right) for step in (1, -1)]
    counts = [out.count(wanted) for wanted in possible]
    assert sum(counts) == 400
    assert all(40 <= count <= 95 for count in counts)  # 67 expected each, five deviations of 7.5 at most


def test_cutout_greys_a_square_of_its_side():
    out = shift_and_flip(torch.zeros(300, 9, 9, 3, dtype=torch.uint8), generator(1), pad=0, cutout=3)
    grey = (out == 127).all(dim=-1).sum(dim=(1, 2))
    assert set(grey.tolist()) == {4, 6, 9}  # in a corner, at an edge, inside


def test_the_same_seed_gives_the_same_change():
    pixels = torch.arange(8 * 75, dtype=torch.int64).to(torch.uint8).view(8, 5, 5, 3)
    first, again, other = (shift_and_flip(pixels, generator(seed), 2, 0) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_every_batch_is_changed_in_its_own_way():
    same = torch.arange(75).to(torch.uint8).view(1, 5, 5, 3).expand(16, 5, 5, 3)
    drawn = Decoded(same, torch.zeros(16, dtype=torch.int64), pad=2, cutout=0)
    (first, _), (second, _) = drawn.draw([torch.arange(8), torch.arange(8, 16)], seed=0)
    assert not torch.equal(first, second)


def test_every_class_is_held_out_by_the_same_share():
    labels = torch.tensor([0] * 20 + [1] * 17 + [2] * 4)
    trained, held = hold_out(labels, 0.1, seed=5)
    assert sorted([*trained.tolist(), *held.tolist()]) == list(range(41))
    assert labels[held].tolist() == [0, 0, 1, 1]  # round(2.0), round(1.7), round(0.4)
    assert torch.equal(hold_out(labels, 0.1, seed=5)[1], held)
    assert not torch.equal(hold_out(labels, 0.1, seed=6)[1], held)


def test_a_random_share_is_held_out_of_all_together():
    labels = torch.arange(40) // 10
    trained, held = hold_out(labels, 0.1, 5, "random")
    assert (len(trained), len(held)) == (36, 4)
    assert sorted([*trained.tolist(), *held.tolist()]) == list(range(40))
    counts = {tuple(torch.bincount(labels[hold_out(labels, 0.1, seed, "random")[1]], minlength=4)) for seed in range(9)}
    assert len(counts) > 1  # by class it would be one of each, whatever the seed


def test_files_can_be_resized_before_the_random_crop(noise):
    recipe = override(RECIPES.build("cub"), "size=6", "resize=16", "augment=resize-crop")
    at, resize = [torch.tensor([3, 1, 0])], v2.Resize(16)
    (found, _), *_ = prepare(noise, recipe).draw(at, 1)
    larger = type(noise)("larger", noise.samples, lambda sample: resize(noise.load(sample)), None)
    (expected, _), *_ = prepare(larger, override(recipe, "augment=crop")).draw(at, 1)
    assert torch.equal(found, expected)
    (plain, _), *_ = prepare(noise, override(recipe, "augment=crop")).draw(at, 1)
    assert not torch.equal(found, plain)


def test_seeds_are_mixed_in_order():
    assert mix(1, 2) == mix(1, 2)
    assert len({mix(1, 2), mix(2, 1), mix(12), mix(1, 2, 0)}) == 4
    assert 0 <= mix(1, 2) < 2**63


def test_pictures_of_another_size_are_resized_once(small):
    wide = np.zeros((4, 8, 3), dtype=np.uint8)
    wide[:, 2:6] = 200  # the centre square
    source = pictures([((0, 0, 0), 0)])
    source = type(source)("wide", source.samples, lambda _: Image.fromarray(wide), None)
    (pixels, labels), *rest = prepare(source, small).draw([torch.tensor([0])], None)
    assert not rest
    assert labels.tolist() == [0]
    assert pixels.shape == (1, 3, 8, 8)
    assert pixels[0, :, 3, 3].tolist() == [200, 200, 200]


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_crops_depend_on_the_seed_alone(noise):
    recipe = override(RECIPES.build("cub"), "size=6", "resize=8")
    batches = [torch.tensor([3, 1]), torch.tensor([0, 2])]

    def draw(seed, workers=0, batches=batches):
        return torch.cat([pixels for pixels, _ in prepare(noise, recipe, workers).draw(batches, seed)])

    state = torch.get_rng_state()
    first = draw(seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.shape == (4, 3, 6, 6)
    assert torch.equal(draw(seed=1, workers=1), first)
    assert torch.equal(draw(seed=1, batches=[torch.tensor([3]), torch.tensor([1, 0, 2])]), first)
    assert not torch.equal(draw(seed=2), first)
    centre = torch.stack([torch.from_numpy(np.array(noise.load(noise.samples[i]))) for i in (3, 1, 0, 2)])
    assert torch.equal(draw(seed=None), centre.permute(0, 3, 1, 2)[:, :, 1:7, 1:7])


def test_an_empty_data_set_is_refused(small):
    with pytest.raises(DataError, match="memory holds no pictures"):
        prepare(pictures([]), small)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_picture_that_cannot_be_read_is_one_sentence(noise, workers):
    broken = type(noise)("torn", noise.samples, lambda _: b"no picture", None)
    drawn = prepare(broken, RECIPES.build("cub"), workers).draw([torch.tensor([1])], 0)
    with pytest.raises(DataError, match=r"\Asample 001 of torn cannot be read: .*not a picture[^\n]*\Z"):
        next(drawn)
