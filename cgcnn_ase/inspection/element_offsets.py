"""Put the energies of one source on the scale of another: one offset for each element.

Two sources of energies per atom differ, beyond noise, by what each takes for the energy of an element: other
pseudopotentials, functionals, corrections, references. To first order the difference of a structure is then the sum of
one number for each element, weighted by its atomic fraction, and the numbers follow by least squares from structures
that both sources hold (fitted elemental reference energies: Stevanović, Lany, Zhang and Zunger, Phys. Rev. B 85,
115104, 2012). Of the total energies of one source the same fit gives the elements' reference energies.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from cgcnn_ase.core.arrays import Floats, Ints
from cgcnn_ase.core.elements import MAX_NUMBER, symbols
from cgcnn_ase.uncertainty.metrics import rmse

Method = Literal["least squares", "huber"]

# residuals beyond so many standard deviations count with their size, not its square: 95 % efficient on Gaussian noise
HUBER_K = 1.345
# MAD to standard deviation of a normal distribution
MAD_TO_STD = 1.4826
# how far a composition may leave those that were fitted before its offset counts as not determined
_OUTSIDE = 1e-6


@dataclass(frozen=True, kw_only=True)
class ElementOffsets:
    """One offset for each element, eV/atom (or the unit of what was fitted, per atom), and how well it is known."""

    offsets: dict[str, float]  # by element
    errors: dict[str, float | None]  # standard errors; None where the element cannot be told apart from others
    counts: dict[str, int]  # structures with the element
    tied: tuple[tuple[str, ...], ...]  # elements that cannot be told apart: only sums of their offsets are known
    free: tuple[dict[str, float], ...]  # orthonormal changes of the offsets that no fitted structure would notice
    n_structures: int
    rank: int  # numbers that the structures determine
    rmse_before: float  # root mean square of the differences
    rmse_after: float  # the same of what the offsets leave
    rmse_left_out: float | None  # the same, each structure by offsets fitted without it; None where none can be
    n_left_out: int  # structures in it: the others hold the only trace of an element
    method: Method

    def difference(self, fractions: npt.ArrayLike) -> Floats:
        """Sum of the offsets of compositions, eV/atom, (n,), from atomic fractions, (n, 101); column Z is of number Z.

        An element without data, or elements that cannot be told apart in other proportions than the fitted structures
        have them, are a `ValueError`.
        """
        x = _checked(fractions)
        if missing := [symbols()[z] for z in np.flatnonzero(x.any(axis=0)) if symbols()[z] not in self.offsets]:
            known = ", ".join(self.offsets)
            raise ValueError(f"no offset of {', '.join(missing)}: no fitted structure has it; known are {known}")
        for direction in self.free:
            if (np.abs(x @ _vector(direction)) > _OUTSIDE).any():
                raise ValueError(
                    f"the offsets of {', '.join(direction)} cannot be told apart by the fitted structures, and a "
                    "structure has these elements in other proportions"
                )
        return np.asarray(x @ _vector(self.offsets))

    def apply(self, fractions: npt.ArrayLike, values: npt.ArrayLike) -> Floats:
        """Values of source A, eV/atom, (n,), on the scale of source B; raises as :meth:`difference` does."""
        return np.asarray(values, dtype=np.float64) - self.difference(fractions)

    def notes(self) -> list[str]:
        """Sentences to know before using them."""
        notes = [
            f"{', '.join(group)} cannot be told apart: of their offsets only {len(group) - lost} combination"
            f"{'s are' if len(group) - lost != 1 else ' is'} determined; the smallest ones that fit are given"
            for group in self.tied
            for lost in [sum(set(direction) <= set(group) for direction in self.free)]
        ]
        if alone := self.n_structures - self.n_left_out:
            notes.append(f"{alone} of {self.n_structures} structures are the only ones that tell of an element or sum")
        return notes

    def to_dict(self) -> dict[str, object]:
        """Field names and values, ready for JSON."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return values | {"tied": [list(group) for group in self.tied], "free": [dict(d) for d in self.free]}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "ElementOffsets":
        """Restore offsets from what :meth:`to_dict` gave; missing or unknown fields are a `ValueError`."""
        known = {f.name for f in fields(cls)}
        if wrong := known ^ set(saved):
            raise ValueError(f"these are no element offsets: {', '.join(sorted(wrong))} missing or unknown")
        tied = tuple(tuple(group) for group in saved["tied"])
        return cls(**{**saved, "tied": tied, "free": tuple(dict(d) for d in saved["free"])})


def fit_offsets(fractions: npt.ArrayLike, difference: npt.ArrayLike, *, robust: bool = False) -> ElementOffsets:
    """Fit one offset for each element.

    Parameters
    ----------
    fractions : array_like
        Atomic fractions of structures, (n, 101); column Z belongs to atomic number Z.
    difference : array_like
        What source A says less what source B says of each, eV/atom, (n,); or the energies per atom of one source.
    robust : bool
        Huber's loss instead of squares (Huber, Ann. Math. Stat. 35, 73, 1964), with the scale from the median absolute
        residual: a few structures that differ for other reasons (another magnetic state, a mistake) then hardly count.

    Returns
    -------
    ElementOffsets
        Where elements cannot be told apart (they occur in fixed proportions only), the solution of least norm. The
        standard errors are those of independent noise of one size; robust ones are asymptotic (Huber, Robust
        Statistics, 1981, section 7.6). The left-out error is exact for squares (Allen, Technometrics 16, 125, 1974);
        for Huber's loss the weights of the other structures are taken as they are.

    Raises
    ------
    ValueError
        If there are no structures, shapes do not match, or a number is not finite.
    """
    fit = _fit(fractions, difference, robust=robust)
    names = [symbols()[z] for z in fit.present]
    x, y, basis, null, reduced, residual = fit.x, fit.y, fit.basis, fit.null, fit.reduced, fit.residual
    rank = len(basis)
    left_out = fit.left_out[np.isfinite(fit.left_out)]
    if robust:
        covariance = fit.variance_factor * np.linalg.inv(reduced.T @ reduced)
    elif len(y) > rank:
        covariance = float(residual @ residual) / (len(y) - rank) * fit.inverse
    else:
        covariance = np.full((rank, rank), np.nan)
    spread = np.sqrt(np.einsum("ki,kl,li->i", basis, covariance, basis))

    projector = null.T @ null
    unsure = np.diag(projector) > _OUTSIDE
    tied = _tied(projector)
    return ElementOffsets(
        offsets=dict(zip(names, (basis.T @ fit.solution).tolist(), strict=True)),
        errors={
            name: None if doubtful or not np.isfinite(error) else float(error)
            for name, doubtful, error in zip(names, unsure, spread, strict=True)
        },
        counts=dict(zip(names, (x > 0).sum(axis=0).tolist(), strict=True)),
        tied=tuple(tuple(names[k] for k in group) for group in tied),
        free=tuple(
            {names[k]: float(c) for k, c in zip(group, row, strict=True) if abs(c) > _OUTSIDE}
            for group in tied
            for row in _directions(projector[np.ix_(group, group)])
        ),
        n_structures=len(y),
        rank=rank,
        rmse_before=rmse(y, 0.0),
        rmse_after=rmse(residual, 0.0),
        rmse_left_out=rmse(left_out, 0.0) if left_out.size else None,
        n_left_out=left_out.size,
        method="huber" if robust else "least squares",
    )


def left_out_residuals(fractions: npt.ArrayLike, difference: npt.ArrayLike, *, robust: bool = False) -> Floats:
    """Return what the offsets of the other structures leave of each structure's difference, eV/atom, (n,).

    Arguments and errors are those of :func:`fit_offsets`. NaN where no other structure tells of an element, so that its
    offset cannot be told from the difference of the structure itself.
    """
    return _fit(fractions, difference, robust=robust).left_out


class _Fit(NamedTuple):
    """Offsets in a basis of what the structures determine, and what they leave."""

    present: Ints  # atomic numbers that occur
    x: Floats  # (n, elements) atomic fractions
    y: Floats  # (n,)
    basis: Floats  # (rank, elements)
    null: Floats  # (elements - rank, elements)
    reduced: Floats  # (n, rank), full rank
    solution: Floats  # (rank,)
    residual: Floats  # (n,)
    left_out: Floats  # (n,) the same of each structure by a fit without it; NaN where there can be none
    inverse: Floats  # (rank, rank) of the normal matrix
    variance_factor: float


def _fit(fractions: npt.ArrayLike, difference: npt.ArrayLike, *, robust: bool) -> _Fit:
    x, y = _checked(fractions), np.asarray(difference, dtype=np.float64)
    if y.shape != (len(x),):
        raise ValueError(f"{len(x)} compositions and differences of shape {y.shape} do not match")
    if not len(y):
        raise ValueError("offsets need at least one structure")
    if not np.isfinite(y).all():
        raise ValueError(f"difference {int(np.flatnonzero(~np.isfinite(y))[0])} is not finite")
    present = np.flatnonzero(x.any(axis=0))
    x = x[:, present]

    _, singular, right = np.linalg.svd(x, full_matrices=len(x) < len(present))
    rank = int((singular > max(x.shape) * np.finfo(float).eps * singular[0]).sum())
    basis, null = right[:rank], right[rank:]
    reduced = x @ basis.T
    weights = np.ones(len(y))
    solution = np.linalg.lstsq(reduced, y, rcond=None)[0]
    variance_factor = 1.0
    if robust:
        solution, weights, variance_factor = _huber(reduced, y, solution)
    residual = y - reduced @ solution

    inverse = np.linalg.inv(reduced.T @ (weights[:, None] * reduced))
    leverage = weights * np.einsum("ij,jk,ik->i", reduced, inverse, reduced)
    others = leverage < 1 - 1e-8
    left_out = np.divide(residual, 1 - leverage, out=np.full(len(y), np.nan), where=others)
    return _Fit(present, x, y, basis, null, reduced, solution, residual, left_out, inverse, variance_factor)


def _huber(x: Floats, y: Floats, start: Floats) -> tuple[Floats, Floats, float]:
    """Solution, weights (n,) of the structures, and what the inverse of the normal matrix is multiplied with."""
    from scipy.optimize import least_squares

    solution = start
    scale = _scale(y - x @ solution)
    smallest = 1e-12 * max(1.0, float(np.abs(y).max()))
    for _ in range(20):
        if scale <= smallest:  # more than half are met exactly
            scale = smallest
        fit = least_squares(
            lambda s: x @ s - y, solution, jac=lambda _: x, loss="huber", f_scale=HUBER_K * scale, method="trf"
        )
        solution, before = fit.x, scale
        scale = _scale(y - x @ solution)
        if abs(scale - before) <= 1e-4 * before or scale <= smallest:
            break
    scale = max(scale, smallest)
    residual = (y - x @ solution) / scale
    weights = HUBER_K / np.maximum(np.abs(residual), HUBER_K)
    inside = float((np.abs(residual) <= HUBER_K).mean())
    free = max(len(y) - x.shape[1], 1)
    squared = float(np.square(weights * residual).sum()) / free
    correction = 1 + x.shape[1] / len(y) * (1 - inside) / inside
    return solution, weights, (correction * scale / inside) ** 2 * squared


def _scale(residual: Floats) -> float:
    """Standard deviation of normal residuals, from their median absolute deviation from zero."""
    return MAD_TO_STD * float(np.median(np.abs(residual)))


def _tied(projector: Floats) -> list[list[int]]:
    """Groups of elements that one change of offsets, unnoticed by all structures, moves together."""
    from scipy.sparse.csgraph import connected_components

    moved = np.abs(projector) > _OUTSIDE
    _, group = connected_components(moved, directed=False)
    return [np.flatnonzero(group == k).tolist() for k in np.unique(group[np.diag(moved)])]


def _directions(projector: Floats) -> Floats:
    """An orthonormal basis of what a projector keeps, in rows."""
    values, vectors = np.linalg.eigh(projector)
    return np.asarray(vectors[:, values > 0.5].T)


def _checked(fractions: npt.ArrayLike) -> Floats:
    x = np.asarray(fractions, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] != MAX_NUMBER + 1:
        raise ValueError(f"compositions must be (n, {MAX_NUMBER + 1}) atomic fractions, not {x.shape}")
    if not np.isfinite(x).all() or (x < 0).any() or (np.abs(x.sum(axis=1) - 1) > 1e-6).any() or x[:, 0].any():
        raise ValueError("atomic fractions must be from 0 to 1 and sum to 1, those of the placeholder X being 0")
    return x


def _vector(by_element: Mapping[str, float]) -> Floats:
    """Numbers by element at their atomic numbers, (101,)."""
    vector = np.zeros(MAX_NUMBER + 1)
    for name, value in by_element.items():
        vector[symbols().index(name)] = value
    return vector
