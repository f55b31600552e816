"""Folder of what was learned: labels, settings of the reference, tuned potentials, a table of calls.

Written as a whole after each label, so that a run that was killed loses no more than the call it was in.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from cgcnn_ase.core.environment import package_version
from cgcnn_ase.core.files import atomic_write
from cgcnn_ase.data.frames import join, read_frames
from cgcnn_ase.learning.reference import (
    ReferenceLabel,
    ask_reference,
    check_scheme,
    read_labels,
    reference_scheme,
    written,
)
from cgcnn_ase.learning.shared import SharedMemory, energy_offsets
from cgcnn_ase.learning.surface import PotentialSurface
from cgcnn_ase.models.checkpoint import load_folder

if TYPE_CHECKING:
    from ase.calculators.calculator import BaseCalculator

    from cgcnn_ase.data.frames import Frames
    from cgcnn_ase.learning.session import ReferenceRequest
    from cgcnn_ase.models.crystal_model import CrystalModel

LABELS, STATE, CALLS, POTENTIAL = "labels.extxyz", "state.json", "calls.csv", "potential"
_FORMAT = 1
_COLUMNS = ("call", "trajectory", "n_atoms", "energy", "energy_error", "force_error", "force_std", "reason")
# labels that a fine-tuning needs at least, and its epochs in units of the recipe's
MIN_FINETUNE, _EPOCHS = 10, 1.0


class LearningState:
    """Labels in their order, on disk and in memory, with the potential that they have been learned by.

    Parameters
    ----------
    folder
        See above; without, all is forgotten in the end.
    model
        The potential, if any.
    reference
        The calculator that is asked; None where it is never asked.
    finetune_every
        So many labels after which the potential is tuned on all labels; never by default. At least 10.
    replay
        Frames to learn beside (see :func:`cgcnn_ase.training.finetune.finetune`).

    Raises
    ------
    ReferenceChangedError
        If the labels in the folder come from other settings.
    ValueError
        If the folder holds something else, or a setting is out of range.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        model: "CrystalModel | None" = None,
        reference: "BaseCalculator | None" = None,
        finetune_every: int | None = None,
        replay: "object | None" = None,
    ) -> None:
        if finetune_every is not None and finetune_every < MIN_FINETUNE:
            raise ValueError(f"finetune_every must be {MIN_FINETUNE} or more, not {finetune_every}")
        if finetune_every is not None and (folder is None or model is None):
            raise ValueError("finetune_every needs a potential to tune, and a folder to keep it in")
        self.folder = None if folder is None else Path(folder)
        self.model, self.reference = model, reference
        self.finetune_every, self._replay = finetune_every, replay
        self.labels: list[ReferenceLabel] = []
        self.seconds = 0.0  # spent in the reference by this process
        self._known: dict[str, Any] = {}
        self._memories: dict[int, SharedMemory] = {}
        if self.folder is not None:
            self._open(self.folder)
        self.check_scheme()

    def _open(self, folder: Path) -> None:
        if folder.is_file():
            raise ValueError(f"{folder}: is a file; name a folder")
        if (folder / STATE).is_file():
            self._known = json.loads((folder / STATE).read_text())
            if self._known.get("format_version") != _FORMAT:
                raise ValueError(f"{folder / STATE}: format_version must be {_FORMAT}")
            self.labels = read_labels(folder / LABELS)
        elif folder.is_dir() and any(folder.iterdir()):
            raise ValueError(f"{folder}: holds no {STATE}, and is not empty; name a new folder")
        folder.mkdir(parents=True, exist_ok=True)

    def check_scheme(self) -> None:
        """Raise a :class:`ReferenceChangedError` where the reference is not that of the labels."""
        if self.reference is None:
            return
        scheme = reference_scheme(self.reference)
        if (known := self._known.get("scheme")) is not None:
            check_scheme(scheme, known, str(self.folder or "<memory>"))
        self._known["scheme"] = scheme

    def label(self, request: "ReferenceRequest", atoms: Any, trajectory: str, *, with_stress: bool) -> ReferenceLabel:
        """Ask the reference about a structure, and keep what it says."""
        from cgcnn_ase.learning.session import label_of

        if self.reference is None:
            raise ValueError("there is no reference to ask")
        self.check_scheme()
        started = monotonic()
        result = ask_reference(self.reference, atoms, with_stress=with_stress)
        self.seconds += monotonic() - started
        return self.add(label_of(atoms, request, trajectory, *result))

    def add(self, label: ReferenceLabel) -> ReferenceLabel:
        """Keep a label; return it as it will be read again."""
        (kept,) = read_labels(written([label]), text=True)
        self.labels.append(kept)
        if self.folder is not None:
            self._write(self.folder)
        return kept

    def _write(self, folder: Path) -> None:
        model = None if self.model is None else {"name": self.model.name, "sha256": self.model.sha256}
        state = {"format_version": _FORMAT, "package_version": package_version(), "model": model, **self._known}
        # labels last: with an older table of calls nothing is lost, and it is written anew with the next
        rows = [",".join(_COLUMNS), *(_row(k, label) for k, label in enumerate(self.labels))]
        atomic_write(folder / STATE, json.dumps(state, indent=1) + "\n")
        atomic_write(folder / CALLS, "\n".join(rows) + "\n")
        atomic_write(folder / LABELS, written(self.labels))

    def memory(self, n: int | None = None) -> SharedMemory:
        """The potential as it is with the first ``n`` labels, by default all: tuned where it was time."""
        n = len(self.labels) if n is None else n
        tuned = 0 if self.finetune_every is None else n // self.finetune_every * self.finetune_every
        if tuned not in self._memories:
            model = self.model if tuned == 0 else self._tuned(tuned)
            self._memories[tuned] = SharedMemory(None if model is None else PotentialSurface(model))
        return self._memories[tuned]

    def _tuned(self, n: int) -> "CrystalModel":
        """The potential tuned on the first n labels, from the folder where that has been done."""
        from cgcnn_ase.training.potential_run import fit_potential

        assert self.folder is not None
        assert self.model is not None
        run = self.folder / POTENTIAL / f"{n:05d}"
        if not (run / "best" / "config.json").is_file():
            fit_potential(
                self._frames(n), run, start=self.model, epochs_factor=_EPOCHS, val=0.1, test=0.0,
                overwrite=run.exists(),
                replay=None if self._replay is None else read_frames(self._replay),  # type: ignore[arg-type]
            )  # fmt: skip
        return load_folder(run / "best")

    def _frames(self, n: int) -> "Frames":
        """The first n labels, brought to the potential's own scale by one energy an element."""
        from dataclasses import replace

        assert self.model is not None
        labels = self.labels[:n]
        frames = read_frames([label.to_atoms() for label in labels])
        offsets = energy_offsets(PotentialSurface(self.model), labels)
        scale = str(self.model.training_record.get("scale", frames.scale))
        return join(replace(frames, energies=frames.energies - frames.counts @ offsets, scale=scale))

    def others(self, trajectory: str) -> list[ReferenceLabel]:
        """Labels of other structures from before the first of this one."""
        first = next((k for k, label in enumerate(self.labels) if label.trajectory == trajectory), len(self.labels))
        return [label for label in self.labels[:first] if label.trajectory != trajectory]

    def of(self, trajectory: str) -> list[ReferenceLabel]:
        """Labels of one structure."""
        return [label for label in self.labels if label.trajectory == trajectory]


def _row(k: int, label: ReferenceLabel) -> str:
    numbers: Mapping[str, float | None] = {name: getattr(label, name) for name in _COLUMNS[3:-1]}
    cells = ["" if number is None or not np.isfinite(number) else f"{number:.8g}" for number in numbers.values()]
    reason = label.reason.replace('"', "'")
    return ",".join([str(k + 1), label.trajectory, str(len(label.atoms)), *cells, f'"{reason}"'])
