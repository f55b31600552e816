"""Predictor: a stream of structures in, Predictions out, in order, in bounded memory.

Importing this module, and handing files to worker processes, needs neither torch nor ASE in the calling process.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cgcnn_ase.registry import DEFAULT_MODEL, find_model
from cgcnn_ase.structures import StructureRecord, UsedNames, collect_paths, read_file, read_structures

if TYPE_CHECKING:
    import pandas as pd

    from cgcnn_ase.inference import ModelInference
    from cgcnn_ase.nn.model import CrystalModel

#: structures that a worker takes at once
CHUNK = 64

#: with fewer files than this, starting worker processes costs more than it gains
FEW_FILES = 256

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one model says of one structure, or why it says nothing.

    ``value``, ``std``, ``lower`` and ``upper`` are in ``unit``. ``epistemic`` (spread of the members) and ``aleatoric``
    (error that the members expect) are raw, before calibration. ``std``, the interval and ``in_domain`` are None for a
    model without calibration; everything is None where there is an ``error``.
    """

    id: str
    source: str
    formula: str | None
    n_atoms: int | None
    value: float | None
    std: float | None
    lower: float | None
    upper: float | None
    epistemic: float | None
    aleatoric: float | None
    in_domain: bool | None
    reason: str
    unit: str
    property: str
    model: str
    model_sha256: str
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Field names and values."""
        return asdict(self)


#: columns of :meth:`Predictions.to_frame` and of CSV output
COLUMNS = tuple(field.name for field in fields(Prediction) if field.name not in ("source", "error"))


class Predictions(Mapping[str, tuple[float, float | None]]):
    """Results by structure id: ``results[id]`` is (mean, std).

    With several models a name is the id, a slash and the model's name. Structures that failed are in ``failures``.
    """

    def __init__(self, predictions: Iterable[Prediction]) -> None:
        everything = list(predictions)
        self.all = [p for p in everything if p.error is None]
        self.failures = [p for p in everything if p.error is not None]
        several = len({p.model for p in self.all}) > 1
        self._by_name = {f"{p.id}/{p.model}" if several else p.id: p for p in self.all}

    def __getitem__(self, name: str) -> tuple[float, float | None]:
        prediction = self._by_name[name]
        assert prediction.value is not None
        return prediction.value, prediction.std

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def to_frame(self) -> "pd.DataFrame":
        """A table with one row a prediction: id, formula, n_atoms, value, std, lower, upper, ..., model_sha256."""
        import pandas as pd

        return pd.DataFrame([[getattr(p, name) for name in COLUMNS] for p in self.all], columns=list(COLUMNS))


class Predictor:
    """Predict any number of structures with one or more models.

    Parameters
    ----------
    model : str, path, CrystalModel, or sequence of these
        Pretrained names, model folders, original ``.pth.tar`` files, or loaded models.
    n_dropout : int, optional
        Monte Carlo dropout with so many samples instead of one deterministic pass a member.
    seed : int
        Of the dropout samples.
    engine : {"auto", "dgl", "torch"}
        How messages are passed. ``auto`` takes torch here: for prediction DGL is no faster, and importing it is slow.
    workers : int, optional
        Processes that read and predict files; by default one for each core when there are many files.
    order_disordered : bool
        Predict one ordered supercell of a structure with partially occupied sites instead of refusing it.

    Raises
    ------
    UnknownModelError, CheckpointError, ValueError
        If a model cannot be loaded or n_dropout does not suit it: at once, not after the first structures.
    """

    def __init__(
        self,
        model: "str | Path | CrystalModel | Sequence[str | Path | CrystalModel]" = DEFAULT_MODEL,
        *,
        n_dropout: int | None = None,
        seed: int = 0,
        engine: str = "auto",
        workers: int | None = None,
        order_disordered: bool = False,
    ) -> None:
        several = isinstance(model, Sequence) and not isinstance(model, str)
        self.models: list[Any] = list(model) if several else [model]  # type: ignore[arg-type]
        if not self.models:
            raise ValueError("a predictor needs at least one model")
        self.models = [str(find_model(m)) if isinstance(m, str | Path) else m for m in self.models]
        self.settings = {"n_dropout": n_dropout, "seed": seed, "engine": "torch" if engine == "auto" else engine}
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be at least 1, not {workers}")
        self.workers = workers
        self.order_disordered = order_disordered

    def __call__(self, inputs: Any) -> Predictions:
        """Predict all, and keep the results; inputs as for :meth:`stream`."""
        return Predictions(self.stream(inputs))

    def stream(self, inputs: Any) -> Iterator[Prediction]:
        """Predictions one by one, in the order of the inputs.

        Parameters
        ----------
        inputs
            Anything that :func:`cgcnn_ase.structures.read_structures` takes. A bad structure gives a prediction with
            its ``error`` and never costs the others.
        """
        paths = as_paths(inputs)
        workers = self._workers(None if paths is None else len(paths))
        if paths is None:
            records = read_structures(inputs, order_disordered=self.order_disordered)
            return self._in_process(records) if workers == 1 else self._in_workers(_chunks(records), workers)
        if workers == 1:
            records = (r for path in paths for r in read_file(path, order_disordered=self.order_disordered))
            names = UsedNames()
            return self._in_process(names.admit(record) for record in records)
        return self._in_workers(_chunks(iter(paths)), workers)

    def _workers(self, n_files: int | None) -> int:
        from cgcnn_ase.data.graph_cache import available_cores

        movable = all(isinstance(model, str) for model in self.models)
        if self.workers is not None or not movable or n_files is None or n_files < FEW_FILES:
            return self.workers if self.workers is not None and movable else 1
        return available_cores()

    def check(self) -> None:
        """Find out whether the models can be used, without loading weights where that can be avoided.

        Raises
        ------
        CheckpointError, UnsafeCheckpointError, ValueError
            As when predicting.
        """
        self.inference()

    def inference(self) -> "ModelInference":
        """The loaded models, in this process."""
        from cgcnn_ase.inference import inference

        return inference(self.models, **self.settings)

    def _in_process(self, records: Iterator[StructureRecord]) -> Iterator[Prediction]:
        infer = self.inference()
        return (p for chunk in _chunks(records) for p in infer(chunk))

    def _in_workers(self, chunks: "Iterator[list[Any]]", workers: int) -> Iterator[Prediction]:
        from joblib import Parallel, delayed

        tasks = (delayed(_predict_chunk)(chunk, self.models, self.settings, self.order_disordered) for chunk in chunks)
        pool = Parallel(n_jobs=workers, return_as="generator", pre_dispatch="3*n_jobs", batch_size=1)
        names = UsedNames()
        for predictions in pool(tasks):
            for prediction in predictions:
                yield _admit(prediction, names, len(self.models))


def predict(
    model: "str | Path | CrystalModel | Sequence[str | Path | CrystalModel]", structures: Any, **options: Any
) -> Predictions:
    """Predict structures with a model; see :class:`Predictor` for the options.

    >>> results = predict("formation-energy-per-atom", "structures/")  # doctest: +SKIP
    >>> for structure_id, (mean, std) in results.items():  # doctest: +SKIP
    ...     print(structure_id, mean, std)
    """
    return Predictor(model, **options)(structures)


def as_paths(inputs: Any) -> list[Path] | None:
    """The files that the inputs stand for, or None where they are not (only) paths."""
    if isinstance(inputs, str | Path):
        return collect_paths(inputs)
    if isinstance(inputs, list | tuple) and inputs and all(isinstance(entry, str | Path) for entry in inputs):
        return collect_paths(inputs)
    return None


def _chunks(items: Iterator[T]) -> Iterator[list[T]]:
    while chunk := list(islice(items, CHUNK)):
        yield chunk


def _admit(prediction: Prediction, names: UsedNames, n_models: int) -> Prediction:
    """The prediction, or an error if its id was used before (once a structure, not once a model)."""
    from dataclasses import replace

    name = f"{prediction.id}/{prediction.model}" if n_models > 1 else prediction.id
    record = names.admit(StructureRecord(name, prediction.source, None, prediction.error))
    return prediction if record.error == prediction.error else replace(prediction, error=record.error)


def _predict_chunk(
    chunk: list[Any], models: list[str], settings: dict[str, Any], order_disordered: bool
) -> list[Prediction]:
    """Run in a worker process: read files (or take structures) and predict them on one core."""
    import torch

    from cgcnn_ase.inference import inference

    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)
    records: list[StructureRecord] = []
    for entry in chunk:
        if isinstance(entry, StructureRecord):
            records.append(entry)
        else:
            records += read_file(entry, order_disordered=order_disordered)
    return inference(models, **settings)(records)
