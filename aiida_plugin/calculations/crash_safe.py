"""Jobs that run once, and keep their outputs, wherever the daemon dies."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from aiida.common.datastructures import CalcInfo, CodeInfo
from aiida.common.links import LinkType
from aiida.engine import CalcJob
from aiida.orm import RemoteData

if TYPE_CHECKING:
    from aiida.engine import CalcJobProcessSpec

# For the start of a job's script (a job's ``prepend_text``, or ``metadata.options.prepend_text`` of another plugin's):
# where the daemon dies between the start of the job and noting its number, it starts the job a second time in the same
# folder. The second waits for the first, and does nothing if that came to its end.
START_ONCE = """\
exec 9>> .cgcnn_lock; flock 9 2> /dev/null
if [ -e .cgcnn_done ]; then exit 0; fi
trap 'touch .cgcnn_done' EXIT"""
EXIT_CODE = "exit_code"  # the file of the command's exit code


class CrashSafeCalcJob(CalcJob):
    """A job of which the daemon may be killed at any moment; what it runs begins with `START_ONCE`.

    Where nothing else is asked for it is one process without MPI, read by the parser that the class names.
    """

    parser: ClassVar[str | None] = None  # entry point
    stdout: ClassVar[str]  # the file of the command's output
    stderr: ClassVar[str]  # the file of its messages

    @classmethod
    def define(cls, spec: "CalcJobProcessSpec") -> None:
        """Set the defaults of the options."""
        super().define(spec)
        options: Any = spec.inputs["metadata"]["options"]  # type: ignore[index]
        options["resources"].default = {"num_machines": 1, "num_mpiprocs_per_machine": 1}
        options["withmpi"].default = False
        if cls.parser is not None:
            options["parser_name"].default = cls.parser

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
