"""Inspect a data set (contents, duplicates, outliers, a comparison with another) and write what was found."""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from cgcnn_ase.core.errors import DatasetError, install_line
from cgcnn_ase.core.progress import with_progress
from cgcnn_ase.core.targets import is_name_of
from cgcnn_ase.data.dataset import Dataset, read_table
from cgcnn_ase.inspection.duplicates import Matches, MatchTolerances, find_duplicates
from cgcnn_ase.inspection.outliers import Limits, ModelPredictions, Outliers, find_outliers
from cgcnn_ase.inspection.report import Comparison, DatasetReport, Distribution, compare, dataset_report

FORMAT_VERSION = 1


@dataclass(frozen=True)
class DuplicateGroup:
    """Structures of a data set that are the same crystal."""

    ids: list[str]
    formula: str
    values: list[float | None] | None  # of the target, where one is judged
    splits: list[str] | None  # the part of the data set that each is in

    @property
    def spread(self) -> float | None:
        """Largest value less the smallest; None with fewer than two."""
        known = [v for v in self.values or [] if v is not None]
        return max(known) - min(known) if len(known) > 1 else None


@dataclass(frozen=True)
class Inspection:
    """Everything that is known of a data set after an inspection."""

    report: DatasetReport
    target: str | None  # the column that was judged
    duplicates: list[DuplicateGroup] | None  # None where they were not looked for
    matches: Matches | None
    outliers: Outliers
    comparison: Comparison | None

    def to_dict(self) -> dict[str, object]:
        """Everything, ready for JSON."""
        return {
            "format_version": FORMAT_VERSION,
            "report": self.report.to_dict(),
            "target": self.target,
            "duplicates": None
            if self.duplicates is None or self.matches is None
            else {
                "groups": [{**vars(group), "spread": group.spread} for group in self.duplicates],
                "n_compared": self.matches.n_compared,
                "not_compared": self.matches.not_compared,
                "n_without_cell": self.matches.n_without_cell,
            },
            "outliers": {
                "found": [outlier.to_dict() for outlier in self.outliers.entries],
                "not_judged": self.outliers.not_judged,
            },
            "comparison": None if self.comparison is None else self.comparison.to_dict(),
        }


def inspect_dataset(
    data: str | Path,
    target: str | None = None,
    *,
    other: str | Path | None = None,
    other_target: str | None = None,
    model: str | None = None,
    align: bool | None = None,
    duplicates: bool = True,
    sameness: MatchTolerances | None = None,
    limits: Limits | None = None,
    workers: int = 1,
    progress: bool = False,
) -> tuple[Dataset, Inspection]:
    """Inspect a data set; gives its table, too, for pictures.

    Parameters
    ----------
    data, other : path
        Data sets as :func:`cgcnn_ase.data.dataset.read_table` reads them; ``other`` is compared with.
    target, other_target : str, optional
        Column to judge and to compare; by default the only column of numbers, where there is one, and in the other data
        set that of the same name.
    model : str, optional
        Pretrained name or model folder whose predictions the target is held against; a column such as ``K_VRH`` or
        ``gap`` is held against the model's own name of it.
    align : bool, optional
        Fit offsets of the elements to the differences from ``other``; by default of energies per atom.
    duplicates : bool
        Whether to look for structures that are there twice.
    sameness, limits : MatchTolerances, Limits, optional
        When two structures are the same, and beyond what a value is flagged.
    workers : int
        Processes; the result does not depend on their number.
    progress : bool
        Show bars on stderr.

    Raises
    ------
    DatasetError
        If a data set cannot be read, there is no such column, or nothing is in both.
    ValueError
        If the model does not predict one number for a structure with its uncertainty, or predicts another property.
    """
    table = read_table(data)
    if target is None and len(table.numeric) == 1:
        target = table.numeric[0]
    if target is not None:
        table.values(target)
    elif other is not None or model is not None:
        raise DatasetError(f"{data}: name the column to {'compare' if other is not None else 'judge'}; there are "
                           f"{', '.join(table.numeric) or 'none of numbers'}")  # fmt: skip
    others = None if other is None else read_table(other)
    if others is not None:
        others.values(other_target or str(target))
    says = None if model is None else _ask(model, table, str(target), workers, progress)
    comparison = None
    if others is not None:
        comparison = compare(
            table, others, str(target), other_target, align=align, sameness=sameness, workers=workers, progress=progress
        )
    matches = None
    if duplicates:
        matches = find_duplicates(table.structures, sameness=sameness, workers=workers, progress=progress)
    return table, Inspection(
        report=dataset_report(table),
        target=target,
        duplicates=None if matches is None else _groups(table, matches, target),
        matches=matches,
        outliers=find_outliers(table, target, model=says, limits=limits, progress=progress),
        comparison=comparison,
    )


def _groups(table: Dataset, matches: Matches, target: str | None) -> list[DuplicateGroup]:
    """The groups whose values differ most first."""
    values = None if target is None else [float(v) if np.isfinite(v) else None for v in table.values(target)]
    splits = [str(name) for name in table.columns["split"]] if "split" in table.columns else None
    groups = [
        DuplicateGroup(
            [table.ids[k] for k in rows],
            table.formulas[rows[0]],
            None if values is None else [values[k] for k in rows],
            None if splits is None else [splits[k] for k in rows],
        )
        for rows in matches.groups()
    ]
    return sorted(groups, key=lambda group: (-(group.spread or 0.0), group.ids))


def _ask(model: str, table: Dataset, target: str, workers: int, progress: bool) -> ModelPredictions:
    """Predictions of a model for each structure."""
    from ase import Atoms

    from cgcnn_ase.models.registry import load_model
    from cgcnn_ase.prediction.predictor import Predictor

    loaded = load_model(model)
    loaded.check_level("crystal", "inspect")
    if loaded.target.task != "regression":
        raise ValueError(f"{model}: is a classifier; values are judged by a regression")
    if not is_name_of(target, loaded.target.name):
        raise ValueError(f"{model}: predicts {loaded.target.name}, the column to judge is {target}")
    structures = (Atoms(s.numbers, s.positions, cell=s.cell, pbc=s.pbc) for s in table.structures)
    mean, std = np.full(len(table), np.nan), np.full(len(table), np.nan)
    failed: list[str] = []
    predictions = Predictor(model, workers=workers).stream(structures)
    for k, prediction in enumerate(with_progress(predictions, "Predicting", len(table), shown=progress)):
        if prediction.value is None:
            failed.append(f"{table.ids[k]}: {prediction.error}")
        elif prediction.std is None:
            raise ValueError(f"{model}: has no calibrated uncertainty, in units of which values could be judged")
        else:
            mean[k], std[k] = prediction.value, prediction.std
    return ModelPredictions(loaded.name or str(model), mean, std, tuple(failed))


# rows of a table; all of them are in the JSON
SHOWN = 20


def write_inspection(table: Dataset, inspection: Inspection, folder: Path) -> None:
    """Write ``report.json``, ``report.md`` and, where matplotlib is installed, the pictures; without it a warning.

    ``elements.png``, ``sizes.png``; ``values.png`` of the target; ``comparison.png`` of two data sets.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures: list[str] = []
    if find_spec("matplotlib") is None:
        warnings.warn(f"no pictures: matplotlib is missing; {install_line('plots')}", stacklevel=2)
    else:
        pictures = _draw(table, inspection, folder)
    (folder / "report.json").write_text(json.dumps(inspection.to_dict(), indent=1, allow_nan=False) + "\n")
    (folder / "report.md").write_text(markdown(inspection, pictures=pictures), encoding="utf-8")


def _draw(table: Dataset, inspection: Inspection, folder: Path) -> list[str]:
    from cgcnn_ase.plotting import dataset_plots
    from cgcnn_ase.plotting.model_plots import save

    figures = {
        "elements.png": dataset_plots.element_coverage(inspection.report.elements),
        "sizes.png": dataset_plots.size_histogram(table.n_atoms),
    }
    if inspection.target is not None and np.isfinite(table.values(inspection.target)).any():
        figures["values.png"] = dataset_plots.value_histogram(
            table.values(inspection.target), name=inspection.target, unit=_unit(inspection, inspection.target)
        )
    comparison = inspection.comparison
    if comparison is not None and len(comparison.values):
        figures["comparison.png"] = dataset_plots.sources(
            np.subtract(*comparison.values.T),
            comparison.residuals,
            comparison.offsets,
            name=comparison.target,
            other=Path(comparison.other).name,
            unit=_unit(inspection, comparison.target),
        )
    for name, figure in figures.items():
        save(figure, folder / name)
    return list(figures)


def _unit(inspection: Inspection, target: str) -> str:
    """Unit of a column as the data set's own provenance states it; empty where it does not."""
    units = (inspection.report.provenance or {}).get("units", {})
    return str(units.get(target, "")) if isinstance(units, Mapping) else ""


def markdown(inspection: Inspection, *, shown: int = SHOWN, pictures: Sequence[str] = ()) -> str:
    """The whole report, with at most so many rows of each table, and the pictures that lie beside it."""
    lines = [f"# {inspection.report.source}", "", *_summary(inspection.report)]
    lines += [line for name in pictures for line in ("", f"![{name.partition('.')[0]}]({name})")]
    lines += ["", "## Columns", "", *_columns(inspection.report)]
    if (provenance := inspection.report.provenance) is not None:
        lines += ["", "## Where it is from", "", *(f"- {key}: {value}" for key, value in provenance.items())]
    if inspection.duplicates is not None:
        lines += ["", "## Duplicates", "", *_duplicates(inspection, shown)]
    lines += ["", "## Outliers", "", *_outliers(inspection, shown)]
    if inspection.comparison is not None:
        lines += ["", f"## Against {inspection.comparison.other}", "", *_comparison(inspection.comparison, shown)]
    return "\n".join(lines) + "\n"


def _summary(report: DatasetReport) -> Iterator[str]:
    yield (
        f"{report.n_structures:,} structures, {report.n_formulas:,} formulas, {report.n_chemical_systems:,} chemical "
        f"systems, {len(report.elements)} elements, {report.n_atoms:,} atoms."
    )
    yield ""
    if report.sizes is not None:
        yield f"- atoms in a cell: {_describe(report.sizes)}"
    if report.volumes is not None:
        yield f"- volume per atom (Å³): {_describe(report.volumes)}"
    yield f"- structures by how many elements they have: {_counted(report.n_components)}"
    if report.splits is not None:
        yield f"- splits: {_counted(report.splits.sizes)}; formulas in several: {report.splits.n_leaked_formulas:,}"
    for name, kinds in report.schemes.items():
        yield f"- {name}: {_counted({kind or 'not said': n for kind, n in kinds.items()})}"
    for warning in report.warnings():
        yield f"- **look at this:** {warning}"


def _describe(values: Distribution) -> str:
    return (
        f"median {values.median:.4g}, 5 % below {values.q05:.4g}, 5 % above {values.q95:.4g}, from "
        f"{values.minimum:.4g} to {values.maximum:.4g}"
    )


def _counted(counts: Mapping[str, int] | Mapping[int, int]) -> str:
    return ", ".join(f"{name}: {n:,}" for name, n in counts.items())


def _columns(report: DatasetReport) -> Iterator[str]:
    yield from _header("column", "missing", "mean", "std", "least", "5 %", "median", "95 %", "most")
    for name, column in report.columns.items():
        values = column.distribution
        if values is not None:
            _, *numbers = astuple(values)
            yield _row(name, f"{column.n_missing:,}", *(f"{x:.4g}" for x in numbers))
        elif column.kind == "text" and column.most_frequent is not None:
            some = _counted(dict(list(column.most_frequent.items())[:3]))
            yield _row(name, f"{column.n_missing:,}", f"text, {column.n_distinct:,} different: {some}", *[""] * 6)
        else:
            yield _row(name, f"{column.n_missing:,}", *[""] * 7)


def _duplicates(inspection: Inspection, shown: int) -> Iterator[str]:
    assert inspection.duplicates is not None
    assert inspection.matches is not None
    groups, matches = inspection.duplicates, inspection.matches
    n = sum(len(group.ids) for group in groups)
    yield f"{len(groups):,} groups of {n:,} structures are the same crystal ({matches.n_compared:,} pairs compared)."
    across = sum(len(set(group.splits)) > 1 for group in groups if group.splits is not None)
    if across:
        yield f"**{across:,} groups have members in different splits.**"
    for formula, left in list(matches.not_compared.items())[:shown]:
        yield f"{formula}: {left:,} pairs were not compared, those furthest apart in volume."
    if matches.n_without_cell:
        yield f"{matches.n_without_cell:,} structures do not repeat in all directions and were not compared."
    if groups:
        yield ""
        yield from _header("formula", "ids", f"spread of {inspection.target}" if inspection.target else "", "splits")
    for group in groups[:shown]:
        spread = "" if group.spread is None else f"{group.spread:.4g}"
        yield _row(group.formula, ", ".join(group.ids), spread, ", ".join(sorted(set(group.splits or []))))
    yield from _more(len(groups), shown)


def _outliers(inspection: Inspection, shown: int) -> Iterator[str]:
    outliers = inspection.outliers.entries
    judged = f"{inspection.target} and the geometry" if inspection.target else "the geometry only: no target was named"
    yield f"{len(outliers):,} flagged, judging {judged}."
    for words in inspection.outliers.not_judged:
        yield f"Not judged: {words}."
    if outliers:
        yield ""
        yield from _header("id", "formula", "by", "reason")
    for outlier in outliers[:shown]:
        yield _row(outlier.id, outlier.formula, outlier.kind, outlier.reason)
    yield from _more(len(outliers), shown)


def _comparison(comparison: Comparison, shown: int) -> Iterator[str]:
    yield f"{len(comparison.common):,} structures are in both, {len(comparison.values):,} with both values."
    difference = comparison.difference
    if difference is not None:
        column = comparison.target
        if comparison.other_target != column:
            column += f" less {comparison.other_target}"
        yield (
            f"Difference of {column}, this one less the other: mean {difference.mean:.4g}, mean absolute "
            f"{comparison.mean_absolute:.4g}, {_describe(difference)}."
        )
    for formula, left in list(comparison.matches.not_compared.items())[:shown]:
        yield f"{formula}: {left:,} pairs were not compared, those furthest apart in volume."
    offsets = comparison.offsets
    if offsets is None:
        return
    left_out = "" if offsets.rmse_left_out is None else f", {offsets.rmse_left_out:.4g} of structures left out"
    yield ""
    yield (
        f"One offset for each element ({offsets.method}, {offsets.n_structures:,} structures): RMSE "
        f"{offsets.rmse_before:.4g} before, {offsets.rmse_after:.4g} after{left_out}."
    )
    yield from (f"{words}." for words in offsets.notes())
    yield ""
    yield from _header("element", "offset (eV/atom)", "standard error", "structures")
    for name, value in offsets.offsets.items():
        error = offsets.errors[name]
        yield _row(name, f"{value:+.4f}", "" if error is None else f"{error:.4f}", f"{offsets.counts[name]:,}")


def _header(*names: str) -> Iterator[str]:
    yield _row(*names)
    yield _row(*["---"] * len(names))


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _more(n: int, shown: int) -> Iterator[str]:
    if n > shown:
        yield ""
        yield f"... and {n - shown:,} more."
