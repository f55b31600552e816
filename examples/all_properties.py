"""Every pretrained property of a few crystals, with what is sure of each. Models that share their networks run once."""

from pathlib import Path

from cgcnn_ase import predict

structures = Path(__file__).resolve().parent / "structures"
results = predict("all", [structures / name for name in ("LiNiO2.cif", "MgO.cif", "Si.extxyz")])

table = results.to_frame()
table["value ± std"] = [f"{p.value:.3g} ± {p.std:.2g} {p.unit}" for p in results.all]
print(table.pivot(index="model", columns="id", values="value ± std").to_string())
