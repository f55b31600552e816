"""Runs one ASE calculator on one structure, on the computer: needs ASE and the calculator there, nothing else.

Copied into the folder of a ``cgcnn.ase_dft`` job and run there by its Python. Reads ``input.json``, writes
``results.json``, and keeps ``state.json`` (last positions) and, of GPAW, ``restart.gpw`` for a job that goes on.
"""

import json
import os
import platform
import sys
import time
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase import __version__ as ase_version
from ase.calculators.calculator import CalculatorSetupError, SCFError, get_calculator_class
from ase.optimize import BFGS

INPUT, RESULTS, STATE, GPW, LOG = "input.json", "results.json", "state.json", "restart.gpw", "calculator.txt"
PREVIOUS = Path("previous")
# calculators whose class is outside `ase.calculators`, and not known to ASE by name
EXTRA_CALCULATORS = {"chgnet": "chgnet.model.dynamics:CHGNetCalculator"}
BUILT_IN = ("LDA", "PBE", "revPBE", "RPBE", "PW91")  # functionals that GPAW has without libxc
SHARE = 0.9  # of the wall time, after which to stop and keep what there is

JSON = dict[str, Any]


class JobError(Exception):
    """The end of the job, with a word for the parser and a sentence for the user."""

    def __init__(self, status: str, reason: str, **details: float) -> None:
        super().__init__(reason)
        self.status = status
        self.details = {"reason": reason, **details}


class Clock:
    """The wall time that is left."""

    def __init__(self, seconds: float | None) -> None:
        self.end = None if seconds is None else time.monotonic() + SHARE * seconds

    def check(self, *_: object) -> None:
        """Stop the job if none is left."""
        if self.end is not None and time.monotonic() > self.end:
            raise JobError("time", f"stopped, as {SHARE:.0%} of it are over; what there is was kept")


def calculator_class(name: str) -> Any:
    """Find the class (or function) that makes the calculator: by ASE's name, ``module:Class``, or an extra one."""
    name = EXTRA_CALCULATORS.get(name, name)
    try:
        if ":" in name:
            module, _, attribute = name.partition(":")
            return getattr(import_module(module), attribute)
        return get_calculator_class(name)
    except ModuleNotFoundError as error:
        if error.name == f"ase.calculators.{name}":
            raise JobError(
                "usage", f"no calculator {name!r}: neither a name that ASE knows, nor module:Class"
            ) from error
        raise JobError("missing", f"calculator {name!r} needs {error.name}, which {sys.executable} lacks") from error
    except AttributeError as error:
        raise JobError("usage", f"no calculator {name!r}: {error}") from error


def make_calculator(name: str, parameters: JSON) -> tuple[Any, tuple[type[Exception], ...]]:
    """Make the calculator; the errors with which it says that it did not converge are given, too."""
    make = calculator_class(name)
    parameters = dict(parameters)
    unconverged: tuple[type[Exception], ...] = (SCFError,)
    if name == "gpaw":
        import gpaw

        unconverged = (SCFError, gpaw.KohnShamConvergenceError)
        check_functional(parameters.get("xc", "LDA"), gpaw.get_libraries()["libxc"])
        parameters = {"txt": LOG, **parameters}
        if (PREVIOUS / GPW).exists():
            return make(PREVIOUS / GPW, txt=parameters["txt"]), unconverged
    try:
        return make(**parameters), unconverged
    except (TypeError, ValueError, KeyError, AttributeError, AssertionError, NotImplementedError,
            CalculatorSetupError) as error:  # fmt: skip
        raise JobError(
            "usage", f"calculator {name!r} refuses its parameters: {type(error).__name__}: {error}"
        ) from error


def check_functional(xc: str | JSON, libxc: str) -> None:
    """Refuse functionals that this GPAW was built without."""
    name = xc["name"] if isinstance(xc, dict) else xc
    if not libxc and name not in BUILT_IN:
        allowed = ", ".join(BUILT_IN)
        raise JobError("usage", f"functional {name!r}: this GPAW was built without libxc; allowed: {allowed}")


def read_atoms(structure: JSON) -> Atoms:
    """Make the structure, at the positions where the previous job ended if there was one."""
    atoms = Atoms(structure["symbols"], positions=structure["positions"], cell=structure["cell"], pbc=structure["pbc"])
    if structure["moments"] is not None:
        atoms.set_initial_magnetic_moments(structure["moments"])
    if (PREVIOUS / STATE).exists():
        atoms.positions[:] = json.loads((PREVIOUS / STATE).read_text())["positions"]
    return atoms


def keep_positions(atoms: Atoms) -> None:
    """Write them so that a kill in the middle leaves the last whole file."""
    Path(STATE + ".part").write_text(json.dumps({"positions": atoms.positions.tolist()}))
    Path(STATE + ".part").replace(STATE)


def relax(atoms: Atoms, settings: JSON, clock: Clock) -> int:
    """Relax the positions in the given cell; return the number of steps."""
    optimizer = BFGS(atoms, logfile="relax.log", trajectory="relax.traj")
    optimizer.attach(lambda: keep_positions(atoms))
    optimizer.attach(clock.check)
    converged = optimizer.run(fmax=settings["fmax"], steps=settings["max_steps"])
    if not converged:
        largest = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
        raise JobError(
            "relax", f"after {optimizer.nsteps} steps the largest force is {largest:.3f} eV/Å", force=largest
        )
    return int(optimizer.nsteps)


def results_of(atoms: Atoms, properties: list[str] | None) -> JSON:
    """Compute energy (eV), forces (eV/Å), stress (eV/Å³, of what is periodic), magnetic moments (μB)."""
    results: JSON = {"energy": float(atoms.get_potential_energy())}
    for name in properties or ("forces", "stress"):
        if name in ("forces", "stress") and not (name == "stress" and properties is None and not atoms.pbc.all()):
            try:
                results[name] = np.asarray(atoms.calc.get_property(name, atoms), dtype=float).tolist()
            except NotImplementedError as error:
                if properties is not None:
                    raise JobError("usage", f"the calculator computes no {name}") from error
    moments = getattr(atoms.calc, "results", {}).get("magmoms")
    if moments is not None and (properties is None or "magmoms" in properties):
        results["magmoms"] = np.asarray(moments, dtype=float).tolist()
    elif properties is not None and "magmoms" in properties:
        raise JobError("usage", "the calculator computes no magmoms")
    for name, value in results.items():
        if not np.isfinite(value).all():
            raise JobError("not_finite", f"{name} is not finite")
    return results


def version_of(module: str) -> str:
    """Return the version of the package that a module comes from."""
    if module == "ase":
        return ase_version
    owners = metadata.packages_distributions().get(module, [])
    return metadata.version(owners[0]) if owners else "unknown"


def facts(name: str, atoms: Atoms) -> JSON:
    """Collect what the calculator says of itself: version, and the PAW data sets of GPAW."""
    calculator = atoms.calc
    result: JSON = {
        "ase": ase_version,
        "python": sys.version.split()[0],
        "calculator": type(calculator).__name__,
        "version": version_of(type(calculator).__module__.partition(".")[0]),
    }
    if name == "gpaw":
        setups = zip(atoms.symbols, calculator.dft.setups, strict=True)
        result["pseudopotentials"] = {symbol: f"PAW md5:{setup.fingerprint}" for symbol, setup in setups}
        result["scf_steps"] = int(calculator.get_number_of_iterations())
    return result


def environment(packages: list[str]) -> JSON:
    """Record what runs here: versions of the packages that were asked for, the machine, threads."""
    return {
        "versions": {"ase": ase_version, "numpy": np.__version__, **{name: package_version(name) for name in packages}},
        "python": sys.version.split()[0],
        "host": platform.node(),
        "platform": platform.platform(),
        "threads": int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
        "seeds": {},
    }


def package_version(name: str) -> str:
    """Return the version of an installed package."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def run(settings: JSON) -> JSON:
    """Compute what ``results.json`` holds when all went well."""
    clock = Clock(settings["wall_seconds"])
    atoms = read_atoms(settings["structure"])
    atoms.calc, unconverged = make_calculator(settings["calculator"], settings["parameters"])
    if hasattr(atoms.calc, "hooks"):
        atoms.calc.hooks["scf_step"] = clock.check
    try:
        steps = relax(atoms, settings, clock) if settings["task"] == "relax" else None
        results = results_of(atoms, settings["properties"])
    except JobError as stop:
        if settings["calculator"] == "gpaw" and stop.status in ("time", "relax") and hasattr(atoms.calc, "dft"):
            atoms.calc.write(GPW, mode="all")
        raise
    except unconverged as error:
        raise JobError("scf", str(error) or type(error).__name__) from error
    except MemoryError as error:
        raise JobError("memory", "it asked for more memory than there is") from error
    return {
        "status": "ok",
        "device": str(getattr(atoms.calc, "device", "cpu")),
        "results": results,
        "positions": atoms.positions.tolist(),
        "relax_steps": steps,
        **facts(settings["calculator"], atoms),
    }


def main() -> int:
    """Run the job of this folder."""
    started = time.monotonic()
    settings = json.loads(Path(INPUT).read_text())
    try:
        result = run(settings)
    except JobError as stop:
        result = {"status": stop.status, **stop.details}
    calculator = {"engine": settings["calculator"], "device": result.pop("device", "cpu")}
    module = settings["calculator"].partition(":")[0].partition(".")[0]
    of_calculator = [module] if next(iter(metadata.distributions(name=module)), None) else []
    result["environment"] = environment([*settings["packages"], *of_calculator]) | calculator
    result["seconds"] = time.monotonic() - started
    Path(RESULTS).write_text(json.dumps(result, allow_nan=False))
    return 0 if result["status"] == "ok" else 2


if __name__ == "__main__":
    sys.exit(main())
