"""From what ``cgcnn.train`` left to model, metrics and results, or a numbered exit code in words."""

import csv
import json
import math
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from aiida.engine import ExitCode
from aiida.orm import ArrayData, Dict

from aiida_plugin.calculations.train import RUN, TrainCalculation, data_of, is_potential
from aiida_plugin.data.labels import NOT_CONVERGED, scheme_id
from aiida_plugin.data.model import CGCNNModelData
from aiida_plugin.parsers.retrieved import RetrievedParser
from cgcnn_ase.core.arrays import AnyArray
from cgcnn_ase.core.environment import ENVIRONMENT
from cgcnn_ase.structures.record import NOT_CONVERGED_STD

_DONE, _USAGE = 0, 2
CARD = "README.md"  # the model's
_BEST, _METRICS, _CONFIG, _HISTORY = "best", "metrics.json", "config.yaml", "history.csv"


class TrainParser(RetrievedParser):
    """Reads the retrieved folder only."""

    stderr = TrainCalculation.stderr

    def parse(self, **_: object) -> ExitCode | None:
        """Make the outputs, or say by number why there are none."""
        if failure := self._failure(self.command_exit_code()):
            return failure
        if (ended := self.check_environment(f"{RUN}/{ENVIRONMENT}")) is not None:
            return ended
        for file in (_METRICS, f"{_BEST}/config.json"):
            if not self._has(file):
                return self.fail("ERROR_MISSING_OUTPUT", file=f"{RUN}/{file}", reason=self.last_words())
        try:
            metrics = self._metrics()
        except ValueError as error:
            return self.fail("ERROR_CORRUPT_OUTPUT", file=f"{RUN}/{_METRICS}", reason=str(error))
        try:
            model = self._model()
        except (ValueError, OSError) as error:
            return self.fail("ERROR_CORRUPT_OUTPUT", file=f"{RUN}/{_BEST}", reason=str(error))
        facts = self._of_labels()
        model.label = _label_of(model, facts)
        split = "test" if "test" in metrics else "val"
        # energies, forces and stresses of a potential are no table of predictions
        if not is_potential(self._inputs) and (ended := self._results(split, model)) is not None:
            return ended
        self.out("model", model)
        self.out("metrics", Dict(facts | storable(metrics)))
        return None

    def _results(self, split: str, model: CGCNNModelData) -> ExitCode | None:
        """Give the predictions of a split as an output, or say why there are none."""
        file = f"{split}_results.csv"
        if not self._has(file):
            return self.fail("ERROR_MISSING_OUTPUT", file=f"{RUN}/{file}", reason=self.last_words())
        try:
            results = results_from(self.text(f"{RUN}/{file}") or "")
        except ValueError as error:
            return self.fail("ERROR_CORRUPT_OUTPUT", file=f"{RUN}/{file}", reason=str(error))
        results.base.attributes.set("unit", model.base.attributes.get("units")[0])
        self.out(f"{split}_results", results)
        return None

    @property
    def _inputs(self) -> dict[str, Any]:
        return {name: getattr(self.node.inputs, name) for name in self.node.inputs}

    def _failure(self, code: int | None) -> ExitCode | None:
        """The number of what went wrong, None if nothing did."""
        error = self.text(self.stderr) or ""
        if code == _DONE:
            return None
        if code is None:
            if not self._has(_CONFIG):
                return self.fail("ERROR_OUT_OF_WALLTIME_TOO_EARLY")
            n_done, n = self._epochs()
            return self.fail("ERROR_OUT_OF_WALLTIME", n_done=n_done, n=n)
        if code > 128 or code < 0:
            return self.fail("ERROR_KILLED", code=code)
        if "the training diverged" in error:
            return self.fail("ERROR_DIVERGED", reason=self.last_words())
        if "CUDA out of memory" in error or "OutOfMemoryError" in error:
            return self.fail("ERROR_OUT_OF_GPU_MEMORY", reason=self.last_words())
        return self.fail("ERROR_USAGE" if code == _USAGE else "ERROR_CRASHED", reason=self.last_words())

    def _model(self) -> CGCNNModelData:
        """The node of the run's best model; its files are those in the retrieved folder."""
        with TemporaryDirectory() as folder:
            for name in self.files:
                if name.startswith(f"{RUN}/{_BEST}/"):
                    content = self.retrieved.base.repository.get_object_content(name, "rb")
                    (Path(folder) / Path(name).name).write_bytes(content)
            (Path(folder) / CARD).write_text(self._card(), encoding="utf-8")
            model = CGCNNModelData(folder)
        if not self._labels_converged:
            model.base.attributes.set("labels_converged", False)
        return model

    @property
    def _labels_converged(self) -> bool:
        """Tell whether no label that the model, or the one that it was tuned from, learned from is marked."""
        inputs = self.node.inputs
        learned = [inputs.structures, inputs.model] if "model" in inputs else [inputs.structures]
        return all(each.base.attributes.get("labels_converged", None) is not False for each in learned)

    def _card(self) -> str:
        """The card of the model: what it was trained on, and what its users must know."""
        inputs, facts = self.node.inputs, self._of_labels()
        start = f"tuned from {', '.join(inputs.model.names)}" if "model" in inputs else "trained from scratch"
        lines = [f"# {facts['target']}, {start}", ""]
        if not self._labels_converged:
            lines += [f"**Not converged:** {NOT_CONVERGED}. {NOT_CONVERGED_STD}.", ""]
        lines += [
            f"Made by AiiDA's job {self.node.uuid} (`cgcnn.train`) of {facts['n_train']} labels to learn from, "
            f"{facts['n_val']} to validate and {facts['n_test']} to test on, of the set {inputs.structures.uuid}.",
        ]
        scheme = facts.get("label_scheme")
        if isinstance(scheme, dict):
            rows = [f"| {name} | {json.dumps(value)} |" for name, value in sorted(scheme.items())]
            lines += ["", "| the labels | |", "|---|---|", *rows]
        return "\n".join(lines) + "\n"

    def _metrics(self) -> dict[str, object]:
        result = json.loads(self.text(f"{RUN}/{_METRICS}") or "")
        if not isinstance(result, dict) or not {"val", "test"} & result.keys():
            raise ValueError("it holds no figures of val or test")
        return result

    def _of_labels(self) -> dict[str, object]:
        """Facts of the model's training set: counts, and what made the labels."""
        inputs = self.node.inputs
        data = data_of(self._inputs)
        result: dict[str, object] = {
            "target": inputs.target.value,
            "trained_on": inputs.structures.uuid,
            "n_epochs": max(self._epochs_done(), default=0),
            "n_members": len(self._epochs_done()),
            "split_by": data.split_by,
            **{f"n_{split}": data.count(split) for split in ("train", "val", "test")},
            "n_unlabelled": sum(label is None for label in data.labels),
        }
        if data.scheme is not None:
            result |= {"label_scheme": data.scheme, "label_scheme_id": scheme_id(data.scheme)}
        if not self._labels_converged:
            result["labels_converged"] = False
        return result

    def _has(self, name: str) -> bool:
        """Tell whether the run left a file."""
        return f"{RUN}/{name}" in self.files

    def _epochs_done(self) -> list[int]:
        """How many epochs each member has done."""
        histories = [name for name in self.files if name.endswith(f"/{_HISTORY}")]
        return [max(0, len((self.text(name) or "").splitlines()) - 1) for name in histories]

    def _epochs(self) -> tuple[int, int]:
        """How many epochs all members together have done, and how many there were to do."""
        import yaml

        config: dict[str, Any] = yaml.safe_load(self.text(f"{RUN}/{_CONFIG}") or "") or {}
        config = config.get("train", config)  # of a potential its run has more than the settings
        return sum(self._epochs_done()), int(config.get("epochs", 0)) * int(config.get("n_members", 1))


def _label_of(model: CGCNNModelData, facts: Mapping[str, Any]) -> str:
    """Name of a trained model that tells it from others of the same name: what it learned from, and its weights."""
    scheme = facts.get("label_scheme") or {}
    made_by = " ".join(str(scheme[key]) for key in ("engine", "functional") if scheme.get(key))
    learned = f"{facts['n_train'] + facts['n_val']} labels" + (f" of {made_by}" if made_by else "")
    return f"{model.base.attributes.get('name')} ({learned}, {model.sha256[:8]})"


def results_from(text: str) -> ArrayData:
    """The columns of a results file as arrays: ``id`` is text, ``in_domain`` bool, the others numbers."""
    rows = list(csv.DictReader(StringIO(text)))
    if not rows or "id" not in rows[0]:
        raise ValueError("it holds no row with an id")
    results = ArrayData()
    for name in rows[0]:
        column = [row[name] for row in rows]
        if name is None or None in column:
            raise ValueError("a row has another number of fields than the header")
        if name == "id":
            array: AnyArray = np.array(column)
        elif set(column) <= {"True", "False"}:
            array = np.array([value == "True" for value in column])
        elif not any(column):
            continue  # of a model that is not calibrated
        else:
            array = np.array([float(value or "nan") for value in column])
        results.set_array(name, array)
    return results


def storable(values: dict[str, object], where: str = "") -> dict[str, object]:
    """The values without those that are not finite, which AiiDA cannot store; ``undefined`` lists their names."""
    undefined: list[str] = []
    plain = _finite(values, where, undefined)
    return plain | ({"undefined": undefined} if undefined else {})


def _finite(values: dict[str, object], where: str, undefined: list[str]) -> dict[str, object]:
    result: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            result[name] = _finite(value, f"{where}{name}.", undefined)
        elif value is None or (isinstance(value, float) and not math.isfinite(value)):
            undefined.append(f"{where}{name}")
        else:
            result[name] = value
    return result
