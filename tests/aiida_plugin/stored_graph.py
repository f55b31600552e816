"""A provenance graph as workflows leave it, made of stored nodes and links: no process runs.

host -> defects -> pool; labels of ten DFT runs -> train -> model; model + pool -> predict -> predictions; select -> DFT
-> labelled set -> train -> next model; and so on for as many rounds as asked.
"""

import shutil
from dataclasses import dataclass, field

import numpy as np
from aiida import orm
from aiida.common.links import LinkType
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from aiida_plugin.data.model import CGCNNModelData
from aiida_plugin.data.predictions import PredictionsData
from aiida_plugin.data.structures import StructureSetData

QE = "aiida.calculations:quantumespresso.pw"
SCHEME = {"engine": "quantumespresso", "functional": "PBE", "hubbard_u": {"Ni": 6.2}, "relaxed": False}


def process(kind, process_type, inputs, outputs, computer=None, exit_status=0, label=None):
    """A finished process of these inputs (stored) and outputs (not yet)."""
    node = kind(process_type=process_type, computer=computer) if computer else kind(process_type=process_type)
    if isinstance(node, orm.CalcJobNode):
        node.set_option("resources", {"num_machines": 1})
    for name, data in inputs.items():
        node.base.links.add_incoming(data, link_type=LinkType.INPUT_CALC, link_label=name)
    node.set_process_label(label or process_type.rpartition(":")[2])
    node.set_process_state("finished")
    node.set_exit_status(exit_status)
    node.store()
    for name, data in outputs.items():
        data.base.links.add_incoming(node, link_type=LinkType.CREATE, link_label=name)
        data.store()
    node.seal()
    return node


def pool_of(n, seed=0):
    """n nickel oxides, all different, as they are taken."""
    rng = np.random.default_rng(seed)
    perfect = bulk("NiO", "rocksalt", a=4.17)
    for _ in range(n):
        atoms = perfect.copy()
        atoms.positions += rng.uniform(-0.3, 0.3, (2, 3))
        yield atoms


def predictions_of_model(structures, model, ids, values, failures=()):
    n = len(ids)
    columns = {
        "id": list(ids), "formula": ["NiO"] * n, "n_atoms": [2] * n, "value": list(map(float, values)),
        "std": [0.05] * n, "lower": [float(v) - 0.1 for v in values], "upper": [float(v) + 0.1 for v in values],
        "epistemic": [0.01] * n, "aleatoric": [0.02] * n, "in_domain": [k % 4 != 3 for k in range(n)],
        "reason": ["" if k % 4 != 3 else "far from the training set" for k in range(n)],
    }  # fmt: skip
    return PredictionsData(columns, unit="eV/atom", property="formation_energy_per_atom", model=model.names[0],
                           model_sha256=model.sha256, failures=failures)  # fmt: skip


def labelled(atoms, value, scheme=SCHEME):
    """The structure with an energy and a formation energy per atom."""
    cell = atoms.copy()
    cell.calc = SinglePointCalculator(cell, energy=-100.0 + value)
    cell.info |= {"label_scheme": scheme, "formation_energy_per_atom": value}
    return cell


@dataclass
class StoredGraph:
    """What was stored, in order of the rounds."""

    computer: orm.Computer
    host: orm.Data
    defects: orm.ProcessNode
    pool: StructureSetData
    models: list = field(default_factory=list)
    trainings: list = field(default_factory=list)
    predictions: list = field(default_factory=list)
    predict_jobs: list = field(default_factory=list)
    selected: list = field(default_factory=list)
    labelled: list = field(default_factory=list)
    runs: list = field(default_factory=list)  # a list for each labelled set


def store_graph(folder, tmp_path, *, n_pool=20, n_rounds=2, n_runs=3):
    """Store it; models are copies of a folder that differ in their cards."""
    computer = orm.Computer.collection.get_or_create(
        "stored", hostname="localhost", transport_type="core.local", scheduler_type="core.direct", workdir=str(tmp_path)
    )[1].store()
    host = orm.StructureData(ase=bulk("NiO", "rocksalt", a=4.17)).store()
    ids = [f"v{k}" for k in range(n_pool)]
    pool = StructureSetData.from_ase(pool_of(n_pool), ids)
    defects = process(orm.CalcFunctionNode, "aiida.calculations:cgcnn.defects", {"host": host}, {"structures": pool})
    graph = StoredGraph(computer, host, defects, pool)
    start = model_node(folder, tmp_path, 0).store()
    graph.models.append(start)
    for number in range(n_rounds):
        model = graph.models[-1]
        values = -1.0 - 0.01 * np.arange(n_pool) - 0.1 * number
        result = predictions_of_model(pool, model, ids, values)
        graph.predict_jobs.append(predict(graph, model, pool, result))
        graph.predictions.append(result)
        rows = [(number * n_runs + k) % n_pool for k in range(n_runs)]
        graph.selected.append(pool.select(rows))
        process(orm.CalcFunctionNode, "aiida.calculations:cgcnn.select",
                {"predictions": result, "structures": pool}, {"selected": graph.selected[-1]})  # fmt: skip
        graph.labelled.append(label(graph, graph.selected[-1], [values[row] + 0.02 for row in rows], rows))
        train(graph, folder, tmp_path, number + 1)
    return graph


def predict(graph, model, pool, result):
    inputs = {"model": model, "structures": pool}
    return process(orm.CalcJobNode, "aiida.calculations:cgcnn.predict", inputs, {"predictions": result}, graph.computer)


def label(graph, selected, values, names, scheme=SCHEME):
    """A DFT run each, and what they gave, gathered."""
    results = {}
    runs = []
    for k, atoms in enumerate(selected.iter_atoms()):
        structure = orm.StructureData(ase=atoms)
        structure.label = selected.ids[k]
        process(orm.CalcFunctionNode, "aiida_plugin.calculations.functions.labels.extract",
                {"structure_set": selected},
                {f"row_{k}": structure})  # fmt: skip
        results[f"run_{k}"] = orm.Dict({"energy": float(values[k])})
        output = {"output_parameters": results[f"run_{k}"]}
        inputs = {"structure": structure}
        runs.append(process(orm.CalcJobNode, QE, inputs, output, graph.computer, label="PwCalculation"))
    result = StructureSetData.from_ase(
        [labelled(atoms, float(value), scheme) for atoms, value in zip(selected.iter_atoms(), values, strict=True)],
        selected.ids,
    )
    process(orm.CalcFunctionNode, "aiida_plugin.workflows.label.gather", {"structures": selected, **results},
            {"labelled": result})  # fmt: skip
    graph.runs.append(runs)
    return result


def ase_run(graph, atoms, calculator, *, functional=None, stated=None):
    """A finished job of an ASE calculator, and its labelled set; `stated` is what its settings said."""
    settings = orm.Dict({"calculator": calculator, "parameters": {}, "functional": stated}).store()
    inputs = {"structure": orm.StructureData(ase=atoms).store(), "settings": settings}
    scheme = {"engine": calculator, "functional": functional, "relaxed": False}
    made = StructureSetData.from_ase([labelled(atoms, -0.5, scheme)], [calculator])
    process(orm.CalcJobNode, "aiida.calculations:cgcnn.ase_dft", inputs, {"labelled": made}, graph.computer)
    return made


def train(graph, folder, tmp_path, number):
    model = model_node(folder, tmp_path, number)
    inputs = {"structures": graph.labelled[-1], "model": graph.models[-1]}
    graph.trainings.append(
        process(orm.CalcJobNode, "aiida.calculations:cgcnn.train", inputs, {"model": model}, graph.computer)
    )
    graph.models.append(model)


def model_node(folder, tmp_path, number):
    path = tmp_path / f"model-{number}"
    shutil.copytree(folder, path)
    (path / "README.md").write_text(f"model {number}")
    node = CGCNNModelData(path)
    node.label = f"model {number}"
    return node
