"""All that stands behind some nodes, or was made from them, as a small graph in memory.

AiiDA's own recursive joins (``with_ancestors``, ``with_descendants``) list every path from one node to another. In a
loop of predict, select, label and retrain each round multiplies the paths, so after a few rounds such a query does not
end. Here one query goes one step further for all nodes at once, and each node is met once: the number of queries is the
length of the longest chain, whatever the number of nodes.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from aiida.common.links import LinkType
from aiida.orm import Node, QueryBuilder

_BATCH = 10_000  # nodes that one query asks for; SQLite takes no more than some ten thousand values
_DATA_LINKS = [LinkType.INPUT_CALC.value, LinkType.CREATE.value]  # inputs to calculations to what they created

MODEL = "data.cgcnn.model.CGCNNModelData."
STRUCTURES = "data.cgcnn.structures.StructureSetData."
PREDICTIONS = "data.cgcnn.predictions.PredictionsData."
BAD = "cgcnn_bad"  # the extra that says why a model is bad

Direction = Literal["ancestors", "descendants"]


class NodeRow(NamedTuple):
    """Columns of a node; of one that has no such attribute they are None."""

    pk: int
    uuid: str
    node_type: str
    process_type: str | None
    label: str
    process_label: str | None  # name of a process
    exit_status: int | None  # of a process
    name: str | None  # of a model
    sha256: str | None  # of a model
    n_structures: int | None  # of a set or of predictions
    results: list[str] | None  # of a set: names of the results (energy, forces, ...) that structures carry
    label_kinds: list[str] | None  # of a set: kinds of method that made its labels; None of one of an early version
    bad: str | None  # the reason, where the node was marked bad

    @property
    def is_process(self) -> bool:
        """Tell whether it is a process, rather than data."""
        return self.node_type.startswith("process.")

    @property
    def title(self) -> str:
        """Name for tables."""
        if self.is_process:
            return self.process_label or (self.process_type or self.node_type).rpartition(":")[2]
        return self.label or self.name or self.node_type.split(".")[-2]


_PROJECT = [
    *("id", "uuid", "node_type", "process_type", "label"),
    *(
        f"attributes.{key}"
        for key in ("process_label", "exit_status", "name", "sha256", "n_structures", "results", "label_kinds")
    ),
    f"extras.{BAD}.reason",
]


class Link(NamedTuple):
    """From an input to a process, or from a process to what it created."""

    source: int
    target: int
    label: str


@dataclass
class Lineage:
    """Nodes by pk and the links between them."""

    nodes: dict[int, NodeRow]
    links: list[Link]
    _into: dict[int, list[Link]] = field(default_factory=dict, repr=False)
    _out_of: dict[int, list[Link]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for link in self.links:
            self._into.setdefault(link.target, []).append(link)
            self._out_of.setdefault(link.source, []).append(link)

    def inputs(self, pk: int, label: str | None = None) -> list[NodeRow]:
        """Return the nodes with a link into this one: of a process its inputs, of data its creator."""
        return [self.nodes[link.source] for link in self._into.get(pk, ()) if label in (None, link.label)]

    def outputs(self, pk: int) -> list[NodeRow]:
        """Return the nodes that it has a link to: of a process what it created, of data the processes that used it."""
        return [self.nodes[link.target] for link in self._out_of.get(pk, ())]

    def behind(self, start: Iterable[int], *, through: Callable[[NodeRow], bool] | None = None) -> Iterator[NodeRow]:
        """Walk through all nodes that the given ones come from, the nearest first, each once, without these themselves.

        A node for which `through` is false is given, and ends the search there.
        """
        return _walk(start, self.inputs, through)

    def after(self, start: Iterable[int]) -> Iterator[NodeRow]:
        """Walk through all nodes that were made from or with the given ones, the nearest first, each once."""
        return _walk(start, self.outputs, None)


def lineage(start: Iterable[int], direction: Direction, *, depth: int | None = None) -> Lineage:
    """Query the nodes that the given ones come from (or that were made from them), by links of data alone.

    The given ones are in the result; `depth` is so many links at most, None for all.
    """
    front = sorted(set(start))
    seen = set(front)
    links: dict[Link, None] = {}
    left = depth
    while front and left != 0:
        left = None if left is None else left - 1
        result = [step for batch in _batches(front) for step in _step(batch, direction)]
        for here, there, label in result:
            links[Link(there, here, label) if direction == "ancestors" else Link(here, there, label)] = None
        front = sorted({there for _, there, _ in result} - seen)
        seen.update(front)
    nodes = {row.pk: row for batch in _batches(sorted(seen)) for row in _rows(batch)}
    return Lineage(nodes, list(links))


def _walk(
    start: Iterable[int], step: Callable[[int], list[NodeRow]], through: Callable[[NodeRow], bool] | None
) -> Iterator[NodeRow]:
    front = list(start)
    seen = set(front)
    for pk in front:
        for row in step(pk):
            if row.pk not in seen:
                seen.add(row.pk)
                yield row
                if through is None or through(row):
                    front.append(row.pk)


def _batches(pks: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(pks), _BATCH):
        yield pks[start : start + _BATCH]


def _rows(pks: list[int]) -> Iterator[NodeRow]:
    query = QueryBuilder().append(Node, filters={"id": {"in": pks}}, project=_PROJECT)
    return (NodeRow(*columns) for columns in query.all())


def _step(pks: list[int], direction: Direction) -> list[tuple[int, int, str]]:
    """Query pk of a given node, pk of the node at the other end of a link, and the link's label.

    Few columns: to build the query takes longer than to run it.
    """
    other: dict[str, Any] = {"with_outgoing" if direction == "ancestors" else "with_incoming": "here"}
    query = QueryBuilder().append(Node, filters={"id": {"in": pks}}, project="id", tag="here")
    query.append(Node, project="id", edge_filters={"type": {"in": _DATA_LINKS}}, edge_project="label", **other)
    return [(here, there, label) for here, there, label in query.all()]
