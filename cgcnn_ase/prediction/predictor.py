"""Predictor: a stream of structures in, Predictions out, in order, in bounded memory.

Importing this module, and handing files to worker processes, needs neither torch nor ASE in the calling process.
"""

import sys
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from cgcnn_ase.core.errors import unknown_name
from cgcnn_ase.core.parallel import available_cores, ordered_map
from cgcnn_ase.models.folder import read_config, read_weights
from cgcnn_ase.models.registry import DEFAULT_MODEL, ModelRef, find_models, model_level
from cgcnn_ase.prediction.results import BatchTally, BatchWarning, MemberPrediction, Prediction, Predictions
from cgcnn_ase.structures import (
    StructureRecord,
    UniqueIds,
    WorkItem,
    collect_paths,
    count_structures,
    iter_piece,
    iter_pieces,
    read_structures,
)
from cgcnn_ase.structures.ordering import OrderDisordered, OrderingWarning

if TYPE_CHECKING:
    from ase import Atoms

    from cgcnn_ase.models.crystal_model import CrystalModel
    from cgcnn_ase.nn.messages import Engine
    from cgcnn_ase.prediction.inference import InferenceSettings, ModelInference
    from cgcnn_ase.uncertainty.protocol import Population


# structures that a worker takes at once
CHUNK = 128

# with fewer structures than this, starting worker processes costs more than it gains
MIN_PARALLEL = 256
POPULATIONS = ("known", "hypothetical")
T = TypeVar("T")


class SecondOpinion(Protocol):
    """Other models that are held against predictions: :class:`cgcnn_ase.inspection.second_opinion.SecondOpinions`."""

    def check(self, properties: Sequence[str]) -> None:
        """Raise `ValueError` if they say nothing of these properties."""

    def __call__(
        self, structures: "Sequence[Atoms | None]", predictions: Sequence[Sequence[Prediction]]
    ) -> list[list[Prediction]]:
        """Add ``second_opinion_std`` to the predictions of each structure."""


class Predictor:
    """Predict any number of structures with one or more models.

    Parameters
    ----------
    model : str, path, CrystalModel, or sequence of these
        Pretrained names (``all`` for all of them), model folders, original ``.pth.tar`` files, or loaded models. Models
        that share their networks cost one pass together.
    n_dropout : int, optional
        Monte Carlo dropout with so many samples instead of one deterministic pass a member.
    seed : int
        Of the dropout samples.
    engine : {"auto", "dgl", "torch"}
        How messages are passed. ``auto`` takes torch here: for prediction DGL is no faster, and importing it is slow.
    workers : int, optional
        Processes that read and predict files; by default one for each core when there are many.
    order_disordered : bool or OrderingOptions
        Predict an ordered supercell of a structure with partially occupied sites instead of refusing it, or so many of
        them as the :class:`~cgcnn_ase.structures.ordering.OrderingOptions` ask for.
    population : {"known", "hypothetical"}
        Whose errors the interval is made for: crystals like those of a database, mostly stable and relaxed, or
        generated, substituted and searched ones. A model that was not calibrated for hypothetical crystals gives the
        intervals of known ones, and says so in each prediction's ``population``.
    once : bool
        This process predicts once. While it reads a few files, a second one imports torch and loads the models, unless
        torch is there already.
    second_opinion : SecondOpinion, optional
        Other models, whose disagreement becomes ``second_opinion_std``. As the whole batch decides the scale of their
        energies, all structures are then held in memory, in one process.

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
        engine: "Engine" = "auto",
        workers: int | None = None,
        order_disordered: OrderDisordered = False,
        population: "Population" = "known",
        second_opinion: SecondOpinion | None = None,
        once: bool = False,
    ) -> None:
        if population not in POPULATIONS:
            raise unknown_name("population", population, POPULATIONS)
        asked = list(model) if isinstance(model, Sequence) and not isinstance(model, str) else [model]
        if not asked:
            raise ValueError("a predictor needs at least one model")
        result = [find_models(m) if isinstance(m, str | Path) else [m] for m in asked]
        self.models: list[ModelRef | CrystalModel] = [each for models in result for each in models]
        self.settings: InferenceSettings = {
            "n_dropout": n_dropout,
            "seed": seed,
            "engine": "torch" if engine == "auto" else engine,
            "population": population,
        }
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be at least 1, not {workers}")
        self.workers, self.once = workers, once
        self.order_disordered = order_disordered
        self.second_opinion = second_opinion
        if second_opinion is not None:
            if not callable(second_opinion):
                raise ValueError(f"second_opinion must be SecondOpinions(...), not {second_opinion!r}")
            if workers is not None and workers > 1:
                raise ValueError(
                    f"{workers} workers with a second opinion: the whole batch is predicted in one process"
                )
            second_opinion.check([model.target.name for model in self.inference().models])

    def __call__(self, inputs: object) -> Predictions:
        """Predict all, and keep the results; inputs as for :meth:`stream`.

        Where the structures, as a set, are unlike those that a model was trained on, a :class:`BatchWarning` says so,
        and the results' ``notes`` too.
        """
        tally = self.tally()
        results = Predictions(tally.counted(self.stream(inputs)))
        results.notes = tally.notes()
        for note in results.notes:
            warnings.warn(note, BatchWarning, stacklevel=2)
        return results

    def tally(self) -> BatchTally:
        """A new count of what lies beyond the models' held-out structures, for those who stream."""
        return BatchTally(self.models, dropout=self.settings["n_dropout"] is not None)

    def stream(self, inputs: object) -> Generator[Prediction, None, None]:
        """Predictions one by one, in the order of the inputs.

        Parameters
        ----------
        inputs
            Anything that :func:`cgcnn_ase.structures.read_structures` takes. A bad structure gives a prediction with
            its ``error`` and never costs the others.
        """
        return (prediction for prediction, _ in self.stream_with(without_result, inputs))

    def stream_files(
        self, paths: Sequence[Path], *, names: UniqueIds | None = None
    ) -> Generator[Prediction, None, None]:
        """As :meth:`stream`, of structure files (see :func:`cgcnn_ase.structures.collect_paths`).

        A file that is missing gives a prediction with its ``error``. ``names`` are those that earlier structures have.
        """
        return (prediction for prediction, _ in self.stream_files_with(without_result, paths, names=names))

    def stream_with(
        self, function: Callable[[MemberPrediction], T], inputs: object
    ) -> Generator[tuple[Prediction, T], None, None]:
        """As :meth:`stream`, each prediction with what a function says of it.

        The function also gets what each member of the ensemble predicts. Where worker processes predict, they call it,
        so it is one that they can import, or an instance with ``__call__`` that can be pickled.
        """
        if (paths := as_paths(inputs)) is not None:
            return self.stream_files_with(function, paths)
        records = read_structures(inputs, order_disordered=self.order_disordered)
        if self.second_opinion is not None:
            return self._with_second_opinion(function, records, self.second_opinion)
        workers = self._workers(None)
        if workers == 1:
            return self._in_process(function, records)
        return self._in_workers(function, _chunks(records), workers, UniqueIds())

    def stream_files_with(
        self, function: Callable[[MemberPrediction], T], paths: Sequence[Path], *, names: UniqueIds | None = None
    ) -> Generator[tuple[Prediction, T], None, None]:
        """As :meth:`stream_with`, of structure files, as :meth:`stream_files` takes them."""
        names = names or UniqueIds()
        if self.second_opinion is not None:
            return self._with_second_opinion(function, self._checked_records(paths, names), self.second_opinion)
        workers = self._workers(count_structures(paths))
        if workers == 1 and self._may_share():
            names.expect(paths)
            return self._beside(function, _records(paths, self.order_disordered), names)
        if workers == 1:
            return self._in_process(function, self._checked_records(paths, names))
        names.expect(paths)
        return self._in_workers(function, iter_pieces(paths, CHUNK), workers, names)

    def _checked_records(self, paths: Sequence[Path], names: UniqueIds) -> Iterator[StructureRecord]:
        names.expect(paths)
        return (names.check(record) for record in _records(paths, self.order_disordered))

    def _workers(self, n: int | None) -> int:
        """Processes for at least so many structures in files, or for None: structures in memory."""
        movable = all(isinstance(model, ModelRef) for model in self.models)
        if self.workers is not None or not movable or n is None or n < MIN_PARALLEL:
            return self.workers if self.workers is not None and movable else 1
        return available_cores()

    def _may_share(self) -> bool:
        movable = all(isinstance(model, ModelRef) for model in self.models)
        return self.once and movable and self.workers is None and "torch" not in sys.modules and available_cores() > 1

    @property
    def of_sites(self) -> bool:
        """True if a model among them predicts sites, and not structures."""
        return any(
            model_level(m) == "site" if isinstance(m, ModelRef) else m.target.level == "site" for m in self.models
        )

    def check(self) -> list[tuple[str, str]]:
        """Name and sha256 of the weights of each model, after checking that they are whole and can be used as asked.

        Where worker processes will load the models, this process only reads their files. Errors are those of
        predicting.
        """
        folders = {model.path for model in self.models if isinstance(model, ModelRef) and model.name is not None}
        if self.settings["n_dropout"] is not None or not all(
            isinstance(model, ModelRef) and model.name is not None for model in self.models
        ):
            return [(model.name, model.sha256) for model in self.inference().models]
        hashes = {folder: sha256(read_weights(folder, read_config(folder))).hexdigest() for folder in folders}
        return [(str(model.name), hashes[model.path]) for model in self.models if isinstance(model, ModelRef)]

    def inference(self) -> "ModelInference":
        """The loaded models, in this process."""
        from cgcnn_ase.prediction.inference import inference

        return inference(self.models, **self.settings)

    def _in_process(
        self, function: Callable[[MemberPrediction], T], records: Iterator[StructureRecord]
    ) -> Generator[tuple[Prediction, T], None, None]:
        infer = self.inference()
        return (
            (member.prediction, function(member))
            for chunk in _chunks(records)
            for row in infer.with_members(chunk)
            for member in row
        )

    def _beside(
        self, function: Callable[[MemberPrediction], T], records: Iterator[StructureRecord], names: UniqueIds
    ) -> Generator[tuple[Prediction, T], None, None]:
        """Read here, and predict in a process that loads the models meanwhile: it gets an empty chunk first.

        A function that has something to ``prepare`` does so then, too.
        """

        def prepared() -> Iterator[list[Any]]:
            getattr(function, "prepare", _ready)()
            yield from _chunks(records)

        chunks: Iterator[list[Any]] = chain([[]], prepared())
        for prediction, member in self._in_workers(_itself, chunks, 1, names):
            yield prediction, function(member._replace(prediction=prediction))

    def _with_second_opinion(
        self,
        function: Callable[[MemberPrediction], T],
        records: Iterator[StructureRecord],
        second_opinion: SecondOpinion,
    ) -> Generator[tuple[Prediction, T], None, None]:
        infer, batch = self.inference(), list(records)
        rows = [row for chunk in _chunks(iter(batch)) for row in infer.with_members(chunk)]
        predictions = [[member.prediction for member in row] for row in rows]
        compared = second_opinion([record.atoms for record in batch], predictions)
        for row, changed in zip(rows, compared, strict=True):
            for member, prediction in zip(row, changed, strict=True):
                yield prediction, function(member._replace(prediction=prediction))

    def _in_workers(
        self,
        function: Callable[[MemberPrediction], T],
        chunks: "Iterator[list[Any]]",
        workers: int,
        names: UniqueIds,
    ) -> Generator[tuple[Prediction, T], None, None]:
        tasks = ((chunk, self.models, self.settings, self.order_disordered, function) for chunk in chunks)
        with closing(ordered_map(_predict_chunk, tasks, workers)) as answers:
            for structures, notes in answers:
                for note in notes:
                    warnings.warn(note, OrderingWarning, stacklevel=2)
                for row in structures:
                    predictions = _admit([prediction for prediction, _ in row], names)
                    yield from zip(predictions, (result for _, result in row), strict=True)


def predict(
    model: "str | Path | CrystalModel | Sequence[str | Path | CrystalModel]", structures: object, **options: Any
) -> Predictions:
    """Predict structures with a model; see :class:`Predictor` for the options.

    ``cgcnn_ase.predict`` also takes second opinions by name: :func:`cgcnn_ase.inspection.second_opinion.predict`.

    >>> results = predict("formation-energy-per-atom", "structures/")  # doctest: +SKIP
    >>> for structure_id, (mean, std) in results.items():  # doctest: +SKIP
    ...     print(structure_id, mean, std)
    """
    return Predictor(model, **options)(structures)


def as_paths(inputs: object) -> list[Path] | None:
    """The files that the inputs stand for, or None where they are not (only) paths."""
    if isinstance(inputs, str | Path):
        return collect_paths(inputs)
    if isinstance(inputs, list | tuple) and inputs and all(isinstance(entry, str | Path) for entry in inputs):
        return collect_paths(inputs)
    return None


def without_result(member: MemberPrediction) -> None:
    """For :meth:`Predictor.stream_with` where the prediction alone is wanted."""
    del member


def _ready() -> None:
    pass


def _itself(member: MemberPrediction) -> MemberPrediction:
    return member


def _chunks(items: Iterator[T]) -> Iterator[list[T]]:
    while chunk := list(islice(items, CHUNK)):
        yield chunk


def _admit(predictions: list[Prediction], names: UniqueIds) -> list[Prediction]:
    """Return the predictions of one structure; an error in place of it if its name was used before."""
    first = predictions[0]
    record = names.check(StructureRecord(first.id, first.source, None, first.error))
    if record.id != first.id:
        predictions = [replace(p, id=record.id) for p in predictions]
    if record.error is None or record.error == first.error:
        return predictions
    return [p.failed(record.error) for p in predictions]


def _records(pieces: Iterable[WorkItem], order_disordered: OrderDisordered) -> Iterator[StructureRecord]:
    return (record for piece in pieces for record in iter_piece(piece, order_disordered=order_disordered))


def _predict_chunk(
    chunk: list[Any],
    models: "list[ModelRef]",
    settings: "InferenceSettings",
    order_disordered: OrderDisordered,
    function: Callable[[MemberPrediction], T],
) -> tuple[list[list[tuple[Prediction, T]]], list[str]]:
    """Run in a worker process: read files (or take structures) and predict each of them on one core.

    Also returns how disordered ones were ordered, as a warning would be shown by the wrong process.
    """
    import torch

    from cgcnn_ase.prediction.inference import inference

    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)
    infer = inference(models, **settings)
    records = iter(chunk) if not chunk or isinstance(chunk[0], StructureRecord) else _records(chunk, order_disordered)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        structures = [
            [(member.prediction, function(member)) for member in row]
            for part in _chunks(records)
            for row in infer.with_members(part)
        ]
    notes = []
    for warning in caught:
        if issubclass(warning.category, OrderingWarning):
            notes.append(str(warning.message))
        else:
            warnings.showwarning(warning.message, warning.category, warning.filename, warning.lineno)
    return structures, notes
