"""From AiiDA's own structures to sets, and from sets to others: by links, with nothing lost."""

import json

import numpy as np
import pytest

pytest.importorskip("aiida")

from aiida import orm
from aiida.common.links import LinkType
from aiida.plugins.entry_point import load_entry_point
from ase.build import bulk
from click.testing import CliRunner

from aiida_plugin.calculations.functions.structure_sets import (
    add_to_group,
    merge_sets,
    set_of_group,
    set_of_nodes,
    structures_node,
    subset,
    to_structure_set,
)
from aiida_plugin.cli.data import structures
from aiida_plugin.data.structures import StructureSetData

from .stored_graph import SCHEME, labelled


@pytest.fixture(scope="module", autouse=True)
def profile(aiida_profile):
    aiida_profile.reset_storage()
    return aiida_profile


def inputs_of(node):
    return {
        link.link_label: link.node.pk for link in node.creator.base.links.get_incoming(link_type=LinkType.INPUT_CALC)
    }


def trajectory():
    node = orm.TrajectoryData()
    frames = [bulk("Cu", cubic=True, a=3.6 + 0.1 * k) for k in range(3)]
    node.set_trajectory(
        symbols=frames[0].get_chemical_symbols(),
        positions=np.array([frame.positions for frame in frames]),
        cells=np.array([frame.cell.array for frame in frames]),
        stepids=np.array([0, 10, 20]),
    )
    return node, frames


def test_structures_cif_files_and_trajectories_become_a_set(tmp_path):
    slab = bulk("Al", cubic=True)
    slab.pbc = (True, True, False)
    structure, (path, frames) = orm.StructureData(ase=slab).store(), trajectory()
    path.store()
    bulk("NaCl", "rocksalt", a=5.64, cubic=True).write(tmp_path / "halite.cif")
    cif = orm.CifData(file=str(tmp_path / "halite.cif")).store()
    other = StructureSetData.from_ase([bulk("Ag")], ["silver"]).store()
    made = to_structure_set(a=structure, b=path, c=cif, d=other)
    assert made.is_stored
    assert made.ids == ("a", "b:0", "b:10", "b:20", "c", "silver")
    assert inputs_of(made) == {"a": structure.pk, "b": path.pk, "c": cif.pk, "d": other.pk}
    assert made.creator.process_type == "aiida.calculations:cgcnn.to_structure_set"
    assert made.atoms("a").pbc.tolist() == [True, True, False]
    for atoms, frame in zip((made.atoms(k) for k in (1, 2, 3)), frames, strict=True):
        assert np.allclose(atoms.positions, frame.positions)
        assert np.allclose(atoms.cell.array, frame.cell.array)
    assert sorted(made.atoms("c").symbols) == ["Cl"] * 4 + ["Na"] * 4
    assert np.allclose(made.atoms("c").cell.lengths(), 5.64)
    named = to_structure_set(orm.List(["aluminium"]), a=structure)
    assert named.ids == ("aluminium",)


def test_what_is_no_structure_is_refused():
    alloy = orm.StructureData(cell=np.eye(3) * 3.0)
    alloy.append_atom(position=(0, 0, 0), symbols=["Cu", "Au"], weights=[0.5, 0.5])
    with pytest.raises(ValueError, match="x: the structure has partially occupied sites"):
        to_structure_set(x=alloy)
    with pytest.raises(ValueError, match="give at least one structure"):
        to_structure_set()
    copper = orm.StructureData(ase=bulk("Cu")).store()
    with pytest.raises(ValueError, match="there are 2 ids for 1 sources"):
        to_structure_set(orm.List(["a", "b"]), x=copper)
    with pytest.raises(ValueError, match=r"is a Int; allowed are StructureData, CifData"):
        set_of_nodes([orm.Int(3).store()])


def test_a_group_becomes_a_set():
    """The ids are the labels; a node without one, or with that of another, has its pk in its id."""
    nodes = [orm.StructureData(ase=bulk(symbol)) for symbol in ("Cu", "Al", "Ag")]
    nodes[0].label = nodes[2].label = "metal"
    group = add_to_group("study", *(node.store() for node in nodes), orm.Int(1).store())
    made = set_of_group("study")
    assert made.ids == ("metal", f"node-{nodes[1].pk}", f"node-{nodes[2].pk}")
    assert [made.atoms(k).get_chemical_formula() for k in range(3)] == ["Cu", "Al", "Ag"]
    links = inputs_of(made)
    origin = orm.load_node(links.pop("origin")).get_dict()
    assert origin == {"group": "study", "group_uuid": group.uuid}
    assert {pk for name, pk in links.items() if name != "ids"} == {node.pk for node in nodes}
    assert set_of_group(group).ids == made.ids
    with pytest.raises(ValueError, match="there is no group 'nowhere'"):
        set_of_group("nowhere")


def metals(label, *symbols):
    """A group of bulk metals, and its nodes."""
    nodes = [orm.StructureData(ase=bulk(symbol)).store() for symbol in symbols]
    for node, symbol in zip(nodes, symbols, strict=True):
        node.label = symbol
    return add_to_group(label, *nodes), nodes


@pytest.mark.parametrize(
    "process",
    ["calculations:cgcnn.predict", "calculations:cgcnn.relax", "workflows:cgcnn.screen", "workflows:cgcnn.label",
     "workflows:cgcnn.predict_shards"],
)  # fmt: skip
def test_a_process_takes_a_group_as_it_is_now(process):
    """What is in the group later changes nothing."""
    kind, name = process.split(":")
    builder = load_entry_point(f"aiida.{kind}", name).get_builder()
    group, nodes = metals(f"of {name}", "Cu", "Al")
    builder.structures = group
    taken = builder.structures
    group.add_nodes(orm.StructureData(ase=bulk("Ag")).store())
    group.remove_nodes(nodes[:1])
    assert (taken.is_stored, taken.ids, taken.label) == (True, ("Cu", "Al"), group.label)
    assert {node.pk for node in nodes} < set(inputs_of(taken).values())
    builder.structures = group.label
    assert len(builder.structures) == 2
    assert builder.structures.pk != taken.pk


def test_a_query_and_nodes_become_a_set():
    group, nodes = metals("queried", "Cu", "Al", "Ag")
    wanted = {"label": {"in": ["Ag", "Cu"]}, "attributes.kinds": {"of_length": 1}}
    query = orm.QueryBuilder().append(orm.Group, filters={"label": "queried"}, tag="group")
    query.append(orm.StructureData, with_group="group", filters=wanted)
    made = structures_node(query)
    assert made.ids == ("Cu", "Ag")
    origin = orm.load_node(inputs_of(made)["origin"]).get_dict()
    again = orm.QueryBuilder.from_dict(json.loads(origin["query"]))
    assert {node.pk for node in again.all(flat=True)} == {nodes[0].pk, nodes[2].pk}
    assert structures_node(nodes[:2]).ids == ("Cu", "Al")
    for wrong, message in (
        (orm.QueryBuilder().append(orm.Group), "the query gives a Group; one that projects nodes"),
        (orm.QueryBuilder().append(orm.StructureData, filters={"label": "none"}), "the query gives nothing"),
        ([nodes[0], "Cu"], "'Cu' is no node but a str; allowed are StructureData"),
        ("nowhere", "there is no group 'nowhere'"),
    ):
        with pytest.raises(ValueError, match=message):
            structures_node(wrong)
    with pytest.raises(TypeError, match="a group, its label, a query or nodes, not a int"):
        structures_node(3)


def test_subsets_and_unions_keep_labels_and_links():
    cells = [labelled(bulk("NiO", "rocksalt", a=4.1 + 0.1 * k), -1.0 - k) for k in range(3)]
    one = StructureSetData.from_ase(cells[:2], ["a", "b"]).store()
    two = StructureSetData.from_ase(cells[2:], ["c"]).store()
    plain = StructureSetData.from_ase([bulk("Cu")], ["d"]).store()
    part = subset(one, orm.List(["b"]))
    assert (part.ids, part.atoms(0).get_potential_energy()) == (("b",), cells[1].get_potential_energy())
    assert inputs_of(part)["structures"] == one.pk
    merged = merge_sets(set_0=two, set_1=one, set_2=plain)
    assert merged.ids == ("c", "a", "b", "d")
    assert [merged.atoms(k).get_potential_energy() for k in range(3)] == [-103.0, -101.0, -102.0]
    assert set(inputs_of(merged).values()) == {one.pk, two.pk, plain.pk}
    with pytest.raises(ValueError, match="the id 'b' is in set_0 and in set_1"):
        merge_sets(set_0=one, set_1=part)
    scan = StructureSetData.from_ase([labelled(bulk("NiO", "rocksalt", a=4.0), 0.0, {**SCHEME, "functional": "SCAN"})])
    with pytest.raises(ValueError, match="labels of different kinds are mixed: functional"):
        merge_sets(set_0=one, set_1=scan.store())
    with pytest.raises(ValueError, match="no structure has the id 'z'"):
        subset(one, orm.List(["z"]))


def run(*args):
    done = CliRunner().invoke(structures, [str(arg) for arg in args])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def test_the_commands_and_the_group_of_a_study():
    node = orm.StructureData(ase=bulk("Cu"))
    node.label = "copper"
    other = orm.StructureData(ase=bulk("Al")).store()
    made = run("from-nodes", node.store().pk, other.pk, "--label", "metals", "--group", "paper")
    assert made.exit_code == 0, made.output
    pk = int(made.output.split("node ")[-1])
    part = run("subset", pk, "copper", "--label", "copper alone", "--group", "paper")
    rest = run("subset", pk, f"node-{other.pk}")
    pks = [int(done.output.split("node ")[-1]) for done in (part, rest)]
    merged = run("merge", *pks)
    assert orm.load_node(int(merged.output.split("node ")[-1])).ids == ("copper", f"node-{other.pk}")
    assert {each.pk for each in orm.load_group("paper").nodes} == {pk, pks[0]}
    listed = run("list", "--of-group", "paper").output
    assert "metals" in listed
    assert "copper alone" in listed
    assert str(pks[1]) not in [line.split()[0] for line in listed.splitlines()]
    assert "give either NODE... or --from-group" in run("from-nodes").stderr


def test_a_list_fits_a_screen_of_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    atoms = labelled(bulk("NiO", "rocksalt", a=4.1), 0.0)
    atoms = atoms.repeat((3, 3, 1))
    atoms.symbols = (["Li", "Ni", "Co", "Mn", "Al", "Ti", "Mg", "Fe", "Zr"] * 2)[: len(atoms)]
    node = StructureSetData.from_ase([labelled(atoms, -1.0)], ["x"])
    node.label = "NCM811 with Li vacancies, labelled by Quantum ESPRESSO, second round of the active learning"
    node.store()
    lines = run("list").output.splitlines()
    assert max(map(len, lines)) <= 80
    (row,) = [line for line in lines if line.split()[0] == str(node.pk)]
    assert "NCM811 with" in row
    assert "…" in row
    assert "DFT" in row
