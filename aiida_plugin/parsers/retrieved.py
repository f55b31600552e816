"""Base of the parsers: what all of them read of the retrieved folder, which is all that they may read."""

from functools import cached_property

from aiida.engine import ExitCode
from aiida.parsers import Parser

from aiida_plugin.calculations.crash_safe import EXIT_CODE


class RetrievedParser(Parser):
    """A parser of a job that leaves its messages and its exit code in files."""

    stderr: str  # the file of the command's messages

    def fail(self, name: str, **words: object) -> ExitCode:
        """Return the exit code of a name, its message filled in."""
        return self.exit_codes(name).format(**{key: str(value) for key, value in words.items()})

    @cached_property
    def files(self) -> set[str]:
        """The names of all files, with their folders."""
        return {path.as_posix() for path in self.retrieved.base.repository.glob()}

    def text(self, name: str) -> str | None:
        """Read the text of a file, None if there is none."""
        return str(self.retrieved.base.repository.get_object_content(name, "r")) if name in self.files else None

    def command_exit_code(self) -> int | None:
        """Read that of the command; None where the job ended before it."""
        text = (self.text(EXIT_CODE) or "").strip()
        return int(text) if text.lstrip("-").isdigit() else None

    def last_words(self) -> str:
        """Read the last line of the command's messages."""
        lines = (self.text(self.stderr) or "").strip().splitlines()
        return lines[-1].removeprefix("cgcnn-ase: ") if lines else "it said nothing"
