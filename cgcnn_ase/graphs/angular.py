"""Angular moments: what the directions of an atom's bonds look like from each one of them.

For the bond i-j the moment of degree l is the sum of Legendre polynomials over all bonds of atom i,

    a_l(ij) = sum_k w(r_ik, Z_k) P_l(cos angle(j, i, k)),        l = 1 ... 4,

with three weights w: equal, decaying with distance, and the same signed by electronegativity. It brings bond angles
into a network that has no line graph, at the price of a few columns computed once per structure. Products of
Cartesian monomials give every sum over k from moments of the atom, so the cost is linear in the number of bonds.
"""

from functools import cache
from math import factorial

import numpy as np
import numpy.typing as npt

from cgcnn_ase.elements import electronegativity_scale

FloatArray = npt.NDArray[np.float64]

MAX_DEGREE = 4
N_WEIGHTS = 3
N_ANGULAR = MAX_DEGREE * N_WEIGHTS

#: decay length of the distance weight, Å
DECAY_LENGTH = 0.5


@cache
def _exponents(degree: int) -> list[tuple[int, int, int]]:
    return [(a, b, degree - a - b) for a in range(degree, -1, -1) for b in range(degree - a, -1, -1)]


@cache
def _multinomials(degree: int) -> FloatArray:
    top = factorial(degree)
    return np.array([top / (factorial(a) * factorial(b) * factorial(c)) for a, b, c in _exponents(degree)])


def _monomials(u: FloatArray, degree: int) -> FloatArray:
    """x^a y^b z^c of one degree for unit vectors u (E, 3); shape (E, (degree + 1)(degree + 2) / 2)."""
    powers = [np.ones_like(u)]
    for _ in range(degree):
        powers.append(powers[-1] * u)
    return np.stack([powers[a][:, 0] * powers[b][:, 1] * powers[c][:, 2] for a, b, c in _exponents(degree)], axis=1)


def angular_moments(
    numbers: npt.NDArray[np.int64],
    centers: npt.NDArray[np.int64],
    neighbors: npt.NDArray[np.int64],
    distances: FloatArray,
    vectors: FloatArray,
) -> npt.NDArray[np.float32]:
    """Angular moments of every bond, shape (E, 12); ``centers`` must not decrease."""
    from scipy.sparse import csr_matrix

    n_atoms, n_bonds = len(numbers), len(centers)
    if n_bonds == 0:
        return np.zeros((0, N_ANGULAR), dtype=np.float32)
    u = vectors / distances[:, None]
    counts = np.bincount(centers, minlength=n_atoms)
    ends = np.cumsum(counts)
    nearest = distances[np.minimum(ends - counts, n_bonds - 1)]  # bonds of an atom are sorted by distance
    near = np.exp(-(distances - nearest[centers]) / DECAY_LENGTH)
    weights = [np.full(n_bonds, 1 / 12), near / 4, near * electronegativity_scale()[numbers[neighbors]] / 4]
    indptr, columns = np.concatenate([[0], ends]), np.arange(n_bonds)
    sums = [csr_matrix((w, columns, indptr), shape=(n_atoms, n_bonds)) for w in weights]

    cosine_powers = []  # degree -> (E, N_WEIGHTS), sum over k of w (u_ij . u_ik)^degree
    for degree in range(MAX_DEGREE + 1):
        monomials = _monomials(u, degree)
        scaled = monomials * _multinomials(degree)
        cosine_powers.append(np.stack([np.einsum("em,em->e", scaled, (s @ monomials)[centers]) for s in sums], axis=1))
    return np.concatenate(_legendre(cosine_powers), axis=1).astype(np.float32)


def _legendre(s: list[FloatArray]) -> list[FloatArray]:
    return [s[1], (3 * s[2] - s[0]) / 2, (5 * s[3] - 3 * s[1]) / 2, (35 * s[4] - 30 * s[2] + 3 * s[0]) / 8]
