"""What ``cgcnn.predict`` left in the retrieved folder -> predictions, or a numbered exit code in words."""

import csv
from io import StringIO
from typing import Any

from aiida.engine import ExitCode
from aiida.orm import Dict
from aiida.parsers import Parser

from aiida_plugin.calculations.predict import EXIT_CODE, FAILURES, PREDICTIONS, STDERR
from aiida_plugin.data.predictions import PredictionsData

#: exit codes of the command: all done, and some structures failed
_ALL, _SOME, _USAGE = 0, 1, 2
#: ids that a message names
_NAMED = 5


class PredictParser(Parser):
    """Reads the retrieved folder only."""

    def parse(self, **_: Any) -> ExitCode | None:
        """Make the outputs, or say by number why there are none."""
        n = len(self.node.inputs.structures)
        code = self._exit_code()
        if code == _USAGE:
            return self._fail("ERROR_USAGE", reason=self._last_words())
        if code is None:
            return self._fail("ERROR_OUT_OF_WALLTIME", n_done=self._n_done(), n=n)
        if code > 128 or code < 0:
            return self._fail("ERROR_KILLED", code=code)
        if code not in (_ALL, _SOME):
            return self._fail("ERROR_USAGE", reason=self._last_words())
        for file in (PREDICTIONS, FAILURES):
            if not self._has(file):
                return self._fail("ERROR_MISSING_OUTPUT", file=file, reason=self._last_words())
        failures = [(row["id"], row["error"]) for row in csv.DictReader(StringIO(self._text(FAILURES) or ""))]
        return self._make_outputs(failures)

    def _make_outputs(self, failures: list[tuple[str, str]]) -> ExitCode | None:
        asked = self.node.inputs.structures.ids
        if len(failures) == len(asked):
            return self._fail("ERROR_ALL_FAILED", reason=failures[0][1])
        try:
            found = self._predictions(failures)
        except ValueError as error:
            return self._fail("ERROR_CORRUPT_OUTPUT", file=PREDICTIONS, reason=str(error))
        wanted = self.node.inputs.model.sha256
        frames = {name: predictions.to_frame() for name, predictions in found.items()}
        for frame in frames.values():
            known = set(frame["id"]) | {name for name, _ in failures}
            if missing := [name for name in asked if name not in known]:
                some = ", ".join(missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
                return self._fail("ERROR_INCOMPLETE_OUTPUT", n_missing=len(missing), n=len(asked), ids=some)
            if set(frame["model_sha256"]) != {wanted}:
                others = ", ".join(sorted(set(frame["model_sha256"])))
                return self._fail("ERROR_MODEL_MISMATCH", found=others, asked=wanted)
        if len(found) == 1:
            self.out("predictions", next(iter(found.values())))
        else:
            for name, predictions in found.items():
                self.out(f"by_model.{name.replace('-', '_')}", predictions)
        self.out("summary", Dict(_summary(frames, n_structures=len(asked), n_failed=len(failures))))
        return None

    def _fail(self, name: str, **words: object) -> ExitCode:
        code: ExitCode = getattr(self.exit_codes, name).format(**words)
        return code

    def _predictions(self, failures: list[tuple[str, str]]) -> dict[str, PredictionsData]:
        with self.retrieved.base.repository.as_path(PREDICTIONS) as file:
            return PredictionsData.from_csv(file, failures=failures)

    def _has(self, name: str) -> bool:
        return name in self.retrieved.base.repository.list_object_names()

    def _text(self, name: str) -> str | None:
        return str(self.retrieved.base.repository.get_object_content(name, "r")) if self._has(name) else None

    def _exit_code(self) -> int | None:
        """That of the command; None where the job ended before it."""
        text = (self._text(EXIT_CODE) or "").strip()
        return int(text) if text.lstrip("-").isdigit() else None

    def _last_words(self) -> str:
        lines = (self._text(STDERR) or "").strip().splitlines()
        return lines[-1].removeprefix("cgcnn-ase: ") if lines else "it said nothing"

    def _n_done(self) -> int:
        return max(0, len((self._text(PREDICTIONS) or "").splitlines()) - 1)


def _summary(frames: dict[str, Any], *, n_structures: int, n_failed: int) -> dict[str, Any]:
    """Counts, and of each model plain numbers; what is not known is left out, as AiiDA stores no NaN."""
    return {
        "n_structures": n_structures,
        "n_failed": n_failed,
        "models": {name.replace(".", "_"): _of_model(frame) for name, frame in frames.items()},
    }


def _of_model(frame: Any) -> dict[str, Any]:
    known = frame["in_domain"].dropna()
    found = {
        "n_predictions": len(frame),
        "mean": float(frame["value"].mean()),
        "lowest": float(frame["value"].min()),
        "highest": float(frame["value"].max()),
        "unit": str(frame["unit"].iloc[0]),
        "property": str(frame["property"].iloc[0]),
    }
    return found | ({"n_in_domain": int(known.astype(bool).sum())} if len(known) else {})
