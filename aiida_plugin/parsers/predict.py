"""What ``cgcnn.predict`` left in the retrieved folder -> predictions, or a numbered exit code in words."""

import csv
from io import StringIO
from typing import Any

from aiida.engine import ExitCode
from aiida.orm import Dict

from aiida_plugin.calculations.predict import EXIT_CODE, FAILURES, PREDICTIONS, STDERR
from aiida_plugin.data.predictions import PredictionsData
from aiida_plugin.parsers.retrieved import RetrievedParser

#: exit codes of the command: all done, and some structures failed
_ALL, _SOME, _USAGE = 0, 1, 2
#: ids that a message names
_NAMED = 5


class PredictParser(RetrievedParser):
    """Reads the retrieved folder only."""

    stderr, exit_code = STDERR, EXIT_CODE

    def parse(self, **_: Any) -> ExitCode | None:
        """Make the outputs, or say by number why there are none."""
        n = len(self.node.inputs.structures)
        code = self.command_exit_code()
        if code == _USAGE:
            return self.fail("ERROR_USAGE", reason=self.last_words())
        if code is None:
            return self.fail("ERROR_OUT_OF_WALLTIME", n_done=self._n_done(), n=n)
        if code > 128 or code < 0:
            return self.fail("ERROR_KILLED", code=code)
        if code not in (_ALL, _SOME):
            return self.fail("ERROR_USAGE", reason=self.last_words())
        for file in (PREDICTIONS, FAILURES):
            if file not in self.files:
                return self.fail("ERROR_MISSING_OUTPUT", file=file, reason=self.last_words())
        failures = [(row["id"], row["error"]) for row in csv.DictReader(StringIO(self.text(FAILURES) or ""))]
        return self._make_outputs(failures)

    def _make_outputs(self, failures: list[tuple[str, str]]) -> ExitCode | None:
        asked = self.node.inputs.structures.ids
        if len(failures) == len(asked):
            return self.fail("ERROR_ALL_FAILED", reason=failures[0][1])
        try:
            result = self._predictions(failures)
        except ValueError as error:
            return self.fail("ERROR_CORRUPT_OUTPUT", file=PREDICTIONS, reason=str(error))
        wanted = self.node.inputs.model.sha256
        frames = {name: predictions.to_frame() for name, predictions in result.items()}
        for frame in frames.values():
            known = set(frame["id"]) | {name for name, _ in failures}
            if missing := [name for name in asked if name not in known]:
                some = ", ".join(missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
                return self.fail("ERROR_INCOMPLETE_OUTPUT", n_missing=len(missing), n=len(asked), ids=some)
            if set(frame["model_sha256"]) != {wanted}:
                others = ", ".join(sorted(set(frame["model_sha256"])))
                return self.fail("ERROR_MODEL_MISMATCH", found=others, asked=wanted)
        if len(result) == 1:
            self.out("predictions", next(iter(result.values())))
        else:
            for name, predictions in result.items():
                self.out(f"by_model.{name.replace('-', '_')}", predictions)
        self.out("summary", Dict(_summary(frames, n_structures=len(asked), n_failed=len(failures))))
        return None

    def _predictions(self, failures: list[tuple[str, str]]) -> dict[str, PredictionsData]:
        with self.retrieved.base.repository.as_path(PREDICTIONS) as file:
            return PredictionsData.from_csv(file, failures=failures)

    def _n_done(self) -> int:
        return max(0, len((self.text(PREDICTIONS) or "").splitlines()) - 1)


def _summary(frames: dict[str, Any], *, n_structures: int, n_failed: int) -> dict[str, Any]:
    """Counts, and of each model plain numbers; what is not known is left out, as AiiDA stores no NaN."""
    return {
        "n_structures": n_structures,
        "n_failed": n_failed,
        "models": {name.replace(".", "_"): _of_model(frame) for name, frame in frames.items()},
    }


def _of_model(frame: Any) -> dict[str, Any]:
    known = frame["in_domain"].dropna()
    result = {
        "n_predictions": len(frame),
        "mean": float(frame["value"].mean()),
        "lowest": float(frame["value"].min()),
        "highest": float(frame["value"].max()),
        "unit": str(frame["unit"].iloc[0]),
        "property": str(frame["property"].iloc[0]),
    }
    return result | ({"n_in_domain": int(known.astype(bool).sum())} if len(known) else {})
