"""Statistics that compare two sets of feature vectors: precision, recall, density, coverage, kernel distance, matching."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor

from gbc.errors import BadInput

NEIGHBOURS: Final = 5
"""k: a ball reaches to the k-th nearest neighbour, as Naeem et al. (2020) recommend."""
RECONSTRUCTED: Final = 0.4
"""SSIM above which Buzaglo et al. (2023) call an image reconstructed."""
_ROWS: Final = 1000


class Neighbourhoods(NamedTuple):
    """Distances from which precision, recall, density and coverage are computed."""

    distances: Tensor
    """Distance of every real (row) to every generated sample (column), [N, M]."""
    real_radii: Tensor
    """Distance of each real sample to its k-th nearest other real sample, [N]."""
    generated_radii: Tensor
    """Distance of each generated sample to its k-th nearest other generated sample, [M]."""


def neighbourhoods(*, real: Tensor, generated: Tensor, k: int = NEIGHBOURS) -> Neighbourhoods:
    """Euclidean distances and radii of `real` [N, d] and `generated` [M, d].

    Raises:
        BadInput: one of the two has no more than `k` samples.
    """
    few = min(len(real), len(generated))
    if few <= k:
        raise BadInput(f"precision and recall need more than {k} images, found {few}; raise eval_per_class")
    return Neighbourhoods(_distances(real, generated), _radii(real, k), _radii(generated, k))


def precision(neighbours: Neighbourhoods) -> Tensor:
    """Share of generated samples within the ball of any real one (Kynkäänniemi et al. 2019, Eq. 1)."""
    return (neighbours.distances < neighbours.real_radii[:, None]).any(dim=0).float().mean()


def recall(neighbours: Neighbourhoods) -> Tensor:
    """Share of real samples within the ball of any generated one (Kynkäänniemi et al. 2019, Eq. 2)."""
    return (neighbours.distances < neighbours.generated_radii[None, :]).any(dim=1).float().mean()


def density(neighbours: Neighbourhoods, k: int = NEIGHBOURS) -> Tensor:
    """Mean number of real balls that hold a generated sample, over k (Naeem et al. 2020, Eq. 6); may exceed 1."""
    return (neighbours.distances < neighbours.real_radii[:, None]).sum(dim=0).float().mean() / k


def covered(neighbours: Neighbourhoods) -> Tensor:
    """1 for each real sample with a generated one in its ball, else 0; [N]. The mean is coverage (ibid., Eq. 7)."""
    return (neighbours.distances.min(dim=1).values < neighbours.real_radii).float()


def squared_mmd(*, real: Tensor, generated: Tensor) -> Tensor:
    """Kernel distance of `real` [N, d] and `generated` [M, d], KID of Bińkowski et al. (2018, section 4).

    The unbiased estimator of MMD² with the kernel (x·y/d + 1)³: pairs of a sample with itself are left out, so that equal
    distributions score 0 on average, and a single score may be below 0.
    """
    real, generated = real.double(), generated.double()
    within = _mean_of_pairs(real) + _mean_of_pairs(generated)
    return within - 2 * _kernel_sum(real, generated) / (len(real) * len(generated))


def largest_matching(similarity: Tensor, threshold: float = RECONSTRUCTED) -> int:
    """Size of the largest one-to-one matching of rows and columns of `similarity` [K, N] above the threshold.

    A generated image that resembles two real ones is matched with one of them.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    partners = maximum_bipartite_matching(csr_array((similarity > threshold).cpu().numpy()), perm_type="column")
    return int((partners >= 0).sum())


def _distances(left: Tensor, right: Tensor) -> Tensor:
    # The faster algorithm by a matrix product gives equal images small distances that are not 0.
    return torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist")


def _radii(samples: Tensor, k: int) -> Tensor:
    """Distance to the k-th nearest other sample, [samples]; the smallest distance is that to the sample itself."""
    return _distances(samples, samples).kthvalue(k + 1, dim=1).values


def _kernel_sum(left: Tensor, right: Tensor) -> Tensor:
    """Σ (x·y/d + 1)³ over all pairs, some rows at a time, because all pairs of ten thousand need too much memory."""
    parts = [(part @ right.mT / right.shape[1] + 1).pow_(3).sum() for part in left.split(_ROWS)]
    return torch.stack(parts).sum()


def _mean_of_pairs(samples: Tensor) -> Tensor:
    """Mean of the kernel over pairs of different samples."""
    count = len(samples)
    same = (samples.square().mean(dim=1) + 1).pow(3).sum()
    return (_kernel_sum(samples, samples) - same) / (count * (count - 1))
