"""What ``cgcnn.ase_dft`` left in the retrieved folder -> a labelled structure, or a numbered exit code in words."""

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from aiida.engine import ExitCode
from aiida.orm import Dict

from aiida_plugin.calculations.ase_dft import EXIT_CODE, RESULTS, SETTINGS, STDERR
from aiida_plugin.data.label_scheme import SCHEME
from aiida_plugin.data.structures import StructureSetData
from aiida_plugin.parsers.ase_scheme import scheme_of_job
from aiida_plugin.parsers.retrieved import RetrievedParser

if TYPE_CHECKING:
    from ase import Atoms

#: the exit code of each way to end that the worker knows
_ENDS = {
    "usage": "ERROR_USAGE",
    "missing": "ERROR_NOT_INSTALLED",
    "memory": "ERROR_KILLED",
    "time": "ERROR_OUT_OF_WALLTIME",
    "not_finite": "ERROR_NOT_FINITE",
    "scf": "ERROR_SCF_NOT_CONVERGED",
    "relax": "ERROR_RELAX_NOT_CONVERGED",
}
#: signals by which schedulers end a job that is out of time: SIGTERM, SIGXCPU
_OUT_OF_TIME = ("143", "152")
#: characters of an error that are told
_LENGTH = 400
#: the id of the one structure; the job knows no other
ID = "0"


class AseDftParser(RetrievedParser):
    """Reads the retrieved folder only."""

    stderr, exit_code = STDERR, EXIT_CODE

    def parse(self, **_: Any) -> ExitCode | None:
        """Make the outputs, or say by number why there are none."""
        text = self.text(RESULTS)
        if text is None:
            return self._without_results()
        try:
            result = json.loads(text)
            status = result["status"]
        except (ValueError, KeyError, TypeError) as error:
            return self.fail("ERROR_CORRUPT_OUTPUT", file=RESULTS, reason=f"{type(error).__name__}: {error}")
        if status != "ok":
            details = {key: value for key, value in result.items() if key != "status"}
            self.out("output_parameters", Dict({"finished": False, **details}))
            return self.fail(_ENDS.get(status, "ERROR_CALCULATOR"), reason=result.get("reason", status))
        try:
            atoms = self._labelled(result)
        except (ValueError, KeyError, TypeError) as error:
            return self.fail("ERROR_CORRUPT_OUTPUT", file=RESULTS, reason=f"{type(error).__name__}: {error}")
        if not all(np.isfinite(value).all() for value in atoms.calc.results.values()):
            return self.fail("ERROR_NOT_FINITE", reason="energy, forces, stress or moments are not finite")
        self.out("labelled", StructureSetData.from_ase([atoms], [ID]))
        details = {key: value for key, value in result.items() if key not in ("status", "results", "positions")}
        details = {key: value for key, value in details.items() if value is not None}
        self.out("output_parameters", Dict({"finished": True, "energy": result["results"]["energy"], **details}))
        return None

    def _labelled(self, result: dict[str, Any]) -> "Atoms":
        """The structure where it was computed, with what the calculator gave and the scheme of it."""
        from ase import Atoms
        from ase.calculators.singlepoint import SinglePointCalculator

        structure, results = self.node.inputs.structure, result["results"]
        settings = {**SETTINGS, **self.node.inputs.settings.get_dict()}
        atoms = Atoms(
            [structure.get_kind(site.kind_name).symbol for site in structure.sites],
            positions=np.asarray(result["positions"], dtype=float),
            cell=structure.cell,
            pbc=structure.pbc,
        )
        moments = settings["moments"]
        if moments:
            atoms.set_initial_magnetic_moments([moments.get(site.kind_name, 0.0) for site in structure.sites])
        spin = bool(settings["parameters"].get("spinpol", any(moments.values())))
        atoms.info[SCHEME] = scheme_of_job(settings, result, spin=spin)
        labels = {
            name: value if name == "energy" else np.asarray(value, dtype=float) for name, value in results.items()
        }
        for name, shape in (("forces", (len(atoms), 3)), ("stress", (6,)), ("magmoms", (len(atoms),))):
            if name in labels and labels[name].shape != shape:
                raise ValueError(f"{name} is of shape {labels[name].shape}, not {shape}")
        atoms.calc = SinglePointCalculator(atoms, **{"energy": float(labels.pop("energy")), **labels})
        atoms.calc.name = settings["calculator"]
        return atoms

    def _without_results(self) -> ExitCode:
        """The job ended before the worker could write."""
        code = (self.text(EXIT_CODE) or "").strip()
        if not code or code in _OUT_OF_TIME:
            return self.fail("ERROR_OUT_OF_WALLTIME", reason="the job ended before the calculator did")
        if code.isdigit() and int(code) > 128:
            return self.fail("ERROR_KILLED", reason=f"exit code {code}")
        if code == "0":
            return self.fail("ERROR_MISSING_OUTPUT", file=RESULTS, reason=self.last_words())
        return self.fail("ERROR_CALCULATOR", reason=self.last_words())

    def last_words(self) -> str:
        """The error of the last traceback, or else the last line."""
        lines = (self.text(STDERR) or "").strip().splitlines()
        starts = [k for k, line in enumerate(lines) if line.startswith("Traceback")]
        if starts:
            final_lines = [line for line in lines[starts[-1] + 1 :] if line and not line.startswith(" ")]
            return " ".join(final_lines)[:_LENGTH]
        return lines[-1][:_LENGTH] if lines else "it said nothing"
