"""The profile and the code that an oracle runs with."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiida.orm import AbstractCode

#: what makes all that a DFT run needs
SETUP = "verdi presto --use-zeromq && aiida-cgcnn setup"
#: the codes that ``aiida-cgcnn setup`` makes
_CODES = {"gpaw": "python@localhost", "quantumespresso": "pw@localhost", "cp2k": "cp2k@localhost"}


def open_default_profile() -> str:
    """The name of the profile that is loaded; the default one is loaded where none is.

    Raises
    ------
    ValueError
        If there is none.
    """
    from aiida.common.exceptions import ConfigurationError
    from aiida.manage.configuration import load_profile

    try:
        return str(load_profile().name)
    except ConfigurationError as error:
        raise ValueError(f"DFT through AiiDA needs a profile, and there is none; make it: {SETUP}") from error


def code_of(engine: str, label: str | None) -> "AbstractCode":
    """The code of an engine.

    Parameters
    ----------
    engine
        Its name.
    label
        Of the code; None for the one that ``aiida-cgcnn setup`` makes.

    Raises
    ------
    ValueError
        If there is no such code, more than one, or none that could be taken by default.
    """
    from aiida.common.exceptions import MultipleObjectsError, NotExistent
    from aiida.orm import load_code

    wanted = label or _CODES.get(engine)
    if wanted is None:
        raise ValueError(f"oracle.code: {engine} has no code by default; name yours, as `verdi code list` shows it")
    try:
        return load_code(wanted)
    except NotExistent as error:
        raise ValueError(
            f"oracle.code: there is no code {wanted!r}; make it with `aiida-cgcnn setup`, or name one of `verdi code "
            "list`"
        ) from error
    except MultipleObjectsError as error:
        raise ValueError(f"oracle.code: there are several codes {wanted!r}; name one as label@computer") from error
