"""The folder of a run: new or empty when the run starts, and resumed only with the settings it was started with."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from cgcnn_ase.core.yaml_settings import current_names, read_yaml

#: the file with all settings that decide the run
CONFIG = "config.yaml"


def check_run_folder(
    folder: Path, settings: Mapping[str, object], *, run: str, resume: bool, free: tuple[str, ...] = ()
) -> bool:
    """Say whether `folder` holds a run to resume; if not, a new one may start in it. Nothing is written.

    Parameters
    ----------
    settings
        Of the run that is to start or to go on, as they will stand in its ``config.yaml``.
    run
        What a run is called in messages, with its article: ``an optimisation``.
    resume
        Whether a run in the folder is to go on; a new one starts if there is none.
    free
        Settings that may differ from those of the run to resume, with dots: ``budget.evaluations``.

    Raises
    ------
    ValueError
        If the folder is not empty and nothing is to be resumed, holds no run, or one with other settings.
    """
    file = folder / CONFIG
    if not folder.exists() or not any(folder.iterdir()):
        return False
    if not resume:
        reason = (
            f"holds {run} already; --resume goes on with it, --overwrite replaces it"
            if file.exists()
            else "is not empty"
        )
        raise ValueError(f"{folder}: {reason}, or name another folder")
    if not file.exists():
        raise ValueError(f"{folder}: holds no {run.partition(' ')[2]} to resume: there is no {CONFIG}")
    check_unchanged(folder, current_names(read_yaml(file)), settings, free=free)
    return True


def check_unchanged(
    folder: Path,
    before: Mapping[str, object],
    now: Mapping[str, object],
    *,
    section: str = "",
    free: tuple[str, ...] = (),
) -> None:
    """Raise a ValueError that names the first setting that is not what it was, but for those of `free`."""
    was, now_is = dict(_flat(before)), dict(_flat(now))
    for name in [*was, *now_is]:
        if name not in free and was.get(name) != now_is.get(name):
            raise ValueError(
                f"{folder}: the run was started with {section}{name} {was.get(name)!r}, not {now_is.get(name)!r}; it "
                "does not go on with other settings or data; resume with the same, or name another folder"
            )


def _flat(values: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield ``("budget.batch", 1)`` and so on."""
    if isinstance(values, Mapping) and values:
        for name, value in values.items():
            yield from _flat(value, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(values, list | tuple) and any(isinstance(value, Mapping) for value in values):
        for k, value in enumerate(values):
            yield from _flat(value, f"{prefix}.{k}")
    else:
        yield prefix, list(values) if isinstance(values, tuple) else values
