"""Parser of ``cgcnn.ase_dft``: the retrieved folder -> a labelled structure, or a numbered exit code in words."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from aiida.engine import ExitCode
from aiida.orm import ArrayData, Dict, Float

from aiida_plugin.calculations.ase_dft import RESULTS, AseCalculation, complete_settings
from aiida_plugin.calculations.crash_safe import EXIT_CODE
from aiida_plugin.data.labels import SCHEME, functional_of
from aiida_plugin.data.structures import SINGLE, StructureSetData
from aiida_plugin.parsers.retrieved import RetrievedParser

if TYPE_CHECKING:
    from ase import Atoms

_ENDS = {  # the exit code of each way to end that the worker knows
    "usage": "ERROR_USAGE",
    "missing": "ERROR_NOT_INSTALLED",
    "memory": "ERROR_KILLED",
    "time": "ERROR_OUT_OF_WALLTIME",
    "not_finite": "ERROR_NOT_FINITE",
    "scf": "ERROR_SCF_NOT_CONVERGED",
    "relax": "ERROR_RELAX_NOT_CONVERGED",
}
_OUT_OF_TIME = ("143", "152")  # SIGTERM, SIGXCPU: by which schedulers end a job that is out of time
_LENGTH = 400  # characters of an error that are told


class AseParser(RetrievedParser):
    """Reads the retrieved folder only."""

    stderr = AseCalculation.stderr

    def parse(self, **_: object) -> ExitCode | None:
        """Make the outputs, or say by number why there are none."""
        text = self.text(RESULTS)
        if text is None:
            return self._without_results()
        try:
            results = json.loads(text)
            status, record = results.pop("status"), results.pop("environment", None)
            if record is None and not self.is_of_earlier_version:
                raise ValueError("it does not tell what ran")
            differences = [] if record is None else list(self._differences(record))
            atoms = self._labelled(results) if status == "ok" else None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return self.fail("ERROR_CORRUPT_OUTPUT", file=RESULTS, reason=f"{type(error).__name__}: {error}")
        differ = None if record is None else self.record_environment(record, differences)
        if atoms is None:
            self.out("output_parameters", Dict({"finished": False, **results}))
            return self.fail(_ENDS.get(status, "ERROR_CALCULATOR"), reason=results.get("reason", status))
        if not all(np.isfinite(value).all() for value in atoms.calc.results.values()):
            return self.fail("ERROR_NOT_FINITE", reason="energy, forces, stress or moments are not finite")
        if differ is not None:
            self.out("output_parameters", Dict({"finished": True}))
            return differ
        self.out("labelled", StructureSetData.from_ase([atoms], [SINGLE]))
        self._standard_outputs(atoms)
        facts = {k: value for k, value in results.items() if k not in ("results", "positions") and value is not None}
        self.out("output_parameters", Dict({"finished": True, "energy": results["results"]["energy"], **facts}))
        return None

    def _standard_outputs(self, atoms: "Atoms") -> None:
        """Give energy, forces and the relaxed structure as nodes that every plugin takes, too."""
        results = atoms.calc.results
        self.out("energy", Float(results["energy"]))
        if "forces" in results:
            self.out("forces", ArrayData({"forces": results["forces"]}))
        if complete_settings(self.node.inputs.settings)["task"] == "relax":
            relaxed = self.node.inputs.structure.clone()
            relaxed.reset_sites_positions(atoms.positions.tolist())
            self.out("relaxed_structure", relaxed)

    def _labelled(self, results: Mapping[str, Any]) -> "Atoms":
        """The structure where it was computed, with what the calculator gave and the scheme of it."""
        from ase import Atoms
        from ase.calculators.singlepoint import SinglePointCalculator

        structure, settings = self.node.inputs.structure, complete_settings(self.node.inputs.settings)
        atoms = Atoms(
            [structure.get_kind(site.kind_name).symbol for site in structure.sites],
            positions=np.asarray(results["positions"], dtype=float),
            cell=structure.cell,
            pbc=structure.pbc,
        )
        if moments := settings["moments"]:
            atoms.set_initial_magnetic_moments([moments.get(site.kind_name, 0.0) for site in structure.sites])
        spin = bool(settings["parameters"].get("spinpol", any(moments.values())))
        atoms.info[SCHEME] = scheme_of_job(settings, results, spin=spin)
        labels = {name: np.asarray(value, dtype=float) for name, value in results["results"].items()}
        for name, shape in (("forces", (len(atoms), 3)), ("stress", (6,)), ("magmoms", (len(atoms),))):
            if name in labels and labels[name].shape != shape:
                raise ValueError(f"{name} is of shape {labels[name].shape}, not {shape}")
        atoms.calc = SinglePointCalculator(atoms, **{"energy": float(labels.pop("energy")), **labels})
        atoms.calc.name = settings["calculator"]
        return atoms

    def _without_results(self) -> ExitCode:
        """Say why the job ended before the worker could write."""
        code = (self.text(EXIT_CODE) or "").strip()
        if not code or code in _OUT_OF_TIME:
            return self.fail("ERROR_OUT_OF_WALLTIME", reason="the job ended before the calculator did")
        if code.isdigit() and int(code) > 128:
            return self.fail("ERROR_KILLED", reason=f"exit code {code}")
        if code == "0":
            return self.fail("ERROR_MISSING_OUTPUT", file=RESULTS, reason=self.last_words())
        return self.fail("ERROR_CALCULATOR", reason=self.last_words())

    def last_words(self) -> str:
        """Read the error of the last traceback, or else the last line."""
        lines = (self.text(self.stderr) or "").strip().splitlines()
        starts = [k for k, line in enumerate(lines) if line.startswith("Traceback")]
        if starts:
            return " ".join(line for line in lines[starts[-1] + 1 :] if line and not line.startswith(" "))[:_LENGTH]
        return lines[-1][:_LENGTH] if lines else "it said nothing"


AseDftParser = AseParser  # its name in early versions


def scheme_of_job(settings: Mapping[str, Any], results: Mapping[str, Any], *, spin: bool) -> dict[str, object]:
    """Make the label scheme of a job from its complete settings; a machine-learned potential is called what it is.

    `results` is the worker's record, which tells the calculator's version and pseudopotentials.
    """
    name, parameters = settings["calculator"], settings["parameters"]
    scheme = {
        "engine": name,
        "engine_version": results["version"],
        "functional": functional_of(name, parameters, settings["functional"]),
        "hubbard_u": {},
        "pseudopotentials": results.get("pseudopotentials", {}),
        "cutoffs": {},
        "kpoints_distance": settings["kpoints_distance"],
        "spin": spin,
        "relaxed": settings["task"] == "relax",
    }
    if name == "gpaw":
        return scheme | _of_gpaw(parameters)
    return scheme | ({"parameters": dict(parameters)} if parameters else {})


def _of_gpaw(parameters: Mapping[str, Any]) -> dict[str, object]:
    """Cutoff, U, smearing, and what other than plane waves GPAW used."""
    mode = parameters.get("mode", {})
    mode = mode if isinstance(mode, Mapping) else {"name": mode}
    special = {name: parameters[name] for name in ("h", "gpts", "basis", "charge") if name in parameters}
    return {
        "mode": mode.get("name", "fd"),
        "cutoffs": {"wave functions": float(mode.get("ecut", 340.0))} if mode.get("name") == "pw" else {},
        "hubbard_u": _hubbard_of_setups(parameters.get("setups", {})),
        "smearing": dict(parameters.get("occupations", {})),
        **special,
    }


def _hubbard_of_setups(setups: object) -> dict[str, float]:
    """U (eV) by element of GPAW's ``setups``, as in ``{"Ni": "10:d,6.2"}``."""
    if not isinstance(setups, Mapping):
        return {}
    corrections = {element: str(text).partition(":")[2] for element, text in setups.items()}
    return {element: float(text.split(";")[0].split(",")[1]) for element, text in corrections.items() if text}
