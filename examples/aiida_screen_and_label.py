"""Lithium vacancies in NCM811 through AiiDA: screened by a model, two of them labelled by real DFT, the model tuned.

    make engines                                        once: GPAW and Quantum ESPRESSO
    aiida-cgcnn setup                                   once: a profile, codes, and the pretrained models
    verdi run aiida_screen_and_label.py                 GPAW, or: ... quantumespresso

Everything is a node: at the end, by links alone, the tuned model leads back to both DFT runs, as the picture shows.
The fast protocol shows how things go together; its energies are not converged.
"""

import sys

from aiida.engine import run_get_node
from aiida.orm import Dict, load_code
from aiida.plugins import CalculationFactory, DataFactory, WorkflowFactory

from aiida_plugin.provenance.origin import origin
from aiida_plugin.provenance.picture import graph_picture
from aiida_plugin.setup.codes import missing_for

CODES = {"gpaw": "python@localhost", "quantumespresso": "pw@localhost"}
engine = sys.argv[1] if len(sys.argv) > 1 else "gpaw"
if lacking := missing_for(engine):  # before anything is computed
    raise SystemExit("\n".join(["this needs what is not there:", *lacking]))
cgcnn, dft = load_code("cgcnn-ase@localhost"), load_code(CODES[engine])

# NCM811 in its smallest exact cell, 40 atoms, and each of its ten lithium atoms taken away
host = CalculationFactory("cgcnn.cathode")(Dict({"name": "NCM811", "n_atoms": 40}))["structures"]
made = CalculationFactory("cgcnn.defects")(host, Dict({"kind": "vacancy", "element": "Li", "supercell": 1}))
vacancies = made["structures"]
print(f"{len(vacancies)} lithium vacancies in {host.atoms(0).get_chemical_formula()}, 39 atoms each")

# the model ranks them; the best and the least certain go to DFT, with the elements computed in the same way
model = DataFactory("cgcnn.model").get_or_create("formation-energy-per-atom")
screening = WorkflowFactory("cgcnn.screen").get_builder_from_protocol(
    cgcnn,
    model,
    vacancies,
    label_code=dft,
    engine=engine,
    protocol="fast",
    overrides={"spin": False},
    selection={"take": {"best": 1, "uncertain": 1}},
    references=True,
)
screened, chain = run_get_node(screening)
if not chain.is_finished_ok:
    raise SystemExit(f"the screening failed: {chain.exit_message}")
for row in screened["agreement"]["rows"]:
    print(f"{row['id']}: predicted {row['predicted']:.4f} ± {row['std']:.4f}, DFT {row['label']:.4f} eV/atom")

# what DFT said goes back into the model
tuning = WorkflowFactory("cgcnn.finetune").get_builder_from_protocol(
    cgcnn, model, screened["labelled"], overrides={"recipe": {"epochs": 10}}
)
tuned, chain = run_get_node(tuning)
if not chain.is_finished_ok:
    raise SystemExit(f"the fine-tuning failed: {chain.exit_message}")
print(f"tuned model: node {tuned['model'].pk}, learned from {tuned['report']['n_train']} label(s)")

# which model, which training data, which DFT runs stand behind a prediction of the tuned model
job = CalculationFactory("cgcnn.predict")
predicted, _ = run_get_node(job, code=cgcnn, model=tuned["model"], structures=vacancies)
behind = origin(predicted["predictions"])
for training in behind.trainings:
    print(f"{training.model.title} (node {training.model.pk}) was trained by {training.job.title} {training.job.pk}")
    print(f"  from {training.started_from[0].title}, on labels of {training.n_dft_runs} DFT runs")
print(f"the structures came out of {', '.join(step.title for step in behind.structure_steps)}")
print(f"picture of the provenance: {graph_picture(tuned['model'], 'provenance.png')}")
