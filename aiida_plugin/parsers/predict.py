"""Parser of ``cgcnn.predict``: the retrieved folder -> predictions, or a numbered exit code in words."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from aiida.engine import ExitCode
from aiida.orm import Dict

from aiida_plugin.calculations.predict import FAILURES, PREDICTIONS, PredictCalculation
from aiida_plugin.data.predictions import PredictionsData
from aiida_plugin.data.structures import as_set
from aiida_plugin.parsers.retrieved import RetrievedParser
from cgcnn_ase.core.environment import ENVIRONMENT

if TYPE_CHECKING:
    import pandas as pd

_NAMED = 5  # ids that a message names


class PredictParser(RetrievedParser):
    """Reads what was retrieved only; the table of predictions is retrieved for the time of parsing."""

    stderr = PredictCalculation.stderr
    _temporary: Path | None = None

    def parse(self, retrieved_temporary_folder: str | None = None, **_: object) -> ExitCode | None:
        """Make the outputs, or say by number why there are none."""
        if retrieved_temporary_folder is not None:
            self._temporary = Path(retrieved_temporary_folder)
        self.ids = as_set(self.node.inputs.structures).ids
        with self._predictions_file() as table:
            if (ended := self.command_failure(len(self.ids), table)) is not None:
                return ended
        if (ended := self.check_environment(ENVIRONMENT)) is not None:
            return ended
        with self._predictions_file() as table:
            is_there = {PREDICTIONS: table is not None, FAILURES: FAILURES in self.files}
        for file, there in is_there.items():
            if not there:
                return self.fail("ERROR_MISSING_OUTPUT", file=file, reason=self.last_words())
        failures = [(row["id"], row["error"]) for row in csv.DictReader(StringIO(self.text(FAILURES) or ""))]
        return self._make_outputs(failures)

    def _make_outputs(self, failures: list[tuple[str, str]]) -> ExitCode | None:
        ids, sha256 = self.ids, self.node.inputs.model.sha256
        if len(failures) == len(ids):
            return self.fail("ERROR_ALL_FAILED", reason=failures[0][1])
        try:
            with self._predictions_file() as file:
                assert file is not None
                by_model = PredictionsData.from_csv(file, failures=failures)
        except ValueError as error:
            return self.fail("ERROR_CORRUPT_OUTPUT", file=PREDICTIONS, reason=str(error))
        frames = {name: predictions.to_frame() for name, predictions in by_model.items()}
        for frame in frames.values():
            known = set(frame["id"]) | {name for name, _ in failures}
            if missing := [name for name in ids if name not in known]:
                some = ", ".join(missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
                return self.fail("ERROR_INCOMPLETE_OUTPUT", n_missing=len(missing), n=len(ids), ids=some)
            if set(frame["model_sha256"]) != {sha256}:
                others = ", ".join(sorted(set(frame["model_sha256"])))
                return self.fail("ERROR_MODEL_MISMATCH", found=others, asked=sha256)
        for name, predictions in by_model.items():
            self.out("predictions" if len(by_model) == 1 else f"by_model.{name.replace('-', '_')}", predictions)
        models = {name.replace(".", "_"): _of_model(frame) for name, frame in frames.items()}
        self.out("summary", Dict({"n_structures": len(ids), "n_failed": len(failures), "models": models}))
        return None

    @contextmanager
    def _predictions_file(self) -> Iterator[Path | None]:
        """The table, None if there is none; jobs of early versions have it in the retrieved folder."""
        if self._temporary is not None and (self._temporary / PREDICTIONS).is_file():
            yield self._temporary / PREDICTIONS
        elif PREDICTIONS in self.files:
            with self.retrieved.base.repository.as_path(PREDICTIONS) as file:
                yield file
        else:
            yield None


def _of_model(frame: "pd.DataFrame") -> dict[str, object]:
    """Plain numbers of a model's predictions; what is not known is left out, as AiiDA stores no NaN."""
    known = frame["in_domain"].dropna()
    return {
        "n_predictions": len(frame),
        "mean": float(frame["value"].mean()),
        "lowest": float(frame["value"].min()),
        "highest": float(frame["value"].max()),
        "unit": str(frame["unit"].iloc[0]),
        "property": str(frame["property"].iloc[0]),
        **({"n_in_domain": int(known.astype(bool).sum())} if len(known) else {}),
    }
