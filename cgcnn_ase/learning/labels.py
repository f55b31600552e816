"""Labelled structures in the order in which the reference was asked, as one extxyz file that training reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.graphs.geometry import Geometry, geometry

if TYPE_CHECKING:
    from ase import Atoms

# positions and cells that differ by less are the same, Å
TOLERANCE = 1e-5
_TRAJECTORY, _REASON, _EXPECTED = "trajectory", "asked_because", ("energy_error", "force_error", "force_std")


@dataclass(frozen=True, eq=False, kw_only=True)
class ReferenceLabel:
    """One structure as the reference calculates it, and how far off it was expected to be."""

    atoms: "Atoms"  # without calculator
    trajectory: str  # labels of one name are of one structure on its way
    energy: float  # eV
    forces: Floats  # (N, 3) eV/Å, without the effect of constraints
    stress: Floats | None  # (3, 3) eV/Å^3
    reason: str  # why the reference was asked
    # of what was predicted before: eV a cell; largest error of a component and largest std of the forces, eV/Å
    energy_error: float | None = None
    force_error: float | None = None
    force_std: float | None = None  # None where nothing could be predicted

    @property
    def structure(self) -> Geometry:
        """Positions and cell as arrays."""
        return geometry(self.atoms)

    def is_of(self, structure: Geometry) -> bool:
        """Return whether it is the label of this very structure."""
        mine = self.structure
        return (
            len(mine.numbers) == len(structure.numbers)
            and bool((mine.numbers == structure.numbers).all())
            and bool((mine.pbc == structure.pbc).all())
            and bool(np.abs(mine.cell - structure.cell).max() < TOLERANCE)
            and bool(np.abs(mine.positions - structure.positions).max() < TOLERANCE)
        )

    def to_atoms(self) -> "Atoms":
        """As ASE writes it: labels in the calculator, the rest in ``info``."""
        from ase.calculators.singlepoint import SinglePointCalculator
        from ase.stress import full_3x3_to_voigt_6_stress

        atoms: Atoms = self.atoms.copy()
        results: dict[str, Any] = {"energy": self.energy, "forces": self.forces}
        if self.stress is not None:
            results["stress"] = full_3x3_to_voigt_6_stress(self.stress)
        atoms.calc = SinglePointCalculator(atoms, **results)
        atoms.info |= {_TRAJECTORY: self.trajectory or "0", _REASON: self.reason or "asked for"}
        atoms.info |= {name: getattr(self, name) for name in _EXPECTED if getattr(self, name) is not None}
        return atoms

    @classmethod
    def from_atoms(cls, labelled: "Atoms") -> "ReferenceLabel":
        """The inverse; a ValueError if energy or forces are missing."""
        from ase.stress import voigt_6_to_full_3x3_stress

        results = {} if labelled.calc is None else labelled.calc.results
        if missing := {"energy", "forces"} - set(results):
            raise ValueError(f"a label without {' and '.join(sorted(missing))}")
        atoms = labelled.copy()
        atoms.calc = None
        info = {name: atoms.info.pop(name, None) for name in (_TRAJECTORY, _REASON, *_EXPECTED)}
        stress = results.get("stress")
        return cls(
            atoms=atoms,
            trajectory="" if info[_TRAJECTORY] is None else str(info[_TRAJECTORY]),
            energy=float(results["energy"]),
            forces=np.asarray(results["forces"], dtype=float),
            stress=None if stress is None else voigt_6_to_full_3x3_stress(np.asarray(stress, dtype=float)),
            reason="" if info[_REASON] is None else str(info[_REASON]),
            **{name: None if info[name] is None else float(info[name]) for name in _EXPECTED},
        )


def written(labels: Sequence[ReferenceLabel]) -> str:
    """The labels as extxyz, with eight decimals."""
    from ase.io.extxyz import write_extxyz

    text = StringIO()
    write_extxyz(text, [label.to_atoms() for label in labels])
    return text.getvalue()


def read_labels(source: Path | str, *, text: bool = False) -> list[ReferenceLabel]:
    """Read labels from a file, or from the ``text`` of one; a ValueError names one that cannot be used."""
    from ase.io import read

    try:
        images = read(StringIO(str(source)) if text else source, ":", format="extxyz")
        return [ReferenceLabel.from_atoms(atoms) for atoms in images]
    except (ValueError, KeyError, IndexError) as error:
        where = "<text>" if text else source
        raise ValueError(f"{where}: not a file of labels with energy and forces: {error}") from error
