"""Jobs that run once, and keep their outputs, wherever the daemon dies."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from aiida.common.datastructures import CalcInfo, CodeInfo
from aiida.common.links import LinkType
from aiida.engine import CalcJob
from aiida.orm import Dict, RemoteData

from aiida_plugin.engines.base import START_ONCE as START_ONCE
from aiida_plugin.engines.base import is_in_this_environment
from cgcnn_ase.core.environment import checkout_state, installed_versions

if TYPE_CHECKING:
    from aiida.engine import CalcJobProcessSpec

EXIT_CODE = "exit_code"  # the file of the command's exit code
VERSIONS_DIFFER = (
    334,
    "ERROR_VERSIONS",
    "the job ran with others than asked: {differences}; bring both to one version, ask for what is there (inputs "
    "package_version and versions), or allow it: metadata.options.check_versions = False",
)
CHECKOUT = ("commit", "changes")  # what `versions` holds beside packages: of the checkout that cgcnn-ase runs from


class CrashSafeCalcJob(CalcJob):
    """A job of which the daemon may be killed at any moment; what it runs begins with `START_ONCE`.

    Where nothing else is asked for it is one process without MPI, read by the parser that the class names.

    The job reports what it ran with. The output ``environment`` holds that, and the job fails if a version is another
    than asked: than ``versions``, which by default are those of the submitter, as far as they are those of the job too.
    """

    parser: ClassVar[str | None] = None  # entry point
    stdout: ClassVar[str]  # the file of the command's output
    stderr: ClassVar[str]  # the file of its messages

    def __init__(self, inputs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        filled = dict(inputs or {})
        if "versions" not in filled and (versions := self.expected_versions(filled)):
            filled["versions"] = Dict(versions)
        super().__init__(filled, **kwargs)

    @classmethod
    def expected_versions(cls, inputs: Mapping[str, Any]) -> dict[str, str]:
        """Versions that the job will run with, as far as they are known beforehand, so that caching tells them apart.

        Those of the checkout, and, where the code runs in this Python's environment, those of its packages.
        """
        return checkout_state() | (installed_versions() if is_in_this_environment(inputs.get("code")) else {})

    @classmethod
    def define(cls, spec: "CalcJobProcessSpec") -> None:
        """Set the defaults of the options."""
        super().define(spec)
        options: Any = spec.inputs["metadata"]["options"]  # type: ignore[index]
        options["resources"].default = {"num_machines": 1, "num_mpiprocs_per_machine": 1}
        options["withmpi"].default = False
        if cls.parser is not None:
            options["parser_name"].default = cls.parser
        spec.input(
            "metadata.options.check_versions",
            valid_type=bool,
            default=True,
            help="Whether the job fails if it ran with other versions than asked.",
        )
        spec.input(
            "versions",
            valid_type=Dict,
            required=False,
            help="Versions of the packages that are to run, and commit of the checkout of cgcnn-ase; by default those "
            "of the submitter, where they are the job's.",
        )
        spec.output(
            "environment",
            valid_type=Dict,
            required=False,
            help="What the job ran with: versions, commit, host, threads, device, resolved engine, seeds.",
        )

    def job(self, *arguments: str, retrieve: Iterable[str | tuple[str, str, int]]) -> CalcInfo:
        """Run the code with these arguments; its output, messages and exit code are retrieved with the other files."""
        code = CodeInfo()
        code.code_uuid, code.cmdline_params = self.inputs.code.uuid, list(arguments)
        code.stdout_name, code.stderr_name = self.stdout, self.stderr
        job = CalcInfo()
        job.codes_info = [code]
        job.prepend_text, job.append_text = START_ONCE, f"echo $? > {EXIT_CODE}"
        job.retrieve_list = [*retrieve, self.stdout, self.stderr, EXIT_CODE]
        return job

    def load_instance_state(self, saved_state: Any, load_context: Any) -> None:
        """Go on from a checkpoint, with the ``remote_folder`` that AiiDA forgets if it dies just after the upload.

        The node is marked as uploaded before its ``remote_folder`` is linked; in between the upload is not done again.
        """
        super().load_instance_state(saved_state, load_context)
        node = self.node
        if node.get_state() is None or node.is_terminated or "remote_folder" in self.outputs:
            return
        links = node.base.links.get_outgoing(link_type=LinkType.CREATE).all_link_labels()
        if "remote_folder" not in links and (folder := node.get_remote_workdir()) is not None:
            self.out("remote_folder", RemoteData(computer=node.computer, remote_path=folder))
