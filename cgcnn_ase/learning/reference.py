"""The calculator that is asked: its settings as data that can be compared, and its answers checked."""

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cgcnn_ase.core.arrays import Floats
from cgcnn_ase.core.errors import unknown_name

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

# settings that say where a calculator writes and how it is started, not what it calculates
_VOLATILE = frozenset({"txt", "label", "directory", "command", "profile", "parallel", "prefix", "logfile", "restart"})
# machine-learned potentials by name, and their functions in cgcnn_ase.energies.calculators
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
        from cgcnn_ase.energies import calculators

        if options:
            raise ValueError(f"reference {name}: takes no parameters, and {', '.join(options)} are given")
        made: BaseCalculator = getattr(calculators, _POTENTIALS[name])()
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
