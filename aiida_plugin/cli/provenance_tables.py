"""Answers of the provenance commands as tables and JSON; imported when one of them runs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aiida.cmdline.utils import echo

from aiida_plugin.provenance.lineage import NodeRow
from cgcnn_ase.structures import read_structures

if TYPE_CHECKING:
    import pandas as pd
    from ase import Atoms

    from aiida_plugin.data.structures import StructureSetData
    from aiida_plugin.provenance.label_kinds import LabelsBehind
    from aiida_plugin.provenance.model_usage import Use
    from aiida_plugin.provenance.origin import Origin

Row = tuple[str, int | None, str, str]  # what, pk, name, and what else is to be said
_FILES = (".cif", ".extxyz", ".xyz", ".vasp", ".poscar", ".json", ".db", ".traj", ".npz", ".xsf", ".res", ".gz")
_SHOWN = 20  # rows of one kind that are shown; the rest is counted


def print_answer(answer: "Origin | Use | LabelsBehind", rows: Sequence[Row], *, as_json: bool) -> None:
    """Print a table of nodes, or all as JSON, in which nodes are objects."""
    if as_json:
        echo.echo(json.dumps(_json_value(answer), indent=1))
    else:
        echo.echo_tabulate(rows, headers=["What", "PK", "Name", ""])


def print_frame(table: "pd.DataFrame", columns: Sequence[str], *, as_json: bool) -> None:
    """Print all columns as JSON, or those that people read."""
    if as_json:
        echo.echo(table.to_json(orient="records", indent=1, double_precision=15))
        return
    shown = table[[name for name in columns if name in table]]
    echo.echo_tabulate(shown.to_numpy(dtype=object).tolist(), headers=list(shown.columns), floatfmt=".4f")


def structure_named(structure: str, structures: "StructureSetData | None") -> "Atoms | str":
    """Find the structure of this id in a set, the one structure of a file, or else an id."""
    if structures is not None:
        return structures.atoms(structure)
    if not Path(structure).exists():
        return structure
    records = list(read_structures([structure]))
    if len(records) != 1:
        raise ValueError(f"{structure}: holds {len(records)} structures; give a file with one, or an id")
    return records[0].unwrap()


def unknown_structure(structure: str) -> str:
    """Say of what is neither a file nor an id which of the two it looks like."""
    if "/" in structure or Path(structure).suffix in _FILES:
        return f"no such file: {structure} (nor does any stored set have a structure of this id)"
    return f"no such id: no stored set has a structure {structure!r} (nor is there such a file)"


def origin_rows(origin: "Origin") -> list[Row]:
    """Make rows from the number back to DFT and to the hosts."""
    rows: list[Row] = []
    if (row := origin.row) is not None:
        std = "" if row["std"] is None else f" ± {row['std']:.4f}"
        rows.append(("prediction", None, row["id"], f"{row['property']} = {row['value']:.4f}{std} {row['unit']}"))
    rows.append(_row("predictions", origin.predictions, f"{origin.predictions.n_structures} structures"))
    rows += _node_rows("predicted by", origin.jobs)
    rows += [_row("model", model, f"sha256 {(model.sha256 or '')[:12]}") for model in origin.models]
    for training in origin.trainings:
        rows.append(_row("trained by", training.job, f"gave model {training.model.pk}"))
        rows += [_row("began with model", model, "") for model in training.started_from]
        rows += [_row("trained on", row, f"{row.n_structures} structures") for row in training.labelled]
        rows.append(("DFT runs", None, f"{training.n_dft_runs} behind its labels", _no_dft(training.n_other_runs)))
    if not origin.trainings:
        rows.append(("trained by", None, "not in this profile", "the model was imported"))
    rows += _node_rows("DFT run", origin.dft_runs)
    for kind, nodes in origin.other_runs.items():
        rows += _node_rows(f"no DFT: {kind}", nodes)
    rows += [_row("structures", row, f"{row.n_structures} structures") for row in origin.structures]
    rows += _node_rows("structures by", origin.structure_steps)
    rows += _node_rows("host", origin.hosts)
    rows += [_row("BAD", row, row.bad or "") for row in origin.bad]
    return rows


def use_rows(use: "Use") -> list[Row]:
    """Make rows of what came of a model."""
    bad = "" if use.model.bad is None else f"BAD: {use.model.bad}"
    rows = [_row("model", use.model, bad)]
    for what, nodes in (
        ("predictions", use.predictions),
        ("selected", use.structures),
        ("DFT run", use.dft_runs),
        ("labelled", use.labelled),
        ("later model", use.models),
    ):
        rows += _node_rows(what, nodes)
    for kind, nodes in use.other_runs.items():
        rows += _node_rows(f"no DFT: {kind}", nodes)
    return rows


def label_rows(behind: "LabelsBehind") -> list[Row]:
    """Make rows of the labelled sets behind a node, each with its kinds of labels and the jobs that computed them."""
    rows = []
    for each in behind.labelled:
        runs = ", ".join(f"{n} {kind} runs" for kind, n in sorted(each.runs.items()))
        name = ", ".join(each.kinds) or "unknown"
        rows.append(_row(name, each.node, f"{each.node.n_structures} structures" + (f", {runs}" if runs else "")))
    rows += [_row("not known", model, "imported: its training is not in this profile") for model in behind.imported]
    return rows


def _no_dft(runs: Mapping[str, int]) -> str:
    return ", ".join(f"{n} others: {kind}" for kind, n in sorted(runs.items()))


def _node_rows(what: str, nodes: Sequence[NodeRow]) -> list[Row]:
    rows = [_row(what, node, "" if node.n_structures is None else f"{node.n_structures} structures") for node in nodes]
    more: list[Row] = [(what, None, f"... and {len(rows) - _SHOWN} more", "")] if len(rows) > _SHOWN else []
    return rows[:_SHOWN] + more


def _row(what: str, node: NodeRow, more: str) -> Row:
    failed = f"exit code {node.exit_status}" if node.exit_status else ""
    return what, node.pk, node.title, " ".join(words for words in (more, failed) if words)


def _json_value(value: object) -> object:
    if isinstance(value, NodeRow):
        return {key: each for key, each in value._asdict().items() if each is not None}
    if isinstance(value, list | tuple):
        return [_json_value(each) for each in value]
    if is_dataclass(value):
        return {field.name: _json_value(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {key: _json_value(each) for key, each in value.items()}
    return value.item() if hasattr(value, "item") else value
