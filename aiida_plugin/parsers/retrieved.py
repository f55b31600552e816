"""Base of the parsers: what all of them read of the retrieved folder, which is all that they may read."""

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from aiida.engine import ExitCode
from aiida.orm import Dict
from aiida.parsers import Parser

from aiida_plugin.calculations.crash_safe import EXIT_CODE

_ALL_DONE, _SOME_FAILED = 0, 1  # exit codes of a command that came to its end


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

    def command_failure(self, n: int, table: Path | None) -> ExitCode | None:
        """Return the exit code of a command that did not come to its end; None where it did, even if structures failed.

        Parameters
        ----------
        n
            How many structures it was given.
        table
            The file that it writes a row a structure into, if there is one.
        """
        code = self.command_exit_code()
        if code is None:
            lines = table.read_bytes().splitlines() if table is not None and table.is_file() else []
            return self.fail("ERROR_OUT_OF_WALLTIME", n_done=max(0, len(lines) - 1), n=n)
        if code > 128 or code < 0:
            return self.fail("ERROR_KILLED", code=code)
        if code not in (_ALL_DONE, _SOME_FAILED):
            return self.fail("ERROR_USAGE", reason=self.last_words())
        return None

    def check_environment(self, file: str) -> ExitCode | None:
        """Give the job's record of what it ran with as an output, and compare it with what was asked for.

        `file` holds it, as JSON of :mod:`cgcnn_ase.core.environment`.
        """
        text = self.text(file)
        if text is None and self.is_of_earlier_version:
            return None
        if text is None:
            reason = "it tells what ran; a cgcnn-ase of before 2026-12 writes none"
            return self.fail("ERROR_MISSING_OUTPUT", file=file, reason=reason)
        try:
            record = json.loads(text)
            differences = list(self._differences(record))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return self.fail("ERROR_CORRUPT_OUTPUT", file=file, reason=f"{type(error).__name__}: {error}")
        return self.record_environment(record, differences)

    @property
    def is_of_earlier_version(self) -> bool:
        """Tell whether the job was submitted by a version of this package that asked for no record of what ran."""
        return self.node.get_option("check_versions") is None

    def record_environment(self, record: Mapping[str, Any], differences: list[str]) -> ExitCode | None:
        """Give the record as an output; differences are a failure, unless the job was to allow them."""
        self.out("environment", Dict({**record, "differences": differences}))
        if differences and self.node.get_option("check_versions") is not False:
            return self.fail("ERROR_VERSIONS", differences="; ".join(differences))
        return None

    def _differences(self, record: Mapping[str, Any]) -> Iterator[str]:
        """In what the job ran with something else than asked, as far as both are known.

        Changes of a checkout that are not committed are recorded, and no failure.
        """
        inputs = self.node.inputs
        settings = inputs.settings.get_dict() if "settings" in inputs else {}
        ran = {**record["versions"], **record.get("checkout", {}), "cgcnn-ase": record.get("package_version")}
        asked = inputs.versions.get_dict() if "versions" in inputs else {}
        asked.pop("changes", None)
        if "package_version" in inputs:
            asked["cgcnn-ase"] = inputs.package_version.value
        if settings.get("engine", "auto") != "auto":
            asked["engine"], ran["engine"] = settings["engine"], record["engine"]
        for name, version in sorted(asked.items()):
            there = ran.get(name)
            if there is None and name == "commit":
                continue  # it runs from no checkout
            if there != version:
                yield f"{name} {there or 'not installed'}, asked was {version}"

    def last_words(self) -> str:
        """Read the last line of the command's messages."""
        lines = (self.text(self.stderr) or "").strip().splitlines()
        return lines[-1].removeprefix("cgcnn-ase: ") if lines else "it said nothing"
