"""Fine-tuning: the one function behind Python, ``cgcnn-ase finetune``, ``cgcnn-ase train --from`` and AiiDA."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cgcnn_ase.data.prepare import TaskName
    from cgcnn_ase.models.crystal_model import CrystalModel
    from cgcnn_ase.training.finetune_recipe import FitResult
    from cgcnn_ase.training.run_data import DataLike
    from cgcnn_ase.training.start_model import Frozen


def finetune(
    model: "str | Path | CrystalModel",
    data: "DataLike",
    output: str | Path,
    *,
    target: str | Sequence[str] = (),
    task: "TaskName" = "regression",
    unit: str = "",
    scale: str | None = None,
    config: Path | None = None,
    settings: Mapping[str, object] | None = None,
    freeze: "Frozen | None" = None,
    epochs_factor: float = 1.0,
    replay: "DataLike | None" = None,
    n_replay: int | None = None,
    val: float | None = None,
    test: float | None = None,
    name: str = "",
    workers: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> "FitResult":
    """Tune a model on labelled structures, by a recipe that goes by their number (docs/how_to/finetune.md).

    A potential is tuned on frames with energies, forces and, where they have it, stress
    (:func:`cgcnn_ase.data.frames.read_frames` reads what holds them).

    Graph, network, number of members and kind of head are the model's. For its own property it keeps its head and the
    scale of its targets, and its calibration where there are fewer than 20 labels to calibrate on.

    Parameters
    ----------
    model
        Pretrained name, folder of a model or run, original CGCNN file, or a loaded model.
    data
        Folder of a data set or of prepared data, prepared data, or structures whose info or results hold the labels.
    output
        Folder of the run; the model is ``output/best``.
    target, task, unit
        Columns to learn and what they are; by default the model's own target.
    scale
        Of the labels, where they are energies: ``mp2020``, ``uncorrected``, ... or ``other:LABEL``
        (:mod:`cgcnn_ase.energies.scales`). The tuned model is on it. By default what the data states (a column
        ``scale``, or the corrections that ``fetch`` writes), else the model's own.
    config, settings
        YAML file, and settings by name that override it: fields of :class:`~cgcnn_ase.training.config.TrainConfig`.
        Both override the recipe.
    freeze
        Layers that stay: none, embedding or convolutions; by default by the number of labels.
    epochs_factor
        Epochs in units of the recipe's.
    replay, n_replay
        Data that the model has learned before, and how many of them to learn beside; by default as many as there are
        new ones, at least 500.
    val, test
        Parts for validation and test where the data have no split, 0.1 each by default.
    name, workers, resume, overwrite
        Name of the model, members trained at the same time, and whether to go on with the run in ``output``, or to put
        a new one in its place.
    progress, tell
        Whether to show progress bars, and what is called with the counts of the splits.

    Returns
    -------
    FitResult
        Folder of the model, metrics, and errors before and after.

    Raises
    ------
    ValueError
        Naming the setting, structure or file that cannot be used, and what is allowed.

    Examples
    --------
    >>> finetune("formation-energy-per-atom", labelled, "RUN")  # doctest: +SKIP
    """
    from cgcnn_ase.training.fit import fit  # as importing the package must not need more than training itself does

    return fit(
        data, output, start=model, target=target, task=task, unit=unit, scale=scale, config=config,
        settings=settings, freeze=freeze, epochs_factor=epochs_factor, replay=replay, n_replay=n_replay, val=val,
        test=test, name=name, workers=workers, resume=resume, overwrite=overwrite, progress=progress, tell=tell,
    )  # fmt: skip
