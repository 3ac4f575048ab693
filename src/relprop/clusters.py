"""What the explanations of a data set have in common: spectral relevance analysis (Lapuschkin et al. 2019).

    found = relprop.clusters.cluster(result.heatmap)     # maps of many images of one class
    found.count, found.members(0), found.leaving

A network that reads a watermark on some pictures of a class has maps of two kinds for it. Maps are pooled, scaled to
one length and joined by how near they lie to each other; the graph's Laplacian has an eigenvalue near zero for each
group of maps that hangs together, and the widest gap between its eigenvalues counts the groups (von Luxburg 2007).

Source: Lapuschkin et al., "Unmasking Clever Hans predictors and assessing what machines really learn", Nature
Communications 10, 2019 (arXiv 1902.10178); the clusters are those of Ng, Jordan and Weiss 2001. The paper joins each
map to log N nearest ones with weight 1, whose widest gap often splits what belongs together; here the weights fall off
with the distance, on the scale of each map's own neighbourhood (Zelnik-Manor and Perona 2004).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import adaptive_avg_pool2d

from relprop.errors import InputError, UsageError, require

Floats = NDArray[np.float64]

FEWEST = 8
"""So many maps are needed at least: of fewer, no neighbourhood says anything."""
MOST_CLUSTERS = 10
"""The eigengap is looked for among so many clusters."""


@dataclass(frozen=True, eq=False)
class Clusters:
    """Maps of one class, in clusters; cluster 0 is the largest.

    Attributes:
        maps: (N, S, S) as they were compared: pooled, each of length 1 (a map of zeros stays zero).
        labels: (N,) number of the cluster of each map.
        embedding: (N, 2) a point in the plane for each map, by t-SNE; near means alike, distances mean little.
        eigenvalues: the smallest of the graph's normalised Laplacian, in ascending order, each from 0 to 2.
        leaving: of each cluster, the share of its links' weight that leads to other clusters; 0 where it stands alone.
    """

    maps: Floats
    labels: NDArray[np.int64]
    embedding: Floats
    eigenvalues: Floats
    leaving: tuple[float, ...]

    @property
    def count(self) -> int:
        """Number of clusters."""
        return len(self.leaving)

    def members(self, cluster: int) -> list[int]:
        """Maps of a cluster, the most typical first: those nearest to the cluster's mean map."""
        of = np.flatnonzero(self.labels == cluster)
        distances = np.linalg.norm((self.maps[of] - self.mean(cluster)).reshape(len(of), -1), axis=1)
        return [int(at) for at in of[np.argsort(distances, kind="stable")]]

    def mean(self, cluster: int) -> Floats:
        """(S, S) the mean of a cluster's maps, as they were compared."""
        return np.asarray(self.maps[self.labels == cluster].mean(0))


def pooled(heatmaps: Iterable[Any], side: int = 16) -> Floats:
    """Shrink maps (H, W) to (N, S, S), each value a mean over its part, and scale each to length 1.

    Args:
        heatmaps: (N, H, W), or maps of several sizes.
        side: S. Small maps compare what lies where in the picture, whatever its outline.

    Raises:
        InputError: no maps, or values that are not finite.
    """
    found = [
        adaptive_avg_pool2d(torch.as_tensor(one).detach().cpu().double()[None], side)[0].numpy() for one in heatmaps
    ]
    if not found or found[0].ndim != 2:
        raise InputError("clusters are of maps (H, W) of several images: give them as (N, H, W), or a list of them")
    maps = np.stack(found)
    if not np.isfinite(maps).all():
        raise InputError(f"map {int(np.argmin(np.isfinite(maps).all((1, 2))))} holds values that are not finite")
    lengths = np.linalg.norm(maps.reshape(len(maps), -1), axis=1)
    return np.asarray(maps / np.where(lengths > 0, lengths, 1.0)[:, None, None])


def cluster(
    heatmaps: Iterable[Any], *, count: int | None = None, side: int = 16, neighbours: int | None = None, seed: int = 0
) -> Clusters:
    """Find the clusters of the maps of one class.

    Args:
        heatmaps: (N, H, W) relevance of the pixels for the same class, or a list of such maps of several sizes.
        count: number of clusters; None takes the widest gap between the Laplacian's eigenvalues.
        side: maps are pooled to this side, see `pooled`.
        neighbours: the distance to the nearest map of this number is each map's scale; None takes the root of N.
            A cluster of fewer maps than this is not found.
        seed: of k-means and t-SNE.

    Raises:
        InputError: fewer than `FEWEST` maps, or maps that cannot be compared.
        UsageError: numbers of clusters or neighbours that so many maps do not allow.
        MissingDependencyError: scikit-learn is not installed (extra `cluster`).
    """
    maps = pooled(heatmaps, side)
    total = len(maps)
    if total < FEWEST:
        raise InputError(f"clusters need {FEWEST} maps of a class at least; there are {total}")
    neighbours = round(math.sqrt(total)) if neighbours is None else neighbours
    if not 1 <= neighbours < total:
        raise UsageError(f"neighbours must be 1 to {total - 1} for {total} maps, not {neighbours}")
    if count is not None and not 1 <= count < total:
        raise UsageError(f"the number of clusters must be 1 to {total - 1} for {total} maps, not {count}")
    points = maps.reshape(total, -1)
    graph = affinity(points, neighbours)
    values, vectors = _eigen(graph)
    labels = _by_size(_k_means(vectors, eigengap(values) if count is None else count, seed))
    own = [labels == at for at in range(labels.max() + 1)]
    leaving = tuple(float(graph[inside][:, ~inside].sum() / graph[inside].sum()) for inside in own)
    return Clusters(maps, labels, _plane(points, seed), values[: max(MOST_CLUSTERS, len(leaving)) + 1], leaving)


def affinity(points: Floats, neighbours: int) -> Floats:
    """Weight of the link between two points (N, D), as (N, N), symmetric and zero on the diagonal.

        W_ij = exp(-|p_i - p_j|² / (s_i s_j)),  s_i the distance to the nearest point number `neighbours`

    Points that are the same are joined with weight 1; no link is quite zero, so that every point has one.
    """
    distances = require("sklearn.metrics", "cluster").pairwise_distances(points)
    scale = np.sort(distances, axis=1)[:, neighbours]
    spread = np.maximum(scale[:, None] * scale, 1e-12)  # of maps that are alike the scale is zero
    weights = np.maximum(np.exp(-(distances**2) / spread), 1e-9)
    np.fill_diagonal(weights, 0.0)
    return np.asarray(weights, dtype=np.float64)


def eigengap(values: Floats, most: int = MOST_CLUSTERS) -> int:
    """Number of clusters: how many of the ascending eigenvalues lie before the widest gap, at most `most`."""
    return int(np.argmax(np.diff(values[: most + 1]))) + 1


def _eigen(graph: Floats) -> tuple[Floats, Floats]:
    """Eigenvalues and vectors of the normalised Laplacian I - D^-1/2 W D^-1/2, ascending."""
    scale = 1.0 / np.sqrt(graph.sum(1))  # every point has a neighbour
    values, vectors = np.linalg.eigh(np.eye(len(graph)) - scale[:, None] * graph * scale)
    return np.clip(values, 0.0, None), vectors


def _k_means(vectors: Floats, count: int, seed: int) -> NDArray[np.int64]:
    """Cluster the rows of the first eigenvectors, each scaled to length 1 (Ng, Jordan and Weiss 2001)."""
    rows = vectors[:, :count]
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    if count == 1:
        return np.zeros(len(rows), dtype=np.int64)
    found = require("sklearn.cluster", "cluster").KMeans(count, n_init=20, random_state=seed).fit_predict(rows)
    return np.asarray(found, dtype=np.int64)


def _by_size(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number clusters by their size, the largest first."""
    found, sizes = np.unique(labels, return_counts=True)
    order = found[np.argsort(-sizes, kind="stable")]
    return np.asarray(np.argsort(order)[np.searchsorted(found, labels)], dtype=np.int64)


def _plane(points: Floats, seed: int) -> Floats:
    """Lay points (N, D) into the plane by t-SNE; those that are all alike lie in one point."""
    if np.ptp(points, axis=0).max() < 1e-12:
        return np.zeros((len(points), 2))
    perplexity = min(30.0, (len(points) - 1) / 3)
    tsne = require("sklearn.manifold", "cluster").TSNE(
        perplexity=perplexity, init="random", random_state=seed, learning_rate="auto"
    )
    return np.asarray(tsne.fit_transform(points), dtype=np.float64)
