"""Ways from AiiDA's own structures to a set, and from sets to others: subsets and unions, each a node of its own."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeAlias

from aiida.engine import calcfunction
from aiida.orm import CifData, Dict, Group, List, Node, QueryBuilder, StructureData, TrajectoryData

from aiida_plugin.data.labels import merge_schemes, scheme_of
from aiida_plugin.data.structures import StructureSetData, as_set
from cgcnn_ase.structures import read_structures

if TYPE_CHECKING:
    from ase import Atoms

SOURCES = (StructureData, CifData, TrajectoryData, StructureSetData)
#: what stands for a set: a group or its label, a query, nodes
Structures: TypeAlias = str | Group | QueryBuilder | Iterable[Node]
_ALLOWED = ", ".join(kind.__name__ for kind in SOURCES)


@calcfunction
def to_structure_set(
    ids: List | None = None,
    origin: Dict | None = None,  # noqa: ARG001
    **sources: StructureData | CifData | TrajectoryData | StructureSetData,
) -> StructureSetData:
    """Make a set of AiiDA's structures, in the order of the names under which they are given.

    Parameters
    ----------
    ids
        The name of each source's structure, in order; by default the names under which the sources are given. The steps
        of a trajectory and the blocks of a CIF file with several are ``NAME:STEP`` and ``NAME:BLOCK``; structures of
        sets keep their own.
    origin
        What the sources were at this time, for those who ask the graph: ``group`` and ``group_uuid``, or ``query``.
    **sources
        Structures, CIF files, trajectories, and sets.

    Raises
    ------
    ValueError
        If there are no sources, a structure is partially occupied or cannot be read, or two would have one id; the
        message names the source.
    """
    names = sorted(sources)
    if not names:
        raise ValueError("give at least one structure, CIF file, trajectory or set")
    labels = names if ids is None else list(ids)
    if len(labels) != len(names):
        raise ValueError(f"there are {len(labels)} ids for {len(names)} sources")
    parts = [part for name, label in zip(names, labels, strict=True) for part in _structures(sources[name], str(label))]
    return StructureSetData.from_ase([atoms for _, atoms in parts], [name for name, _ in parts])


@calcfunction
def subset(structures: StructureSetData, indices: List) -> StructureSetData:
    """Take some structures of a set (rows or ids), in this order, under the same ids, with all that they carry.

    Raises
    ------
    ValueError
        If none is named, one is named twice, or there is no such structure.
    """
    return structures.select(structures.rows_of(indices))


@calcfunction
def with_relaxed(
    structures: StructureSetData, not_relaxed: Dict, relaxed: StructureSetData | None = None
) -> StructureSetData:
    """Put structures of a set where they were relaxed; ids, info and moments are those of the set.

    Parameters
    ----------
    structures
        As they were built.
    not_relaxed
        Why structures stay as they were built, or did not reach their minimum, by id; it becomes their info
        ``not_relaxed``.
    relaxed
        Structures of the same ids, such as the output of ``cgcnn.relax``. Its energies are left behind.

    Raises
    ------
    ValueError
        If a structure is neither relaxed nor is it said why.
    """
    there, reasons, result = set(() if relaxed is None else relaxed.ids), not_relaxed.get_dict(), []
    for name, atoms in zip(structures.ids, structures.iter_atoms(), strict=True):
        if name not in there and name not in reasons:
            raise ValueError(f"structure {name!r} is not relaxed, and nothing says why")
        if relaxed is not None and name in there:
            ended, constraints = relaxed.atoms(name), atoms.constraints
            atoms.set_constraint()
            atoms.set_cell(ended.cell.array, scale_atoms=False)
            atoms.set_positions(ended.positions)
            atoms.set_constraint(constraints)
            atoms.calc = None
        if name in reasons:
            atoms.info["not_relaxed"] = str(reasons[name])
        result.append(atoms)
    return StructureSetData.from_ase(result, list(structures.ids))


@calcfunction
def merge_sets(**sets: StructureSetData) -> StructureSetData:
    """Join sets into one, in the order of the names under which they are given; structures keep their ids.

    Raises
    ------
    ValueError
        If there are no sets, two structures have one id, or labels are of different kinds: the message says in what.
    """
    if not sets:
        raise ValueError("give at least one set")
    owners: dict[str, str] = {}
    for name in sorted(sets):
        for each in sets[name].ids:
            if owners.setdefault(each, name) != name:
                raise ValueError(
                    f"the id {each!r} is in {owners[each]} and in {name}; make one of them a subset without"
                )
    parts = [sets[name] for name in sorted(sets)]
    merge_schemes(scheme_of(atoms) for part in parts for atoms in part.iter_atoms() if atoms.calc is not None)
    return StructureSetData.from_ase((atoms for part in parts for atoms in part.iter_atoms()), list(owners))


def set_of_nodes(
    nodes: Iterable[object],
    *,
    ids: Sequence[str] | None = None,
    label: str = "",
    origin: Mapping[str, object] | None = None,
) -> StructureSetData:
    """Make a set of stored nodes by ``cgcnn.to_structure_set``, so that links lead back to each of them.

    Parameters
    ----------
    nodes
        Structures, CIF files, trajectories and sets, taken in this order.
    ids
        Their names; by default their labels, and ``node-PK`` of one that has no label, or the label of another.
    label
        Label of the new node.
    origin
        Where the nodes are from; see `to_structure_set`.

    Raises
    ------
    ValueError
        If there are none, or a node is of another kind.
    """
    sources: list[StructureData | CifData | TrajectoryData | StructureSetData] = []
    for node in nodes:
        if not isinstance(node, SOURCES):
            what = f"node {node.pk} is" if isinstance(node, Node) else f"{node!r} is no node but"
            raise ValueError(f"{what} a {type(node).__name__}; allowed are {_ALLOWED}")
        sources.append(node)
    width = len(str(len(sources)))
    result: StructureSetData = to_structure_set(
        ids=List(_names(sources) if ids is None else list(ids)),
        origin=None if origin is None else Dict(dict(origin)),
        **{f"source_{k:0{width}d}": node for k, node in enumerate(sources)},
    )
    if label:
        result.label = label
    return result


def set_of_group(group: str | Group) -> StructureSetData:
    """Make a set of all structures, CIF files, trajectories and sets of a group, the oldest node first.

    The set holds what the group holds now: links lead to each node, and the input ``origin`` names the group, so that
    provenance stays as it is when nodes are added to the group or taken out.

    Raises
    ------
    ValueError
        If there is no such group, or it holds none of these.
    """
    study = group if isinstance(group, Group) else Group.collection.find({"label": group})
    if not isinstance(study, Group):
        if not study:
            raise ValueError(f"there is no group {group!r}; `verdi group list` shows all")
        study = study[0]
    nodes = sorted((node for node in study.nodes if isinstance(node, SOURCES)), key=lambda node: node.pk or 0)
    if not nodes:
        raise ValueError(f"the group {study.label!r} holds no structures, CIF files, trajectories or sets")
    return set_of_nodes(nodes, label=study.label, origin={"group": study.label, "group_uuid": study.uuid})


def set_of_query(query: QueryBuilder) -> StructureSetData:
    """Make a set of the nodes that a query gives, each once, the oldest first; the query itself is the ``origin``.

    Raises
    ------
    ValueError
        If it gives nothing, or anything but structures, CIF files, trajectories and sets.
    """
    answers = query.all(flat=True)
    if not answers:
        raise ValueError("the query gives nothing; there are no structures to take")
    if strange := [each for each in answers if not isinstance(each, SOURCES)]:
        what = type(strange[0]).__name__
        raise ValueError(f"the query gives a {what}; one that projects nodes is needed, allowed are {_ALLOWED}")
    nodes = {node.pk or 0: node for node in answers}
    # in JSON, as a filter may hold names with a dot, which AiiDA keeps in no dictionary
    return set_of_nodes(
        [nodes[pk] for pk in sorted(nodes)], origin={"query": json.dumps(query.as_dict(), default=str, sort_keys=True)}
    )


def structures_node(source: Structures) -> StructureSetData:
    """Make the set that a group (or its label), a query, or some nodes stand for, where a process takes a set."""
    if isinstance(source, str | Group):
        return set_of_group(source)
    if isinstance(source, QueryBuilder):
        return set_of_query(source)
    if isinstance(source, Iterable):
        return set_of_nodes(source)
    raise TypeError(f"structures are a set, a group, its label, a query or nodes, not a {type(source).__name__}")


def add_to_group(label: str, *nodes: Node) -> Group:
    """Put stored nodes into the group of a study, which is made if there is none of this label."""
    group, _ = Group.collection.get_or_create(label)
    group.add_nodes(list(nodes))
    return group


def _names(nodes: Sequence[Node]) -> list[str]:
    taken: set[str] = set()
    names = []
    for node in nodes:
        name = node.label if node.label and node.label not in taken else f"node-{node.pk}"
        taken.add(name)
        names.append(name)
    return names


def _structures(
    node: StructureData | CifData | TrajectoryData | StructureSetData, name: str
) -> "Iterator[tuple[str, Atoms]]":
    """Yield id and structure of all that a node holds."""
    if isinstance(node, StructureSetData):
        yield from zip(node.ids, node.iter_atoms(), strict=True)
    elif isinstance(node, TrajectoryData):
        pbc = node.base.attributes.get("pbc", None)
        for k, step in enumerate(node.get_stepids().tolist()):
            atoms = node.get_step_structure(k).get_ase()
            atoms.pbc = True if pbc is None else pbc
            yield f"{name}:{step}", atoms
    elif isinstance(node, CifData):
        yield from _of_cif(node, name)
    else:
        try:
            yield name, as_set(node).atoms(0)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error


def _of_cif(node: CifData, name: str) -> "Iterator[tuple[str, Atoms]]":
    with TemporaryDirectory() as folder:
        file = Path(folder) / "structure.cif"
        file.write_text(node.get_content("r"), encoding="utf-8")
        records = list(read_structures([file]))
    for record in records:
        if record.error is not None:
            raise ValueError(f"{name}: {record.error}")
        block = record.id.partition(":")[2]
        yield (f"{name}:{block}" if block and len(records) > 1 else name), record.unwrap()
