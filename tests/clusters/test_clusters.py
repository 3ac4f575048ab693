"""Clusters of maps: closed forms, a planted watermark, the command and its report."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import commands

sys.path.insert(0, str(Path(__file__).parent))

import watermark

import relprop
from relprop.clusters import affinity, cluster, eigengap, pooled
from relprop.errors import InputError, UsageError

pytest.importorskip("sklearn")


def run(*arguments: object, code: int = 0) -> str:
    return commands.run(*arguments, code=code).output


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return watermark.write(tmp_path_factory.mktemp("watermark") / "data")


def maps(marked: int, plain: int = 30) -> torch.Tensor:
    """Relevance of the network that reads the watermark: plain images first."""
    drawn = [watermark.picture(seed, marked=seed >= plain) for seed in range(plain + marked)]
    x = torch.stack([torch.from_numpy(np.asarray(one).copy()).permute(2, 0, 1) / 255 for one in drawn])
    return relprop.explain(watermark.make(), x, target=1).heatmap


# the parts, by hand


def test_maps_are_pooled_to_means_and_scaled_to_length_one():
    heatmap = torch.zeros(4, 4)
    heatmap[:2, :2], heatmap[2:, 2:] = torch.tensor([[1.0, 2.0], [4.0, 5.0]]), -4.0  # means 3 and -4
    assert pooled([heatmap], 2)[0].tolist() == [[0.6, 0.0], [0.0, -0.8]]
    assert pooled([heatmap, 10 * heatmap.repeat_interleave(3, 0)], 2)[1].tolist() == [[0.6, 0.0], [0.0, -0.8]]
    assert pooled(torch.zeros(1, 4, 4), 2).tolist() == [[[0.0, 0.0], [0.0, 0.0]]]


def test_links_fall_off_with_the_distance_on_each_points_own_scale():
    points = np.array([[0.0], [1.0], [3.0]])
    found = affinity(points, 1)  # scales 1, 1 and 2
    assert found[0, 1] == pytest.approx(np.exp(-1.0))
    assert found[1, 2] == pytest.approx(np.exp(-4 / 2))
    assert found[0, 2] == pytest.approx(np.exp(-9 / 2))
    assert (found == found.T).all()
    assert np.diag(found).tolist() == [0, 0, 0]
    assert affinity(np.zeros((3, 2)), 1)[0].tolist() == [0, 1, 1]  # alike: no distance, no scale


def test_the_widest_gap_counts_the_clusters():
    assert eigengap(np.array([0.0, 0.01, 0.02, 0.7, 0.9, 1.0])) == 3
    assert eigengap(np.array([0.0, 0.8, 0.9, 1.0])) == 1
    assert eigengap(np.array([0.0, 0.1, 0.2, 0.9]), most=2) == 1


def test_groups_of_equal_maps_are_the_clusters_and_their_eigenvalues_are_zero():
    base = torch.eye(3).repeat_interleave(torch.tensor([9, 5, 7]), dim=0).view(-1, 3, 1).expand(-1, 3, 3)
    order = torch.randperm(21, generator=torch.Generator().manual_seed(0))
    found = cluster(base[order], side=3, neighbours=4)
    kind = base[order][:, :, 0].argmax(1)
    assert found.count == 3
    assert [len(found.members(at)) for at in range(3)] == [9, 7, 5]  # the largest first
    assert found.labels.tolist() == [{0: 0, 2: 1, 1: 2}[int(k)] for k in kind]
    assert found.eigenvalues[:3] == pytest.approx([0, 0, 0], abs=1e-6)
    # a complete graph of n points has the eigenvalue n / (n - 1) but for the first; the smallest is that of 9
    assert found.eigenvalues[3] == pytest.approx(9 / 8, abs=1e-5)
    assert found.leaving == pytest.approx((0, 0, 0), abs=1e-6)


# a planted watermark


def test_a_planted_watermark_is_a_cluster_of_its_own():
    found = cluster(maps(marked=12))
    assert found.count == 2
    assert sorted(found.members(1)) == list(range(30, 42))
    assert max(found.leaving) < 0.01
    where = np.unravel_index(found.mean(1).argmax(), (16, 16))
    assert where[0] >= 13  # the strip lies in rows 27 to 29 of 32
    assert where[1] <= 6
    middle = found.embedding[found.labels == 0].mean(0), found.embedding[found.labels == 1].mean(0)
    nearest = [int(np.linalg.norm(point - middle[1]) < np.linalg.norm(point - middle[0])) for point in found.embedding]
    assert nearest == found.labels.tolist()


def test_without_it_no_cluster_stands_alone_and_a_number_can_be_given():
    plain = maps(marked=0)
    two = cluster(plain, count=2)
    assert two.count == 2
    assert min(two.leaving) > 0.05  # against less than 0.01 of the watermark
    assert sorted([*two.members(0), *two.members(1)]) == list(range(30))
    assert cluster(plain, count=1).leaving == (0.0,)


def test_the_same_maps_give_the_same_clusters_whatever_their_order_and_scale():
    heatmaps = maps(marked=12)
    order = torch.randperm(42, generator=torch.Generator().manual_seed(3))
    one, other = cluster(heatmaps), cluster(1000 * heatmaps[order])
    assert one.labels[order.numpy()].tolist() == other.labels.tolist()
    assert one.eigenvalues == pytest.approx(other.eigenvalues, abs=1e-6)
    assert (cluster(heatmaps).embedding == one.embedding).all()


@pytest.mark.parametrize(
    ("heatmaps", "options", "error", "sentence"),
    [
        (torch.zeros(7, 4, 4), {}, InputError, "clusters need 8 maps of a class at least; there are 7"),
        (torch.zeros(0, 4, 4), {}, InputError, "clusters are of maps"),
        (torch.full((9, 4, 4), torch.nan), {}, InputError, "map 0 holds values that are not finite"),
        (torch.zeros(9, 4, 4), {"neighbours": 9}, UsageError, "neighbours must be 1 to 8 for 9 maps, not 9"),
        (torch.zeros(9, 4, 4), {"count": 9}, UsageError, "the number of clusters must be 1 to 8 for 9 maps, not 9"),
    ],
)
def test_what_cannot_be_clustered(heatmaps, options, error, sentence):
    with pytest.raises(error, match=sentence):
        cluster(heatmaps, **options)


def test_maps_that_are_all_zero_are_one_cluster():
    assert cluster(torch.zeros(9, 4, 4)).count == 1


# the command


def test_the_command_names_the_watermarked_images_and_shows_them(data, tmp_path):
    out = tmp_path / "clusters.html"
    arguments = ["cluster", "--data", f"folder:{data}", *watermark.OPTIONS, "--class", "horse", "--out", out]
    (found,) = json.loads(run(*arguments, "--json"))["classes"]
    assert found["class"] == "horse"  # the folder's name
    assert [part["size"] for part in found["clusters"]] == [30, 12]
    assert all(name.startswith("horse/marked-") for name in found["clusters"][1]["images"])
    page = out.read_text()
    assert "What explanations of horse have in common" in page
    assert page.count('<circle class="point c1"') == 12 + 1  # and one in the legend
    assert "Cluster 2: 12 images" in page
    for name in found["clusters"][1]["images"][:4]:
        assert f"The picture {name}, as the network sees it." in page
    assert "horse/marked-" in run(*arguments)


def test_saved_results_and_a_run_give_the_same_clusters(data, tmp_path):
    pytest.importorskip("polars")
    results, out = tmp_path / "results", tmp_path / "clusters.html"
    (tmp_path / "names.txt").write_text("cat\nhorse\n")
    run("explain", data / "horse", *watermark.OPTIONS, "--target", 1, "--format", "npy", "--out", results)
    named = ["--classes", tmp_path / "names.txt", "--class", "horse", "--out", out, "--json"]
    (saved,) = json.loads(run("cluster", results, *named))["classes"]
    assert [part["size"] for part in saved["clusters"]] == [30, 12]
    assert all(name.startswith("marked-") for name in saved["clusters"][1]["images"])
    how = ["--data", f"folder:{data}", "--step", 0.5, "--explainers", "sobel", "--no-controls", "--batch-size", 16]
    run("evaluate", *watermark.OPTIONS, *how, "--out", tmp_path / "run")
    (again,) = json.loads(run("cluster", tmp_path / "run", "--trust", "--device", "cpu", *named))["classes"]
    assert [part["size"] for part in again["clusters"]] == [30, 12]
    assert again["eigenvalues"] == pytest.approx(saved["eigenvalues"], abs=1e-4)


def test_the_command_says_what_is_missing(data, tmp_path):
    given = ["--data", f"folder:{data}", *watermark.OPTIONS, "--out", tmp_path / "clusters.html"]
    assert "clusters need 8 images of a class at least; there are of class 0: 3" in run(
        "cluster", *given, "--class", "cat", code=2
    )
    assert "none of the 2 classes is called 'cow'" in run("cluster", *given, "--class", "cow", code=2)
    assert "give a run, or folders of results, or --data" in run("cluster", code=2)
    assert "holds no saved result and is no run" in run("cluster", tmp_path, code=2)
