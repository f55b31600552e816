"""A folder of finished calculations as a table: which files it has, what each of them says, and reference energies."""

import json
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cgcnn_ase.core.elements import reference_energies, symbols
from cgcnn_ase.core.errors import DatasetError
from cgcnn_ase.core.parallel import available_cores
from cgcnn_ase.structures.dft_outputs import PROGRAMS, Calculation, OutputRecord, output_kind, read_output
from cgcnn_ase.structures.record import NOT_CONVERGED

if TYPE_CHECKING:
    import pandas as pd

#: energies of the elements beside the calculations: eV/atom by symbol, or the text "mp-pbe"
REFERENCES = "references.json"
#: units of the columns of energies
ENERGY_UNITS = {"formation_energy_per_atom": "eV/atom", "energy_per_atom": "eV/atom", "energy": "eV"}

# more files than this are read in parallel
_PARALLEL_ABOVE = 50
_NAMED = 10
# the first of these in a folder that can be read says all that the others say of the same calculation
_SAME = (("vasprun", "outcar"), ("gpw", "gpaw"))


class CalculationTable(NamedTuple):
    """Finished calculations of a folder, and the files that hold none."""

    calculations: Sequence[Calculation]
    failures: Sequence[OutputRecord]

    def warn(self, source: Path) -> None:
        """Say in one warning which files could not be used, and in another which calculations do not go together."""
        if self.failures:
            n = len(self.failures) + len(self.calculations)
            lines = [f"{_shown(Path(each.source), source)}: {each.error}" for each in self.failures[:_NAMED]]
            more = [f"and {len(self.failures) - _NAMED} more"] if len(self.failures) > _NAMED else []
            head = f"{source}: {len(self.failures)} of {n} calculations are left out"
            warnings.warn("\n  ".join([f"{head}:", *lines, *more]), stacklevel=4)
        if n := sum(not each.settings_converged for each in self.calculations):
            text = f"{source}: of {n} of {len(self.calculations)} calculations is marked that {NOT_CONVERGED}"
            warnings.warn(text, stacklevel=4)
        if mixed := _mixed(self.calculations):
            warnings.warn(f"{source}: energies of different calculations are mixed: {mixed}", stacklevel=4)

    def columns(self, source: Path) -> "pd.DataFrame":
        """Columns of each: energies, largest force, pressure, moment, what made it, and numbers of the file.

        ``formation_energy_per_atom`` is there where the elements' reference energies are known: those of
        ``references.json``, else the lowest energies of the elements among the calculations of the same functional.
        """
        import pandas as pd

        rows = [_row(each) for each in self.calculations]
        formation = self._formation_energies(source)
        table = pd.DataFrame(rows)
        compounds = [len(set(each.atoms.numbers.tolist())) > 1 for each in self.calculations]
        if np.isfinite(formation[compounds]).any():
            table.insert(0, "formation_energy_per_atom", formation)
        return table.dropna(axis=1, how="all")

    def _formation_energies(self, source: Path) -> "np.ndarray":
        """eV/atom; NaN where an element has no reference energy."""
        stated = _stated_references(source)
        result = np.full(len(self.calculations), np.nan)
        elements = _elements_of(self.calculations)
        for k, each in enumerate(self.calculations):
            known = elements[each.program, each.functional] if stated is None else stated
            chemical = each.atoms.get_chemical_symbols()
            if all(symbol in known for symbol in chemical):
                of_elements = sum(known[symbol] for symbol in chemical)
                result[k] = (each.atoms.get_potential_energy() - of_elements) / len(chemical)
        return result


def holds_calculations(path: Path) -> bool:
    """Say whether a path is a file of finished calculations, or a folder with some, in it or below."""
    if path.is_file():
        return output_kind(path) is not None
    return bool(_jobs(path))


def read_calculations(path: Path) -> CalculationTable:
    """Read every calculation of a folder and the folders below, or of a file; a bad file is a failure of its elements.

    In a folder with the output of a program the files of structures (extxyz, .traj, .db) are its inputs or the same
    calculation once more, and are left out. Of ``vasprun.xml`` and ``OUTCAR`` the first that can be read is taken.
    """
    jobs = _jobs(path) if path.is_dir() else [(path.name.partition(".")[0], (path,))]
    stamp = tuple((str(f), f.stat().st_mtime_ns, f.stat().st_size) for _, files in jobs for f in files)
    return _read_jobs(tuple(jobs), stamp)


_Job = tuple[str, tuple[Path, ...]]


@lru_cache(maxsize=2)
def _read_jobs(jobs: tuple[_Job, ...], stamp: tuple[tuple[str, int, int], ...]) -> CalculationTable:
    """Read the files once, however often their table is asked for."""
    del stamp
    if len(jobs) > _PARALLEL_ABOVE:
        with ProcessPoolExecutor(available_cores()) as pool:
            results = list(pool.map(_read_job, jobs, chunksize=4))
    else:
        results = [_read_job(job) for job in jobs]
    records = [record for result in results for record in result]
    return CalculationTable(
        [record.calculation for record in records if record.calculation is not None],
        [record for record in records if record.calculation is None],
    )


def _read_job(job: _Job) -> list[OutputRecord]:
    """The calculations of the first file that has any; else why the first has none."""
    name, files = job
    first: list[OutputRecord] = []
    for file in files:
        records = read_output(file, name)
        if any(record.calculation is not None for record in records):
            return records
        first = first or records
    return first


def _jobs(folder: Path) -> list[_Job]:
    """Calculations by id, each with the files that tell of it, the best first."""
    by_folder: dict[Path, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for file in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if not hidden and file.is_file() and (kind := output_kind(file)) is not None:
            by_folder[file.parent][kind].append(file)
    jobs: list[_Job] = []
    for parent, by_kind in sorted(by_folder.items()):
        groups = _groups(by_kind)
        prefix = "" if parent == folder else parent.relative_to(folder).as_posix()
        for files in groups:
            stem = files[0].name.partition(".")[0] if files[0].name.startswith("OUTCAR") else files[0].stem
            alone = prefix and len(groups) == 1
            jobs.append((prefix if alone else f"{prefix}/{stem}" if prefix else stem, tuple(files)))
    names = [name for name, _ in jobs]
    # a.out and a.log of one folder: their full names tell them apart
    return [(name if names.count(name) == 1 else f"{name}{files[0].suffix}", files) for name, files in jobs]


def _groups(by_kind: Mapping[str, list[Path]]) -> list[list[Path]]:
    """Files of one folder that tell of the same calculation, together."""
    rest = {kind: list(files) for kind, files in by_kind.items()}
    if any(kind in PROGRAMS for kind in rest):
        rest.pop("ase", None)
    groups: list[list[Path]] = []
    for better, other in _SAME:
        firsts, seconds = rest.pop(better, []), rest.pop(other, [])
        if better == "vasprun":  # vasprun.xml is the last run; .relax1 and the like are those before it
            firsts, seconds = _last_run(firsts), _last_run(seconds)
        for first in firsts:
            same = seconds if better == "vasprun" and len(firsts) == 1 else [s for s in seconds if s.stem == first.stem]
            groups.append([first, *same])
            seconds = [s for s in seconds if s not in same]
        groups += [[second] for second in seconds]
    return sorted([*groups, *([file] for files in rest.values() for file in files)])


def _last_run(files: list[Path]) -> list[Path]:
    last = [file for file in files if file.name.removesuffix(".gz") in ("vasprun.xml", "OUTCAR")]
    return last[:1] or files


def _row(each: Calculation) -> dict[str, object]:
    atoms, results = each.atoms, each.atoms.calc.results
    row: dict[str, object] = {"energy_per_atom": results["energy"] / len(atoms), "energy": results["energy"]}
    if "free_energy" in results:
        row["free_energy"] = results["free_energy"]
    if "forces" in results:
        row["max_force"] = float(np.linalg.norm(results["forces"], axis=1).max())
    if "stress" in results:
        from ase.units import GPa

        row["pressure"] = -float(np.mean(results["stress"][:3])) / GPa
    if "magmoms" in results:
        row["magnetic_moment"] = float(np.sum(results["magmoms"]))
    elif "magmom" in results:
        row["magnetic_moment"] = float(results["magmom"])
    numbers = {
        str(key): float(value)
        for key, value in atoms.info.items()
        if isinstance(value, int | float | np.number) and not isinstance(value, bool) and key not in row
    }
    texts = {"program": each.program, "version": each.version, "functional": each.functional}
    u = " ".join(f"{symbol}:{value:g}" for symbol, value in sorted(each.hubbard_u.items()))
    return {**row, **numbers, **texts, "hubbard_u": u, "file": each.source}


def _stated_references(source: Path) -> Mapping[str, float] | None:
    """Energies of the elements that stand in a file beside the calculations; None without one."""
    file = (source if source.is_dir() else source.parent) / REFERENCES
    if not file.exists():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DatasetError(f"{file}: not JSON: {error}") from error
    if content == "mp-pbe":
        return reference_energies()
    good = isinstance(content, dict) and all(
        symbol in symbols()[1:] and isinstance(value, int | float) for symbol, value in content.items()
    )
    if not good:
        raise DatasetError(f'{file}: must hold energies in eV/atom by element, as {{"Li": -1.9}}, or the text "mp-pbe"')
    return {symbol: float(value) for symbol, value in content.items()}


def _elements_of(calculations: Sequence[Calculation]) -> Mapping[tuple[str, str], dict[str, float]]:
    """The lowest energy of each element that was calculated alone, by program and functional, eV/atom."""
    result: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for each in calculations:
        elements = set(each.atoms.get_chemical_symbols())
        if len(elements) == 1:
            (symbol,) = elements
            energy = each.atoms.get_potential_energy() / len(each.atoms)
            known = result[each.program, each.functional]
            known[symbol] = min(energy, known.get(symbol, np.inf))
    return result


def _mixed(calculations: Sequence[Calculation]) -> str:
    """In what calculations differ whose energies should not be compared; empty where they do not."""
    made = sorted({f"{each.program} {each.functional}".strip() or "unknown" for each in calculations})
    if len(made) > 1:
        return ", ".join(made)
    for symbol in sorted({s for each in calculations for s in each.hubbard_u}):
        values = {each.hubbard_u.get(symbol, 0.0) for each in calculations if symbol in each.atoms.symbols}
        if len(values) > 1:
            return f"U of {symbol} " + ", ".join(f"{value:g}" for value in sorted(values)) + " eV"
    return ""


def _shown(file: Path, source: Path) -> str:
    return file.relative_to(source).as_posix() if source.is_dir() else file.name
