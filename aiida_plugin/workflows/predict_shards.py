"""``cgcnn.predict_shards``: a set too large for one machine, predicted in shards by jobs of their own."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from aiida.engine import ExitCode, ToContext, WorkChain, while_
from aiida.orm import CalcJobNode, Int

from aiida_plugin.calculations.functions.predictions import cut, join
from aiida_plugin.calculations.predict import SHARDS_OF_OPINIONS, PredictCalculation, asks_second_opinions
from aiida_plugin.data.structures import StructureSetData
from aiida_plugin.workflows.idempotent import call_once, submit_once

if TYPE_CHECKING:
    from aiida.engine.processes.workchains.workchain import WorkChainSpec
    from aiida.orm import Data, ProcessNode


class PredictShardsWorkChain(WorkChain):
    """Cut a set into shards, predict each by a job of its own, try failed ones again alone, and join the predictions.

    The inputs are those of ``cgcnn.predict``, with the number of shards; the predictions are those that one job would
    give, in the order of the set. A shard of which no structure can be predicted adds to the failures.
    """

    @classmethod
    def define(cls, spec: "WorkChainSpec") -> None:
        """Declare inputs, outputs, steps and exit codes."""
        super().define(spec)
        spec.expose_inputs(PredictCalculation, exclude=("metadata",))
        spec.inputs["structures"].valid_type = StructureSetData
        spec.expose_inputs(PredictCalculation, namespace="job", include=("metadata",))
        spec.input("n_shards", valid_type=Int, validator=_positive, help="How many jobs the set is divided among.")
        spec.input(
            "max_attempts",
            valid_type=Int,
            validator=_positive,
            default=lambda: Int(3),
            help="How often a shard is tried before the work chain gives up.",
        )
        spec.input(
            "max_parallel",
            valid_type=Int,
            validator=_positive,
            required=False,
            help="Jobs at the same time; by default all.",
        )
        spec.inputs.validator = _check_inputs
        spec.expose_outputs(PredictCalculation, include=("predictions", "by_model"))
        spec.outline(
            cls.cut_structures, while_(cls.has_shards_left)(cls.submit_shards, cls.inspect_shards), cls.join_predictions
        )
        spec.exit_code(401, "ERROR_CANNOT_CUT", message="the structures cannot be cut into shards: {reason}")
        spec.exit_code(
            410,
            "ERROR_SHARD_FAILED",
            message="{shard} failed {n} times, last as job {pk} with exit code {status}: {reason}. Run the work chain "
            "again with caching enabled for cgcnn.predict: shards that succeeded are not computed again",
        )
        spec.exit_code(420, "ERROR_ALL_FAILED", message="no structure could be predicted; the first: {reason}")

    def cut_structures(self) -> ExitCode | None:
        """Cut the set."""
        n, total = self.inputs.n_shards.value, len(self.inputs.structures)
        if n > total:
            reason = f"there are {total} of them and {n} shards; allowed are 1 to {total} shards"
            return self.exit_codes("ERROR_CANNOT_CUT").format(reason=reason)
        shards = call_once(self, "cut", cut, structures=self.inputs.structures, n_shards=self.inputs.n_shards)
        self.ctx.shards = dict(sorted(shards.items()))
        self.ctx.left = list(self.ctx.shards)
        self.ctx.attempts = dict.fromkeys(self.ctx.left, 0)
        self.ctx.running = []
        return None

    def has_shards_left(self) -> bool:
        """Tell whether a shard is still to be predicted."""
        return bool(self.ctx.left)

    def submit_shards(self) -> "dict[str, ProcessNode]":
        """Submit the jobs of the shards that are left, or as many as may run at once."""
        at_once = self.inputs.max_parallel.value if "max_parallel" in self.inputs else len(self.ctx.left)
        self.ctx.running = self.ctx.left[:at_once]
        return ToContext(**{name: self._submit(name) for name in self.ctx.running})

    def inspect_shards(self) -> ExitCode | None:
        """Keep the shards that failed for another attempt, or give up in words."""
        failed = []
        codes = PredictCalculation.exit_codes
        for name in self.ctx.running:
            job: CalcJobNode = self.ctx[name]
            self.ctx.attempts[name] += 1
            if job.is_finished_ok or job.exit_status == codes.ERROR_ALL_FAILED.status:
                continue
            # trying again would change nothing
            is_final = job.exit_status in (codes.ERROR_MODEL_MISMATCH.status, codes.ERROR_VERSIONS.status)
            if is_final or self.ctx.attempts[name] >= self.inputs.max_attempts.value:
                return self.exit_codes("ERROR_SHARD_FAILED").format(
                    shard=name, n=self.ctx.attempts[name], pk=str(job.pk), status=str(job.exit_status), reason=_why(job)
                )
            self.report(f"{name} failed as job {job.pk} ({_why(job)}); it is tried again")
            failed.append(name)
        self.ctx.left = [name for name in self.ctx.left if name not in self.ctx.running or name in failed]
        return None

    def join_predictions(self) -> ExitCode | None:
        """Join the predictions, those of each model of its own."""
        jobs = {name: self.ctx[name] for name in self.ctx.shards}
        done = [job for job in jobs.values() if job.is_finished_ok]
        if not done:
            return self.exit_codes("ERROR_ALL_FAILED").format(reason=_why(next(iter(jobs.values()))))
        for model in [None] if "predictions" in done[0].outputs else done[0].outputs.by_model:
            output, label = ("predictions", "join") if model is None else (f"by_model.{model}", f"join_{model}")
            shards = {name: _predictions(job, model) for name, job in jobs.items()}
            self.out(output, call_once(self, label, join, **shards))
        return None

    def _submit(self, name: str) -> "ProcessNode":
        inputs = self.exposed_inputs(PredictCalculation, "job") | self.exposed_inputs(PredictCalculation)
        inputs["structures"] = self.ctx.shards[name]
        inputs["metadata"] = {**inputs.get("metadata", {}), "label": name}
        attempt = self.ctx.attempts[name] + 1
        return submit_once(self, name if attempt == 1 else f"{name}_attempt_{attempt}", PredictCalculation, **inputs)


def _predictions(job: CalcJobNode, model: str | None) -> "Data":
    """Predictions of a shard's job, by one of several models; what it retrieved where it has none."""
    if not job.is_finished_ok:
        return cast("Data", job.outputs.retrieved)
    return cast("Data", job.outputs.predictions if model is None else job.outputs.by_model[model])


def _why(job: CalcJobNode) -> str:
    return job.exit_message or f"the job is {job.process_state}"


def _positive(value: Int | None, _: object) -> str | None:
    return None if value is None or value.value >= 1 else f"must be at least 1, not {value.value}"


def _check_inputs(inputs: Mapping[str, Any], _: object) -> str | None:
    return SHARDS_OF_OPINIONS if asks_second_opinions(inputs) else None
