"""Where the key of the Materials Project is looked for. It is kept in memory only, and is in no message."""

import os
from collections.abc import Callable

#: of all keys of the present interface (the old one had shorter ones)
LENGTH = 32

_WHERE = "https://next-gen.materialsproject.org/api"


class NoKeyError(ValueError):
    """There is no key that could be used; the message says where one is looked for."""


def find_key(given: str | None = None, ask: Callable[[], str] | None = None) -> str:
    """The key to use.

    Looked for in this order: `given`; ``MP_API_KEY`` in the environment; ``api_key`` in the section
    ``[materials-project]`` of ASE's configuration file; ``PMG_MAPI_KEY`` of pymatgen (``~/.config/.pmgrc.yaml``);
    `ask`, which may ask a person.

    Raises
    ------
    NoKeyError
        If there is none, or if it is none of this interface.
    """
    places: tuple[tuple[str, Callable[[], str | None]], ...] = (
        ("api_key", lambda: given),
        ("MP_API_KEY", lambda: os.environ.get("MP_API_KEY")),
        ("api_key in [materials-project] of ASE's configuration", _of_ase),
        ("PMG_MAPI_KEY of pymatgen", _of_pymatgen),
        ("the answer", ask or (lambda: None)),
    )
    for place, look in places:
        key = (look() or "").strip()
        if key:
            return _checked(key, place)
    raise NoKeyError(
        "the Materials Project needs a key: set MP_API_KEY, or api_key in [materials-project] of "
        f"~/.config/ase/config.ini, or PMG_MAPI_KEY in ~/.config/.pmgrc.yaml; get one at {_WHERE}"
    )


def _checked(key: str, place: str) -> str:
    if len(key) != LENGTH or not key.isascii() or not key.isalnum():
        raise NoKeyError(
            f"{place}: a key of the Materials Project has {LENGTH} letters and digits, this one {len(key)} characters; "
            f"get one at {_WHERE}"
        )
    return key


def _of_ase() -> str | None:
    from ase.config import cfg

    key: str | None = cfg.parser.get("materials-project", "api_key", fallback=None)
    return key


def _of_pymatgen() -> str | None:
    from pymatgen.core import SETTINGS

    key = SETTINGS.get("PMG_MAPI_KEY")
    return None if key is None else str(key)
