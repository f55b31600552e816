"""The calculator that is asked: its settings as data that can be compared, its answers checked, and kept as labels.

Labels are structures in the order in which the reference was asked, as one extxyz file that training reads.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.core.errors import unknown_name
from cgcnn_ase.graphs.crystal_graph import Geometry, geometry

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

# settings that say where a calculator writes and how it is started, not what it calculates
_VOLATILE = frozenset({"txt", "label", "directory", "command", "profile", "parallel", "prefix", "logfile", "restart"})
# machine-learned potentials by name, and their functions in cgcnn_ase.energies.interface
_POTENTIALS = {"chgnet": "chgnet_calculator", "sevennet": "sevennet_calculator"}
# fmt: off
# settings of programs that are known by name, under those that are given
DEFAULTS: dict[str, dict[str, Any]] = {
    "gpaw": {  # atoms leave the symmetry that they start from
        "mode": {"name": "pw", "ecut": 400.0}, "xc": "PBE", "kpts": {"density": 2.5, "gamma": True}, "symmetry": "off",
    },
    "espresso": {"kspacing": 0.25},
}
# fmt: on
_ALIASES = {"quantumespresso": "espresso", "qe": "espresso"}


class ReferenceCalculationError(RuntimeError):
    """The reference has no answer for a structure: it failed, did not converge, or gave numbers that are not finite."""


class ReferenceChangedError(ValueError):
    """The reference is not the one that the labels come from."""


class ReferenceResult(NamedTuple):
    """The answer for one structure."""

    energy: float  # eV
    forces: Floats  # (N, 3) eV/Å
    stress: Floats | None  # (3, 3) eV/Å^3


def reference_scheme(calculator: "BaseCalculator") -> dict[str, Any]:
    """Name and settings of a calculator as plain JSON, without where it writes and how it is started."""
    kind = type(calculator)
    told = calculator.todict() if hasattr(calculator, "todict") else getattr(calculator, "parameters", {})
    settings = {str(key): value for key, value in dict(told).items() if key not in _VOLATILE}
    plain: dict[str, Any] = json.loads(json.dumps(settings, default=_as_json, sort_keys=True))
    return {"calculator": f"{kind.__module__}.{kind.__qualname__}", "parameters": plain}


def _as_json(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value.todict() if hasattr(value, "todict") else repr(value)


def check_scheme(scheme: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
    """Raise a :class:`ReferenceChangedError` that names the settings in which two schemes differ."""
    if scheme == known:
        return
    now = {"calculator": scheme["calculator"], **scheme["parameters"]}
    before = {"calculator": known["calculator"], **known["parameters"]}
    names = sorted(name for name in {*now, *before} if now.get(name) != before.get(name))
    changes = "; ".join(f"{name} is {now.get(name)!r} and was {before.get(name)!r}" for name in names)
    raise ReferenceChangedError(
        f"{where}: labels of different settings never mix: {changes}. Take those of the labels, or another folder"
    )


def ask_reference(calculator: "BaseCalculator", atoms: "Atoms", *, with_stress: bool) -> ReferenceResult:
    """Energy, forces and, where wanted, stress of a structure, in ASE's units and sign.

    Raises
    ------
    ReferenceCalculationError
        If the calculator fails, says that it did not converge, or gives numbers that are not finite.
    """
    structure = atoms.copy()
    structure.set_constraint()
    structure.calc = calculator
    name = f"{type(calculator).__name__} on {structure.get_chemical_formula()}"
    try:
        energy = float(structure.get_potential_energy())
        forces = np.asarray(structure.get_forces(), dtype=float)
        stress = np.asarray(structure.get_stress(voigt=False), dtype=float) if with_stress else None
    except Exception as error:
        getattr(calculator, "reset", lambda: None)()
        raise ReferenceCalculationError(f"{name}: {type(error).__name__}: {error}") from error
    if getattr(calculator, "converged", True) is False:
        raise ReferenceCalculationError(f"{name}: says that it has not converged")
    finite = np.isfinite(energy) and np.isfinite(forces).all() and (stress is None or np.isfinite(stress).all())
    if not finite or forces.shape != (len(structure), 3):
        raise ReferenceCalculationError(
            f"{name}: energy ({energy:g} eV), forces (shape {forces.shape}) or stress are not finite"
        )
    return ReferenceResult(energy, forces, stress)


def reference_by_name(
    name: str, parameters: Mapping[str, Any] | None = None, *, folder: Path | None = None
) -> "BaseCalculator":
    """Make a calculator by name.

    Parameters
    ----------
    name
        ``gpaw``, ``quantumespresso``, ``chgnet``, ``sevennet``, any name that ASE knows (``cp2k``, ``vasp``, ``emt``),
        or ``module:Class``.
    parameters
        Its keywords; over defaults (PBE, plane waves up to 400 eV, 2.5 k points per Å^-1) of ``gpaw``. For
        ``quantumespresso`` these are ``profile`` (``command`` and ``pseudo_dir``), ``pseudopotentials``,
        ``input_data`` and ``kspacing`` (0.25), as in ASE.
    folder
        Where it writes its log.

    Raises
    ------
    ValueError
        If there is no such calculator, or it does not take the parameters.
    """
    options: dict[str, Any] = dict(parameters or {})
    if name in _POTENTIALS:
        from cgcnn_ase.energies import interface

        if options:
            raise ValueError(f"reference {name}: takes no parameters, and {', '.join(options)} are given")
        made: BaseCalculator = getattr(interface, _POTENTIALS[name])()
        return made
    title = _ALIASES.get(name, name)
    options = DEFAULTS.get(title, {}) | options
    if title == "gpaw" and folder is not None:
        options = {"txt": str(folder / "gpaw.txt")} | options
    if title == "espresso":
        options = _espresso(options, folder)
    try:
        made = _class_of(name, title)(**options)
    except (TypeError, KeyError, AssertionError) as error:
        raise ValueError(f"reference {name}: does not take its parameters: {error}") from error
    return made


def _espresso(options: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    """Keywords of ASE's Espresso, with a profile made of its settings, and forces and stress asked for."""
    from ase.calculators.espresso import EspressoProfile

    profile, data = options.get("profile", {"command": "pw.x", "pseudo_dir": "."}), dict(options.get("input_data", {}))
    control = {"tprnfor": True, "tstress": True, **data.get("control", {})}
    return {
        **({} if folder is None else {"directory": str(folder / "espresso")}),
        **options,
        "profile": EspressoProfile(**profile) if isinstance(profile, Mapping) else profile,
        "input_data": data | {"control": control},
    }


def _class_of(name: str, title: str) -> Any:
    from ase.calculators.calculator import get_calculator_class

    try:
        if ":" in name:
            module, _, attribute = name.partition(":")
            return getattr(import_module(module), attribute)
        return get_calculator_class(title)
    except ModuleNotFoundError as error:
        from cgcnn_ase.core.errors import missing_extra

        if error.name == f"ase.calculators.{title}":
            known = ("gpaw", "quantumespresso", "cp2k", "vasp", *_POTENTIALS, "emt")
            raise unknown_name("reference", name, (*known, "a name that ASE knows", "module:Class")) from error
        raise missing_extra(error, f"the reference {name}") from error
    except AttributeError as error:
        raise ValueError(f"reference {name}: {error}") from error


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


def check_elements(numbers: Sequence[int], labels: Sequence[ReferenceLabel]) -> None:
    """Raise ValueError where labels have none of the elements."""
    if not labels:
        return
    known = {int(z) for label in labels for z in label.atoms.numbers}
    if not known & set(numbers):
        from cgcnn_ase.core.elements import symbols

        names = symbols()
        raise ValueError(
            f"the labels are of {', '.join(names[z] for z in sorted(known))}, and the structure has none of these "
            "elements: start another memory"
        )
