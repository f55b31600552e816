"""Reference calls of a relaxation that learns, beside those of ASE's optimisers on the reference alone.

    python benchmarks/learning.py --output docs/data/learning.json --picture docs/images/learning.png

Systems: a lithium vacancy in Li2O, an oxygen vacancy in MgO, rattled silicon (GPAW, plane waves, PBE: coarse, and the
same for all), a lithium vacancy in LiNiO2 (CHGNet, as DFT with 2 x 2 x 2 k points takes minutes a structure), and
hydrogen on Al(111) (EMT). Cells are kept. Beside ``relax(reference=...)`` stand BFGS
and GPMin of ASE on the reference, and "no correction": first on the potential alone, from there by BFGS on the
reference. All stop where no force that the reference gives is above fmax; a call is one structure that the reference
has seen. Five orderings of Li0.75NiO2 share their labels. ``--only`` chooses among systems and orderings.

False confidence: every structure that a walk has come by within its limits is labelled afterwards; counted are those
where the largest error of a force component is more than three times the largest std.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _report import Table, machine, parser
from _structures import echo_stderr
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, make_supercell
from ase.calculators.calculator import Calculator, all_changes
from ase.constraints import FixAtoms
from ase.optimize import BFGS, GPMin
from ase.spacegroup import crystal

from cgcnn_ase.energies.interface import chgnet_calculator
from cgcnn_ase.learning.learning_state import LearningState
from cgcnn_ase.learning.reference import ReferenceLabel
from cgcnn_ase.learning.relax import session_of
from cgcnn_ase.learning.session import LearnedRelaxOptions, ReferenceRequest
from cgcnn_ase.models.registry import load_model
from cgcnn_ase.potential.relax import relax as relax_by_potential

FMAX, MAX_CALLS = 0.05, 150
# reasons of a request where the last structure of the walk is within the limits, too
WITHIN_LIMITS = ("minimum", "end of the walk", "end of the trust radius")


class System(NamedTuple):
    """A relaxation."""

    name: str
    atoms: Atoms
    model: str
    reference: Callable[[], Any]
    reference_name: str


class CountedReference(Calculator):
    """A calculator that keeps the energy of every structure it is asked about, and the time it takes."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 - as in ASE

    def __init__(self, calculator: Any) -> None:
        super().__init__()
        self.calculator, self.energies, self.seconds = calculator, [], 0.0

    def calculate(
        self, atoms: Atoms | None = None, properties: Sequence[str] = ("energy",), system_changes: Any = all_changes
    ) -> None:
        """Ask the calculator for both."""
        super().calculate(atoms, properties, system_changes)
        assert atoms is not None
        started = time.perf_counter()
        structure = atoms.copy()
        structure.set_constraint()
        structure.calc = self.calculator
        energy = float(structure.get_potential_energy())
        self.results = {"energy": energy, "forces": np.asarray(structure.get_forces(), dtype=float)}
        self.energies.append(energy)
        self.seconds += time.perf_counter() - started

    def todict(self) -> dict[str, Any]:
        """Settings of the calculator."""
        told: dict[str, Any] = self.calculator.todict()
        return told


def gpaw(k: int) -> Callable[[], Any]:
    """Coarse settings, for k points in each direction."""

    def make() -> Any:
        from gpaw import GPAW

        return GPAW(
            mode={"name": "pw", "ecut": 300}, xc="PBE", kpts={"size": (k, k, k), "gamma": True}, symmetry="off",
            occupations={"name": "fermi-dirac", "width": 0.1}, convergence={"density": 1e-4, "eigenstates": 1e-6},
            txt=None,
        )  # fmt: skip

    return make


def chgnet() -> Any:
    """CHGNet: a potential that stands in for DFT where that takes minutes a structure."""
    return chgnet_calculator()


def emt() -> Any:
    """ASE's effective medium theory."""
    from ase.calculators.emt import EMT

    return EMT()


def without_first(atoms: Atoms, element: str) -> Atoms:
    """A copy with a vacancy."""
    result = atoms.copy()
    del result[next(k for k, symbol in enumerate(result.symbols) if symbol == element)]
    return result


def displaced(atoms: Atoms) -> Atoms:
    """Atoms moved at random: where symmetry leaves no forces, they would stay."""
    atoms.rattle(0.1, seed=0)
    return atoms


def linio2() -> Atoms:
    """The primitive cell of R-3m LiNiO2: a 2.878 Å, c 14.19 Å, z of oxygen 0.258 (published)."""
    made: Atoms = crystal(
        ["Ni", "Li", "O"], [(0, 0, 0), (0, 0, 0.5), (0, 0, 0.2581)], spacegroup=166,
        cellpar=[2.878, 2.878, 14.19, 90, 90, 120], primitive_cell=True,
    )  # fmt: skip
    return made


# cells of four formula units: one vacancy in each is another ordering of Li0.75NiO2
SUPERCELLS = (
    [[2, 0, 0], [0, 2, 0], [0, 0, 1]],
    [[4, 0, 0], [0, 1, 0], [0, 0, 1]],
    [[1, 0, 0], [0, 1, 0], [0, 0, 4]],
    [[2, 0, 0], [0, 1, 0], [1, 0, 2]],
    [[1, 1, 0], [1, -1, 0], [0, 0, 2]],
)


def orderings() -> list[Atoms]:
    """Five orderings of the lithium vacancy in Li0.75NiO2."""
    return [without_first(make_supercell(linio2(), np.array(cell)), "Li") for cell in SUPERCELLS]


def systems() -> list[System]:
    """The relaxations one by one."""
    silicon = bulk("Si", a=5.431, cubic=True)
    silicon.rattle(0.12, seed=1)
    slab = fcc111("Al", (2, 2, 3), a=4.05, vacuum=8.0, periodic=True)
    add_adsorbate(slab, "H", 1.5, "bridge", offset=(0.05, 0.02))
    slab.set_constraint(FixAtoms([atom.index for atom in slab if atom.tag == 3]))
    return [
        System("Li vacancy in LiNiO2", orderings()[0], "cathode-potential", chgnet, "CHGNet"),
        System(
            "Li vacancy in Li2O", without_first(bulk("Li2O", "fluorite", a=4.619, cubic=True), "Li"),
            "cathode-potential", gpaw(2), "GPAW",
        ),
        System(
            "O vacancy in MgO, displaced", displaced(without_first(bulk("MgO", "rocksalt", a=4.212, cubic=True), "O")),
            "cathode-potential", gpaw(2), "GPAW",
        ),
        System("H on Al(111)", slab, "general-potential", emt, "EMT"),
        System("rattled Si", silicon, "general-potential", gpaw(2), "GPAW"),
    ]  # fmt: skip


class Run(NamedTuple):
    """One relaxation by one method."""

    energies: list[float]  # of each call, eV
    seconds: float  # in the reference
    overhead: float  # elsewhere
    energy: float  # of the end
    converged: bool


def by_optimizer(optimizer: Any, atoms: Atoms, reference: Any) -> Run:
    """One of ASE's optimisers on the reference."""
    moved, counted = atoms.copy(), CountedReference(reference)
    moved.calc = counted
    started = time.perf_counter()
    converged = bool(optimizer(moved, logfile=None).run(fmax=FMAX, steps=MAX_CALLS))
    seconds = time.perf_counter() - started
    return Run(counted.energies, counted.seconds, seconds - counted.seconds, counted.energies[-1], converged)


def uncorrected(system: System) -> Run:
    """On the potential, and from its minimum by BFGS on the reference."""
    row = relax_by_potential(system.atoms, system.model, fmax=FMAX, fixed_cell=True)[0]
    start = system.atoms.copy()
    if row.atoms is not None:
        start.positions[:] = row.atoms.positions
    else:
        echo_stderr(f"{system.name}: {row.error}; no correction starts where the others do")
    return by_optimizer(BFGS, start, system.reference())


def learned(name: str, atoms: Atoms, state: LearningState) -> tuple[Run, list[ReferenceRequest], ReferenceLabel]:
    """Ours, with every request."""
    counted = state.reference
    assert isinstance(counted, CountedReference)
    before, energies, requests = counted.seconds, len(counted.energies), []
    started = time.perf_counter()
    session = session_of(name, atoms, state, LearnedRelaxOptions(fmax=FMAX, fixed_cell=True))
    while (request := session.ask()) is not None:
        session.add(state.label(request, session.atoms_of(request.structure), name, with_stress=False))
        requests.append(request)
    seconds = time.perf_counter() - started
    spent = counted.seconds - before
    last = session.converged or session.lowest
    assert last is not None
    run = Run(counted.energies[energies:], spent, seconds - spent, last.energy, session.converged is not None)
    return run, requests, last


def false_confidence(atoms: Atoms, requests: Sequence[ReferenceRequest], reference: Any) -> tuple[int, int]:
    """Steps whose error is above three std, of all that were taken within limits."""
    wrong = taken = 0
    for request in requests:
        within = request.path if request.reason.startswith(WITHIN_LIMITS) else request.path[:-1]
        for point in within[1:]:  # the first has a label
            structure = atoms.copy()
            structure.set_constraint()
            structure.positions[:] = point.structure.positions
            structure.calc = reference
            error = float(np.abs(np.asarray(structure.get_forces()) - point.forces).max())
            taken += 1
            wrong += error > 3.0 * float(point.forces_std.max())
    return wrong, taken


def systems_table(chosen: argparse.Namespace, curves: dict[str, Any]) -> Table:
    """All methods on each system."""
    table = Table(
        f"Reference calls to a minimum (fmax {FMAX:g} eV/Å)",
        ("system", "atoms", "reference", "BFGS", "GPMin", "no correction", "ours", "of BFGS", "of GPMin",
         "energy above the lowest, meV/atom", "overhead, s", "of the time saved", "above 3 std"),
    )  # fmt: skip
    ratios, of_gpmin, wrong_in_all, taken_in_all = [], [], 0, 0
    for system in systems():
        model = load_model(system.model)
        runs = {"BFGS": by_optimizer(BFGS, system.atoms, system.reference())}
        runs["GPMin"] = by_optimizer(GPMin, system.atoms, system.reference())
        runs["no correction"] = uncorrected(system)
        with tempfile.TemporaryDirectory() as folder:
            state = LearningState(folder, model=model, reference=CountedReference(system.reference()))
            runs["ours"], requests, _ = learned("0", system.atoms, state)
        wrong, taken = false_confidence(system.atoms, requests, system.reference())
        wrong_in_all, taken_in_all = wrong_in_all + wrong, taken_in_all + taken
        calls = {name: len(run.energies) for name, run in runs.items()}
        bfgs, ours, n = runs["BFGS"], runs["ours"], len(system.atoms)
        lowest = min(run.energy for run in runs.values())
        saved = (calls["BFGS"] - calls["ours"]) * bfgs.seconds / calls["BFGS"]
        ratios.append(calls["ours"] / calls["BFGS"])
        of_gpmin.append(calls["ours"] / calls["GPMin"])
        table.rows.append((
            system.name, n, system.reference_name, calls["BFGS"], calls["GPMin"], calls["no correction"], calls["ours"],
            ratios[-1], of_gpmin[-1], 1000 * (ours.energy - lowest) / n, ours.overhead,
            f"{ours.overhead / saved:.0%}" if saved > 0 and system.reference_name == "GPAW" else "–",
            f"{wrong} of {taken}",
        ))  # fmt: skip
        curves[system.name] = {"n_atoms": n} | {name: run.energies for name, run in runs.items()}
        for name, run in runs.items():
            if not run.converged:
                table.notes.append(f"{system.name}, {name}: not converged after {len(run.energies)} calls")
        echo_stderr(f"{system.name}: {calls}, {wrong} of {taken}")
    table.notes.append(
        f"mean over systems: {np.mean(ratios):.2f} of BFGS's calls, {np.mean(of_gpmin):.2f} of GPMin's; "
        f"{wrong_in_all} of {taken_in_all} steps within limits had an error above 3 std"
    )
    return table


def orderings_table(chosen: argparse.Namespace, curves: dict[str, Any]) -> Table:
    """Five orderings that share their labels."""
    table = Table(
        "Five orderings of Li0.75NiO2 with shared labels (CHGNet)",
        ("ordering", "calls alone", "calls shared", "energy, eV"),
    )
    model = load_model("cathode-potential")
    with tempfile.TemporaryDirectory() as folder:
        state = LearningState(folder, model=model, reference=CountedReference(chgnet()))
        for k, atoms in enumerate(orderings()):
            alone, _, _ = learned("0", atoms, LearningState(model=model, reference=CountedReference(chgnet())))
            shared, _, _ = learned(str(k), atoms, state)
            table.rows.append((k + 1, len(alone.energies), len(shared.energies), f"{shared.energy:.4f}"))
            curves[f"ordering {k + 1}"] = {"n_atoms": len(atoms), "alone": alone.energies, "ours": shared.energies}
            echo_stderr(f"ordering {k + 1}: {len(alone.energies)} alone, {len(shared.energies)} shared")
    return table


def draw(curves: dict[str, Any], file: Path) -> None:
    """Energy above the lowest against calls, ours beside BFGS and GPMin."""
    import matplotlib.pyplot as plt

    names = [name for name in curves if "BFGS" in curves[name]]
    figure, axes = plt.subplots(1, len(names), figsize=(2.4 * len(names), 3.0), sharey=True, layout="constrained")
    colors = {"BFGS": "#999999", "GPMin": "#56b4e9", "ours": "#d55e00"}
    for axis, name in zip(np.atleast_1d(axes), names, strict=True):
        curve = curves[name]
        lowest = min(min(curve[method]) for method in colors)
        for method, color in colors.items():
            best = np.minimum.accumulate(np.array(curve[method]) - lowest) * 1000 / curve["n_atoms"]
            axis.plot(np.arange(1, len(best) + 1), np.maximum(best, 0.1), "o-", ms=3, lw=1.2, color=color, label=method)
        axis.set(title=name, xlabel="reference calls", yscale="log")
        axis.title.set_fontsize(9)
        axis.xaxis.get_major_locator().set_params(integer=True)
    np.atleast_1d(axes)[0].set_ylabel("above the lowest (meV/atom)")
    np.atleast_1d(axes)[-1].legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=110)


def main() -> None:
    """Command line."""
    made = parser(__doc__ or "", data=False)
    made.add_argument("--picture", type=Path, metavar="FILE.png")
    made.add_argument("--only", nargs="+", choices=("systems", "orderings"), default=["systems", "orderings"])
    chosen = made.parse_args()
    curves: dict[str, Any] = {}
    parts = {"systems": systems_table, "orderings": orderings_table}
    tables = [parts[name](chosen, curves) for name in chosen.only]
    print(f"_{machine()}_\n")
    for table in tables:
        print(table.markdown())
    if chosen.output is not None:
        content = {
            "machine": machine(), "curves": curves,
            "tables": {table.title: {"rows": table.records(), "notes": table.notes} for table in tables},
        }  # fmt: skip
        chosen.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if chosen.picture is not None:
        draw(curves, chosen.picture)


if __name__ == "__main__":
    main()
