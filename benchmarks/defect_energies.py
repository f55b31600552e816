"""What a total-energy model says of defects and voltages, beside published energies and a machine-learned potential.

Three tables: the size of the supercell against the error of one vacancy; oxide vacancies of Witman et al. (test split),
unrelaxed, with the pretrained model and with CHGNet; the average voltage of LiCoO2. CHGNet is a stand-in, not DFT.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from _report import Table, finish, parser
from _structures import DEFAULT_DATA, SOURCES, echo_stderr
from ase import Atoms
from ase.build import make_supercell
from scipy.stats import spearmanr

from cgcnn_ase.cathodes import build_cathode
from cgcnn_ase.cathodes.voltage import average_voltage
from cgcnn_ase.defects.supercell_energy import DefectEnergy, defect_formation_energies, defect_formation_energy
from cgcnn_ase.energies.energy_model import as_energy_model
from cgcnn_ase.energies.interface import EnergyModel
from cgcnn_ase.structures.supercells import compact_matrix

#: vacancies are made in supercells of at least so many atoms
SUPERCELL = 64


class Site(NamedTuple):
    """One vacancy of the data set: its host, site, element and published formation enthalpy (eV)."""

    host: str
    index: int
    element: str
    published: float


def options() -> argparse.Namespace:
    made = parser(__doc__ or "", data=False)
    made.add_argument("--data", type=Path, default=DEFAULT_DATA.parent / "oxide_vacancies_witman")
    made.add_argument("--sites", type=int, help="vacancies of the test split; all by default")
    made.add_argument("--chgnet-sites", type=int, default=20, help="of these, drawn at random, for CHGNet")
    made.add_argument("--sizes", type=int, nargs="+", default=[32, 72, 144, 288, 432], help="atoms of the supercells")
    made.add_argument("--seed", type=int, default=0)
    return made.parse_args()


def main() -> None:
    chosen = options()
    graph, potential = as_energy_model("formation-energy-per-atom"), chgnet()
    tables = [sizes(graph, potential, chosen.sizes), voltages(graph, potential)]
    if chosen.data.is_dir():
        tables.insert(1, oxides(graph, potential, chosen))
    else:
        echo_stderr(f"{chosen.data}: not there, so no oxide vacancies ({SOURCES['oxide_vacancies_witman']})")
    finish(tables, chosen.output, vars(chosen))


def chgnet() -> EnergyModel:
    """CHGNet with the Materials Project's elements, on whose energies it was trained."""
    from chgnet.model.dynamics import CHGNetCalculator

    with redirect_stdout(sys.stderr):
        return as_energy_model(CHGNetCalculator(use_device="cpu"), references="mp-pbe")


def sizes(graph: EnergyModel, potential: EnergyModel, numbers: list[int]) -> Table:
    """One lithium vacancy in LiNiO2 in larger and larger cells."""
    table = Table(
        "A lithium vacancy in LiNiO2, unrelaxed, in cells of N atoms",
        [
            "N",
            "E_f (eV)",
            "std of the difference (eV)",
            "std of one cell (eV)",
            "if independent (eV)",
            "CHGNet E_f (eV)",
        ],
        notes=["against Li metal; std of one cell: N times the calibrated std per atom"],
    )
    for number in numbers:
        pristine = build_cathode("LiNiO2", n_atoms=number)
        result = defect_formation_energy(pristine[1:], pristine, graph)
        independent = result.std_if_independent or 0.0
        other = defect_formation_energy(pristine[1:], pristine, potential).energy if number < 150 else None
        table.rows.append([len(pristine), result.energy, result.std, independent / 2**0.5, independent, other])
        echo_stderr(f"LiNiO2, {len(pristine)} atoms")
    return table


def oxides(graph: EnergyModel, potential: EnergyModel, chosen: argparse.Namespace) -> Table:
    """Published vacancies of the test split."""
    hosts, sites, means = vacancies(chosen.data)
    rng = np.random.default_rng(chosen.seed)
    sites = [sites[k] for k in rng.permutation(len(sites))[: chosen.sites]]
    few = sites[: chosen.chgnet_sites]
    table = Table(
        "Neutral vacancies in oxides (Witman et al., test split), unrelaxed supercells",
        ["estimate", "vacancies", "MAE (eV)", "mean error (eV)", "Spearman", "mean std (eV)", "RMS of error / std"],
        notes=[
            f"supercells of at least {SUPERCELL} atoms; chemical potentials: the elements of the Materials Project",
            "published: relaxed, PBE+U, the paper's own chemical potentials, which shift each element by a constant",
        ],
    )
    result = list(supercell_differences(graph, hosts, sites))
    values, stds = np.array([f.energy for f in result]), np.array([f.std for f in result], dtype=float)
    baseline = np.array([means[site.element] for site in sites])
    echo_stderr(f"{graph.name}: {len(result)} vacancies, {sum(f.in_domain is True for f in result)} in its domain")
    oxygen = np.array([site.element == "O" for site in sites])
    groups = {"all": np.ones(len(sites), dtype=bool), "oxygen": oxygen, "CHGNet's": np.arange(len(sites)) < len(few)}
    for name, chosen_rows in groups.items():
        some = [sites[k] for k in np.flatnonzero(chosen_rows)]
        if some:
            table.rows.append(row(f"{name}: mean of the element in train", some, baseline[chosen_rows], None))
            title = f"{name}: difference of two cells, {graph.name}"
            table.rows.append(row(title, some, values[chosen_rows], stds[chosen_rows]))
    values = np.array([each.energy for each in supercell_differences(potential, hosts, few)])
    table.rows.append(row(f"CHGNet's: difference of two cells, {potential.name}", few, values, None))
    return table


def vacancies(folder: Path) -> tuple[dict[str, Atoms], list[Site], dict[str, float]]:
    """Host cells, the vacancies of the test split, and the mean of each element in the training split."""
    packed = np.load(folder / "structures.npz")
    hosts = {}
    for k, name in enumerate(packed["ids"]):
        atoms = slice(packed["offsets"][k], packed["offsets"][k + 1])
        hosts[str(name)] = Atoms(
            packed["numbers"][atoms], scaled_positions=packed["frac"][atoms], cell=packed["lattice"][k], pbc=True
        )
    rows = pd.read_csv(folder / "vacancies.csv.gz", keep_default_na=False, na_values=[""])
    rows["element"] = rows.defectname.str.removeprefix("V_")
    means = rows[rows.split == "train"].groupby("element").dH_eV.mean().to_dict()
    test = rows[(rows.split == "test") & rows.element.isin(list(means))]
    sites = [
        Site(name, int(index), element, float(energy))
        for name, index, element, energy in zip(
            test.compound_name, test.site_index, test.element, test.dH_eV, strict=True
        )
    ]
    for site in sites:
        assert hosts[site.host].symbols[site.index] == site.element, site
    return hosts, sites, means


def supercell_differences(model: EnergyModel, hosts: dict[str, Atoms], sites: list[Site]) -> Iterator[DefectEnergy]:
    """Each vacancy, in the order of the sites."""
    result: dict[Site, DefectEnergy] = {}
    for name in dict.fromkeys(site.host for site in sites):
        host = hosts[name]
        pristine = make_supercell(host, compact_matrix(host.cell, -(-SUPERCELL // len(host))))
        host_sites = [site for site in sites if site.host == name]
        cells = []
        for site in host_sites:  # the first copy of the host's atom
            index = next(i for i, position in enumerate(pristine.positions) if _same_site(host, position, site.index))
            cells.append(pristine[[i for i in range(len(pristine)) if i != index]])
        result.update(zip(host_sites, defect_formation_energies(cells, pristine, model), strict=True))
    return (result[site] for site in sites)


def _same_site(host: Atoms, position: Any, index: int) -> bool:
    """Whether a position is that of the host's atom but for a lattice vector."""
    delta = (position - host.positions[index]) @ np.linalg.inv(host.cell.array)
    return bool(np.abs((delta - np.rint(delta)) @ host.cell.array).max() < 1e-2)


def row(name: str, sites: list[Site], values: Any, stds: Any) -> list[Any]:
    """One line of the table."""
    published = np.array([site.published for site in sites])
    error = values - published
    rank = float(spearmanr(values, published).statistic) if len(set(values)) > 1 else None
    figures = [name, len(sites), float(np.abs(error).mean()), float(error.mean()), rank]
    if stds is None:
        return [*figures, None, None]
    return [*figures, float(stds.mean()), float(np.sqrt(np.mean((error / stds) ** 2)))]


def voltages(graph: EnergyModel, potential: EnergyModel) -> Table:
    """LiCoO2 against CoO2 in the same structure (O3)."""
    table = Table(
        "Average voltage of LiCoO2 / CoO2 (O3)",
        ["energies", "cells", "V", "std (V)"],
        notes=["measured: about 3.9 to 4.2 V over the usual half of the lithium; PBE, all of it: about 3.4 V"],
    )
    rich, poor = build_cathode("LiCoO2", supercell=1), build_cathode("LiCoO2", supercell=1, li_vacancy=1.0)
    for source in (graph, potential):
        result = average_voltage(rich, poor, source)
        table.rows.append([source.name, "those of LiCoO2, published", result.voltage, result.std])
    relaxed = [_with_cell(atoms, potential) for atoms in (rich, poor)]
    table.rows.append([potential.name, "both relaxed with it", average_voltage(*relaxed, potential).voltage, None])
    return table


def _with_cell(atoms: Atoms, potential: Any) -> Atoms:
    """Positions and cell relaxed."""
    from ase.filters import FrechetCellFilter
    from ase.optimize import FIRE

    moved = atoms.copy()
    moved.calc = potential.calculator
    if not FIRE(FrechetCellFilter(moved), logfile=None).run(fmax=0.05, steps=200):
        raise SystemExit(f"{moved.get_chemical_formula()} did not relax")
    return moved.copy()


if __name__ == "__main__":
    main()
