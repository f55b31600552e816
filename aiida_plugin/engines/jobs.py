"""What the calculation jobs of every engine get where the caller says nothing."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiida.orm import AbstractCode


def job_options(code: "AbstractCode", options: Mapping[str, Any]) -> dict[str, Any]:
    """``metadata.options``: one process on one machine and no MPI, unless the options or the code say otherwise.

    Parameters
    ----------
    code
        Whether it says itself if it takes MPI (``verdi code create --with-mpi``) is respected.
    options
        Resources, wall time, queue, ``withmpi``.
    """
    made: dict[str, Any] = {"resources": {"num_machines": 1, "num_mpiprocs_per_machine": 1}, **options}
    if "withmpi" not in made:
        made["withmpi"] = bool(code.with_mpi)
    return made
