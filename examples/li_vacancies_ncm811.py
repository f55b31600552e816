"""Lithium vacancies in NCM811, from the name of the material to a ranked table, a picture, and structures for DFT."""

from pathlib import Path

from cgcnn_ase.cathodes import cathodes
from cgcnn_ase.defects import Ranking, Screening, screen_hosts, write_dft_folder
from cgcnn_ase.defects import ranking_plot as ranking_plots
from cgcnn_ase.plotting import model_plots as plots

output = Path("li_vacancies_ncm811")
output.mkdir(exist_ok=True)

# five random orders of nickel, cobalt and manganese in a cell of 80 atoms, 20 of them lithium
hosts = [(f"NCM811-{k}", atoms) for k, atoms in enumerate(cathodes("NCM811", num=5, seed=42))]
first = hosts[0][1]
print(f"{first.info['composition']}, {len(first)} atoms, oxidation states: {first.info['oxidation_states']}")

# what each vacancy costs, read off the host's own sites by the model that knows lithium: it learned CHGNet's energies
question = Screening(fidelity="chgnet", options={"elements": ["Li"], "supercell": 1})
results = list(screen_hosts(hosts, question))
ranking = Ranking((defect for result in results for defect in result.defects), n_lowest=3, n_uncertain=3)

table = ranking.to_frame()[["id", "energy", "std", "lower", "upper", "in_domain", "multiplicity"]]
print(table.head(10).round(3).to_string(index=False))
print(f"... {len(ranking)} vacancies in all, {table.energy.min():.2f} to {table.energy.max():.2f} eV")

plots.save(ranking_plots.ranking(ranking.costs), output / "ranking.png")
for rank, defect in enumerate(ranking.lowest, start=1):
    write_dft_folder(output / "dft" / f"{rank}_{defect.cost.id}", defect)
print(f"picture and folders for DFT in {output}")
