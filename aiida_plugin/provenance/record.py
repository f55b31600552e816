"""One node for all that a calculator computes in a relaxation, a Monte Carlo run or molecular dynamics."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import TYPE_CHECKING

from aiida.common.links import LinkType
from aiida.engine import ExitCode, Process
from aiida.orm import CalculationNode, Dict, QueryBuilder, Str
from ase.calculators.calculator import all_changes

from aiida_plugin.data.model import CGCNNModelData
from aiida_plugin.data.predictions import PredictionsData
from aiida_plugin.data.structures import StructureSetData
from cgcnn_ase.core.environment import package_version
from cgcnn_ase.prediction.results import Prediction, Predictions

if TYPE_CHECKING:
    from aiida.engine.processes.process_spec import ProcessSpec
    from aiida.orm import Data
    from ase import Atoms

    from cgcnn_ase.calculator import CGCNNCalculator


class RecordedCalculation(Process):
    """All that a calculator computed in a block ``with record(calculator)``, recorded when it was over.

    The work was done outside of AiiDA's engine, so this class tells what inputs, outputs and exit codes such a node
    has; it cannot be run.
    """

    _node_class = CalculationNode

    @classmethod
    def define(cls, spec: "ProcessSpec") -> None:
        """Declare inputs, outputs and exit codes."""
        super().define(spec)
        spec.input("model", valid_type=CGCNNModelData, help="The calculator's model.")
        spec.input("structures", valid_type=StructureSetData, help="Each structure that was computed, in order.")
        spec.input("settings", valid_type=Dict, help="Of the calculator.")
        spec.input("package_version", valid_type=Str, help="Version of cgcnn-ase that computed.")
        spec.output("predictions", valid_type=PredictionsData, help="A row for each structure.")
        spec.exit_code(400, "ERROR_STOPPED", message="stopped after {n} evaluations: {reason}")
        spec.exit_code(410, "ERROR_NOT_RUN", message="a recorded run cannot be run again: with record(calculator): ...")

    async def run(self) -> ExitCode:
        """Refuse: only `record` makes such nodes."""
        return self.exit_codes("ERROR_NOT_RUN")


PROCESS_TYPE = "aiida.calculations:cgcnn.record"  # of the nodes
STOPPED = 400  # exit status of a run that an error or a key ended


class Recording:
    """A context that keeps all that a calculator computes in it; made by `record`."""

    def __init__(self, calculator: "CGCNNCalculator", model: CGCNNModelData | None) -> None:
        self.calculator = calculator
        self._model = _model_node(calculator, model)
        self._frames: list[Atoms] = []
        self._predictions: list[Prediction] = []
        self._node: CalculationNode | None = None

    @property
    def node(self) -> CalculationNode:
        """The stored process, after the context.

        Raises
        ------
        ValueError
            While the context is open, and if nothing was computed in it: then nothing is stored.
        """
        if self._node is None:
            raise ValueError("nothing is recorded: the context is still open, or nothing was computed in it")
        return self._node

    def __len__(self) -> int:
        return len(self._frames)

    def __bool__(self) -> bool:
        return True

    def __enter__(self) -> "Recording":
        if "calculate" in vars(self.calculator):
            raise ValueError("this calculator is being recorded already")
        calculate = self.calculator.calculate

        def calculate_and_keep(
            atoms: "Atoms | None" = None,
            properties: Sequence[str] = ("energy",),
            system_changes: Sequence[str] = all_changes,
        ) -> None:
            try:
                calculate(atoms, properties, system_changes)
            except ValueError as error:
                self._keep(str(error))
                raise
            self._keep(None)

        self.calculator.reset()
        vars(self.calculator)["calculate"] = calculate_and_keep
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        del vars(self.calculator)["calculate"]
        if self._frames:
            self._node = self._store(None if kind is None else kind.__name__)  # its words may hold what is private

    def _keep(self, failed: str | None) -> None:
        """Keep the structure that was computed last, and the results."""
        atoms = self.calculator.atoms
        if atoms is None:
            return
        frame = atoms.copy()
        frame.calc = None
        name = str(len(self._frames))
        self._predictions.append(_prediction(self.calculator, frame, name, failed, self._model.sha256))
        self._frames.append(frame)

    def _store(self, reason: str | None) -> CalculationNode:
        predictions = PredictionsData.from_predictions(Predictions(self._predictions))
        node = CalculationNode(process_type=PROCESS_TYPE)
        node.set_process_label("record")
        node.label = f"{len(self._frames)} evaluations of {self.calculator.model.name}"
        for name, data in self._inputs().items():
            node.base.links.add_incoming(data.store(), link_type=LinkType.INPUT_CALC, link_label=name)
        node.set_process_state("finished")
        node.set_exit_status(0 if reason is None else STOPPED)
        if reason is not None:
            node.set_exit_message(f"stopped after {len(self._frames)} evaluations: {reason}")
        node.store()
        predictions.base.links.add_incoming(node, link_type=LinkType.CREATE, link_label="predictions")
        predictions.store()
        node.seal()
        return node

    def _inputs(self) -> "dict[str, Data]":
        settings = {key: self.calculator.parameters[key] for key in ("reference", "n_dropout", "seed", "model")}
        if not isinstance(settings["reference"], str):
            settings["reference"] = dict(settings["reference"])
        return {
            "model": self._model,
            "structures": StructureSetData.from_ase(self._frames),
            "settings": Dict(settings),
            "package_version": Str(package_version()),
        }


def record(calculator: "CGCNNCalculator", *, model: CGCNNModelData | None = None) -> Recording:
    """Record all that a calculator computes, as one process node: ``with record(atoms.calc) as recorded: opt.run()``.

    At the end ``recorded.node`` has the inputs ``model``, ``structures`` (each structure that was computed, in order,
    ids ``"0"``, ``"1"``, ...), ``settings`` and ``package_version``, and the output ``predictions``. If the block ends
    by an exception, what was computed until then is recorded, the node's exit status is 400 and its message names the
    kind of exception; the exception goes on. The calculator forgets what it computed before, so that the first
    structure is in it; one that ASE does not compute again, as nothing has changed, is in it once.

    Parameters
    ----------
    calculator
        Only this one is watched, and only while the block runs; several are several ``with`` items.
    model
        The node of its model; by default the stored one with the same weights, or else a new one.

    Raises
    ------
    TypeError
        If it is another kind of calculator.
    ValueError
        If the model is another one than the calculator's, or it is being recorded already.

    Notes
    -----
    The node is a plain `CalculationNode` of the type ``cgcnn.record``, which cannot be run. It is no calcfunction, as
    the work was done outside of AiiDA's engine, where the optimiser decided what to compute next. A calcfunction that
    returns predictions computed before would claim to have run; one that computes them again would double the work.
    Nothing says how the structures followed from one another, and nothing is cached.
    """
    from cgcnn_ase.calculator import CGCNNCalculator

    if not isinstance(calculator, CGCNNCalculator):
        raise TypeError(f"a {type(calculator).__name__} cannot be recorded; allowed is a CGCNNCalculator")
    return Recording(calculator, model)


def _model_node(calculator: "CGCNNCalculator", node: CGCNNModelData | None) -> CGCNNModelData:
    """The node of the calculator's model."""
    sha256 = calculator.model.sha256
    if node is not None:
        if node.sha256 != sha256:
            raise ValueError(
                f"the model node {node.pk} has the weights {node.sha256[:12]}..., the calculator has {sha256[:12]}..."
            )
        return node
    query = QueryBuilder().append(CGCNNModelData, tag="model", filters={"attributes.sha256": sha256})
    return query.order_by({"model": {"id": "asc"}}).first(flat=True) or _from_model(calculator)


def _from_model(calculator: "CGCNNCalculator") -> CGCNNModelData:
    """A node of a model that no stored node holds: the pretrained folder of its name, or else as it is in memory."""
    from cgcnn_ase.models.checkpoint import save_model
    from cgcnn_ase.models.registry import model_info, model_names

    model = calculator.model
    if model.name in model_names() and model_info(model.name).sha256 == model.sha256:
        return CGCNNModelData.get_or_create(model.name)
    with TemporaryDirectory(prefix="cgcnn-model-") as folder:
        node = CGCNNModelData.from_name(save_model(model, Path(folder) / "model"))
    if model.sha256 not in ("", node.sha256):
        raise ValueError(
            f"no node holds the file that {model.name!r} was loaded from; give it: "
            "record(calc, model=CGCNNModelData.get_or_create(FILE))"
        )
    return node.stored() or node.store()


def _prediction(
    calculator: "CGCNNCalculator", atoms: "Atoms", name: str, failed: str | None, model_sha256: str
) -> Prediction:
    """Results of the calculator for a structure; raw, uncalibrated parts of the uncertainty are not among them."""
    model, results = calculator.model, calculator.results if failed is None else {}
    key = model.target.name
    interval = results.get(f"{key}_interval")
    lower, upper = (None, None) if interval is None else map(float, interval)
    return Prediction(
        id=name,
        source="<atoms>",
        formula=atoms.get_chemical_formula(),
        n_atoms=len(atoms),
        value=results.get(key),
        std=results.get(f"{key}_std"),
        lower=lower,
        upper=upper,
        epistemic=None,
        aleatoric=None,
        in_domain=results.get("in_domain"),
        in_domain_reason=results.get("in_domain_reason") or "",
        domain_score=results.get("domain_score"),
        population=calculator.parameters["population"],
        second_opinion_std=results.get("second_opinion_std"),
        unit=model.target.unit,
        property=key,
        model=model.name,
        model_sha256=model_sha256,
        error=failed,
    )
