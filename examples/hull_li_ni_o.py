"""Which oxides of lithium and nickel are stable? A phase diagram with error bars."""

from pathlib import Path

from ase.build import bulk

from cgcnn_ase.cathodes import build_cathode
from cgcnn_ase.stability.phase_diagram import draw_phase_diagram
from cgcnn_ase.stability.phases import known_phases
from cgcnn_ase.stability.predictor import StabilityPredictor

output = Path("hull_li_ni_o")
output.mkdir(exist_ok=True)

layered = build_cathode("LiNiO2", supercell=(2, 1, 1))
lithium = [atom.index for atom in layered if atom.symbol == "Li"]
candidates = {"LiNiO2": layered, "NiO": bulk("NiO", "rocksalt", a=4.17, cubic=True)}
for part in (0.5, 1.0):
    delithiated = layered.copy()
    del delithiated[lithium[: round(part * len(lithium))]]
    candidates[f"Li{1 - part:g}NiO2"] = delithiated
spinel = build_cathode("LiMn2O4", supercell=(1, 1, 1))
spinel.symbols[spinel.symbols == "Mn"] = "Ni"
candidates["LiNi2O4 spinel"] = spinel
mixed = bulk("NiO", "rocksalt", a=4.10, cubic=True)
mixed.symbols[0] = "Li"
candidates["LiNi3O4 rock salt"] = mixed

for atoms in candidates.values():
    atoms.info.clear()
predictor = StabilityPredictor(within=0.05)
rows = predictor(candidates).all
for row in sorted(rows, key=lambda each: each.e_above_hull):
    print(
        f"{row.id:18s} {row.e_above_hull:+.3f} ± {row.e_above_hull_std:.3f} eV/atom above the hull, "
        f"p(stable) {row.p_stable:.2f}: {row.decomposition_in_words}"
    )
print("picture:", draw_phase_diagram(rows, known_phases(), output / "hull.png"))
