"""A picture of the provenance graph around a node, drawn by AiiDA and Graphviz."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from aiida.orm import Node, ProcessNode, QueryBuilder

from aiida_plugin.data.model import CGCNNModelData
from aiida_plugin.data.predictions import PredictionsData
from aiida_plugin.data.structures import StructureSetData
from aiida_plugin.provenance.lineage import Lineage, lineage

if TYPE_CHECKING:
    from aiida.tools.visualization import Graph

PictureDirection = Literal["ancestors", "descendants", "both"]

FORMATS = ("png", "svg", "pdf", "dot")  # what Graphviz can write, by ending
MAX_NODES = 300  # more nobody can read
_COLOURS = {CGCNNModelData: "#0072B2", StructureSetData: "#E69F00", PredictionsData: "#56B4E9"}


def graph_picture(
    node: Node, path: str | Path, *, direction: PictureDirection = "ancestors", depth: int | None = None
) -> Path:
    """Draw what stands behind a node, or what was made from it.

    Parameters
    ----------
    node
        Where to begin; it is drawn in red.
    path
        A .png, .svg or .pdf file, or .dot for Graphviz' own text, which needs no program.
    direction
        Which way to go.
    depth
        So many links away at most; None for all.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If the ending is another one, or there are more than 300 nodes; the message says how many.
    FileNotFoundError
        If Graphviz' program ``dot`` or the folder is missing.
    """
    file = Path(path)
    kind = file.suffix.removeprefix(".")
    if kind not in FORMATS:
        raise ValueError(f"{file}: allowed endings are {', '.join(f'.{name}' for name in FORMATS)}")
    if not file.parent.is_dir():
        raise FileNotFoundError(f"the folder {file.parent} does not exist")
    assert node.pk is not None
    result = [
        lineage([node.pk], way, depth=depth) for way in ("ancestors", "descendants") if direction in (way, "both")
    ]
    graph = _graph(result, node)
    if kind == "dot":
        file.write_text(graph.graphviz.source, encoding="utf-8")
        return file
    from graphviz import ExecutableNotFound

    try:
        file.write_bytes(graph.graphviz.pipe(format=kind))
    except ExecutableNotFound as error:
        raise FileNotFoundError(
            "a picture needs Graphviz' program dot: install the package graphviz (apt install graphviz, or "
            "conda install graphviz), or write a .dot file"
        ) from error
    return file


def _graph(result: list[Lineage], node: Node) -> "Graph":
    from aiida.common.links import LinkType
    from aiida.orm.utils.links import LinkPair
    from aiida.tools.visualization import Graph

    pks = sorted({pk for part in result for pk in part.nodes})
    if len(pks) > MAX_NODES:
        raise ValueError(f"the picture would have {len(pks)} nodes, {MAX_NODES} can be read: give a smaller depth")
    graph = Graph(node_sublabel_fn=sublabel, node_style_fn=_style, graph_attr={"rankdir": "TB"})
    nodes: dict[int, Node] = {
        each.pk: each for each in QueryBuilder().append(Node, filters={"id": {"in": pks}}).all(flat=True)
    }
    for pk, each in sorted(nodes.items()):
        graph.add_node(each, style_override={"color": "red", "penwidth": "3"} if pk == node.pk else None)
    for link in sorted({link for part in result for link in part.links}):
        into = LinkType.INPUT_CALC if isinstance(nodes[link.target], ProcessNode) else LinkType.CREATE
        pair = LinkPair(into, link.label)
        graph.add_edge(nodes[link.source], nodes[link.target], pair, style={"label": link.label, "fontsize": "9"})
    return graph


def sublabel(node: Node) -> str:
    """Describe a node below its name."""
    from aiida.tools.visualization.graph import default_node_sublabels

    attributes = node.base.attributes
    if isinstance(node, CGCNNModelData):
        bad = node.base.extras.get("cgcnn_bad", None)
        lines = [node.base.attributes.get("name"), node.sha256[:12], *([f"BAD: {bad['reason']}"] if bad else [])]
    elif isinstance(node, StructureSetData):
        labelled = ", labelled" if attributes.get("results", []) else ""
        lines = [f"{len(node):,} structures{labelled}", "-".join(attributes.get("elements"))]
    elif isinstance(node, PredictionsData):
        lines = [f"{len(node):,} of {attributes.get('property')}", f"({attributes.get('unit')})"]
    else:
        return str(default_node_sublabels(node))
    return "\n".join(map(str, [*([node.label] if node.label and node.label not in lines else []), *lines]))


def _style(node: Node) -> dict[str, str]:
    from aiida.tools.visualization.graph import default_node_styles

    style: dict[str, str] = default_node_styles(node)
    for kind, colour in _COLOURS.items():
        if isinstance(node, kind):
            style = {**style, "fillcolor": f"{colour}88", "style": "filled"}
    return style
