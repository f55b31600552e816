"""Angular moments: what the directions of an atom's bonds look like from each one of them.

For the bond i-j the moment of degree l is the sum of Legendre polynomials over all bonds of atom i,

    a_l(ij) = sum_k w(r_ik, Z_k) P_l(cos angle(j, i, k)),        l = 1 ... 4,

with three weights w: equal, decaying with distance, and the same signed by electronegativity. It brings bond angles
into a network that has no line graph, at the price of a few columns computed once per structure. The addition theorem
of spherical harmonics, P_l(cos angle(j, i, k)) = sum_m Y_lm(ij) Y_lm(ik), turns the double loop over an atom's bonds
into one sum per atom, so the cost is linear in the number of bonds.
"""

from math import sqrt
from typing import TypeVar

import numpy as np
import torch
from torch.nn.functional import embedding_bag

from cgcnn_ase.core.arrays import Floats, Floats32, Ints
from cgcnn_ase.core.elements import electronegativity_scale

MAX_DEGREE = 4
N_WEIGHTS = 3
N_ANGULAR = MAX_DEGREE * N_WEIGHTS

# decay length of the distance weight, Å
DECAY_LENGTH = 0.5

# harmonics of each degree from 1 on
TERMS_OF_DEGREE = (3, 5, 7, 9)
Component = TypeVar("Component", Floats32, torch.Tensor)
# (24, 4); 1 where a harmonic is of a degree: there are 2 l + 1 of degree l
_DEGREE_OF_TERM = np.repeat(np.eye(MAX_DEGREE, dtype=np.float32), TERMS_OF_DEGREE, axis=0)


def harmonics(x: Component, y: Component, z: Component) -> list[Component]:
    """Real spherical harmonics of degree 1 to 4 of unit vectors, 24 terms, those of a degree with sum_m Y_lm(u)^2 = 1.

    The components are (E,) each, of numpy or of torch.
    """
    xy, zz = x * y, z * z
    cos2, cos3, sin3 = x * x - y * y, x * (x * x - 3 * y * y), y * (3 * x * x - y * y)
    z2, z3, z4 = 5 * zz - 1, z * (7 * zz - 3), 7 * zz - 1
    return [
        x, y, z,
        sqrt(3) * xy, sqrt(3) * y * z, sqrt(3) * x * z, 1.5 * zz - 0.5, sqrt(3 / 4) * cos2,
        sqrt(5 / 8) * sin3, sqrt(15) * xy * z, sqrt(3 / 8) * y * z2, z * (2.5 * zz - 1.5), sqrt(3 / 8) * x * z2,
        sqrt(15 / 4) * z * cos2, sqrt(5 / 8) * cos3,
        sqrt(35 / 4) * xy * cos2, sqrt(35 / 8) * sin3 * z, sqrt(5 / 4) * xy * z4, sqrt(5 / 8) * y * z3,
        (35 * zz - 30) * zz / 8 + 0.375, sqrt(5 / 8) * x * z3, sqrt(5 / 16) * cos2 * z4, sqrt(35 / 8) * cos3 * z,
        sqrt(35 / 64) * (cos2 * cos2 - 4 * xy * xy),
    ]  # fmt: skip


def angular_moments(
    numbers: Ints,
    centers: Ints,
    neighbors: Ints,
    distances: Floats,
    vectors: Floats,
) -> Floats32:
    """Angular moments of every bond, shape (E, 12); ``centers`` must not decrease.

    The column of degree l and weight w is 3 (l - 1) + w.
    """
    n_atoms, n_bonds = len(numbers), len(centers)
    if n_bonds == 0:
        return np.zeros((0, N_ANGULAR), dtype=np.float32)
    counts = np.bincount(centers, minlength=n_atoms)
    starts = np.cumsum(counts) - counts
    nearest = distances[np.minimum(starts, n_bonds - 1)]  # bonds of an atom are sorted by distance
    near = np.exp(-(distances - nearest[centers]) / DECAY_LENGTH)
    weights = [np.full(n_bonds, 1 / 12), near / 4, near * electronegativity_scale()[numbers[neighbors]] / 4]

    y = np.stack(harmonics(*(vectors / distances[:, None]).astype(np.float32).T), axis=1)  # (E, 24)
    moments = np.empty((n_bonds, MAX_DEGREE, N_WEIGHTS), dtype=np.float32)
    for k, weight in enumerate(weights):
        of_center = _sum_over_bonds(weight.astype(np.float32), y, starts).take(centers, axis=0)  # (E, 24)
        of_center *= y
        moments[:, :, k] = of_center @ _DEGREE_OF_TERM
    return moments.reshape(n_bonds, N_ANGULAR)


def _sum_over_bonds(weight: Floats32, y: Floats32, starts: Ints) -> Floats32:
    """sum_k w_ik y_ik for each atom, whose bonds begin at ``starts``: (E,), (E, 24), (N,) -> (N, 24)."""
    bonds = torch.arange(len(y))
    bags = torch.from_numpy(starts)
    total = embedding_bag(bonds, torch.from_numpy(y), bags, mode="sum", per_sample_weights=torch.from_numpy(weight))
    return total.numpy()
