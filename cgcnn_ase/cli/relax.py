"""``cgcnn-ase relax``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cgcnn_ase.cli.command import (
    NamedRows,
    echo_note,
    echo_stderr,
    errors_as_usage,
    progress_of_files,
    warnings_as_lines,
)
from cgcnn_ase.cli.options import Paths, complete_model

if TYPE_CHECKING:
    from cgcnn_ase.learning.learning_state import LearningState
    from cgcnn_ase.learning.session import LearnedRelaxOptions
    from cgcnn_ase.potential.relax_results import Relaxed, RelaxOptions

_FAILED, _UNCONVERGED = "failed", "not converged"


def relax(
    paths: Paths,
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", autocompletion=complete_model, help="A potential: pretrained name, or model folder."
        ),
    ] = "cathode-potential",
    fmax: Annotated[
        float, typer.Option(help="Largest force that may remain, eV/Å; with the cell, also virial / number of atoms.")
    ] = 0.05,
    steps: Annotated[int, typer.Option(help="Most steps of a structure.")] = 500,
    fixed_cell: Annotated[bool, typer.Option("--fixed-cell", help="Move the atoms only.")] = False,
    keep_symmetry: Annotated[
        bool, typer.Option("--keep-symmetry", help="Keep the space group of each structure.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Write an .extxyz file with the relaxed structures and, beside it, a .csv file with a row for each; "
            "or a .csv file alone. Without it, a table on a terminal, else CSV on stdout.",
        ),
    ] = None,
    trajectory: Annotated[
        Path | None, typer.Option(help="Folder for the steps of each structure, ID.extxyz.", metavar="FOLDER")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep what is in OUTPUT, and relax what is not, or failed.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(help="Processes; all cores for 8 structures and more by default, one with a GPU.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="Where the potential is evaluated: cpu, cuda, or auto for a GPU where torch finds one.")
    ] = "cpu",
    reference: Annotated[
        str | None,
        typer.Option(
            help="Ask this calculator where the potential does not know, learn from it, and go on to a minimum that it "
            "confirms: gpaw, quantumespresso, chgnet, sevennet, a name that ASE knows, or module:Class.",
            metavar="NAME",
        ),
    ] = None,
    reference_settings: Annotated[
        Path | None, typer.Option(help="Keywords of the reference, in YAML.", metavar="FILE.yaml")
    ] = None,
    memory: Annotated[
        Path | None,
        typer.Option(
            help="Folder of what the reference said, which all structures share: a run that was interrupted goes on, "
            "and `cgcnn-ase finetune` reads its labels.extxyz.",
            metavar="FOLDER",
        ),
    ] = None,
    max_force_std: Annotated[
        float | None, typer.Option(help="Std of a force above which the reference is asked, eV/Å (0.2 by default).")
    ] = None,
    max_calls: Annotated[
        int | None, typer.Option(help="Most calls of the reference for a structure (100 by default).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines: the rows as JSON on stdout.")] = False,
    environment: Annotated[
        Path | None, typer.Option(help="Also write versions, host, threads and engine to this .json file.")
    ] = None,
) -> None:
    """Relax structures, atoms and cell, on a potential: energy, its std, largest force, and whether the model knows it.

    Structures that are not converged after STEPS are named on stderr, and written as they are then. With --reference,
    energies and forces that decide are the reference's, and `--model none` starts without a potential.

    Exit code 0: all done; 1: some structures failed, each named on stderr, the rest written; 2: nothing could be done.
    """
    from contextlib import closing
    from itertools import chain, islice

    from cgcnn_ase.cli.relax_output import Earlier, RelaxWriter, check_output, read_earlier
    from cgcnn_ase.core.environment import write_environment
    from cgcnn_ase.core.parallel import WorkerError
    from cgcnn_ase.learning.relax import stream_learned
    from cgcnn_ase.models.registry import find_model, load_refs
    from cgcnn_ase.potential.potential import Potential
    from cgcnn_ase.potential.relax import MIN_PARALLEL, stream_relaxed
    from cgcnn_ase.potential.relax_results import RelaxOptions
    from cgcnn_ase.structures import collect_paths

    with errors_as_usage():
        settings = RelaxOptions(
            fmax=fmax, steps=steps, fixed_cell=fixed_cell, keep_symmetry=keep_symmetry, trajectory=bool(trajectory)
        )
        if workers is not None and workers < 1:
            raise ValueError(f"--workers {workers}: give 1 or more")
        files = collect_paths(paths)
        if resume and output is not None:  # of an earlier run, in a folder of structures
            files = [file for file in files if file.resolve() != output.resolve()]
        check_output(output, trajectory, paths, files)
        learning, device_name = None, "cpu"
        if reference is None:
            _refuse_unused(reference_settings, memory, max_force_std, max_calls)
        else:
            if device != "cpu":
                raise ValueError(f"--device {device}: with a reference the potential is evaluated on the CPU")
            learning = _learning(
                reference, reference_settings, memory, None if model == "none" else model, settings,
                max_force_std=max_force_std, max_calls=max_calls, workers=workers, output=output, resume=resume,
            )  # fmt: skip
        earlier = None
        if learning is None:
            ref = find_model(model)
            potential = Potential(load_refs([ref])[0], device=device)
            device_name = str(potential.device)
            earlier = read_earlier(output, settings, potential.model) if resume and output is not None else None
        if earlier is not None and earlier.done:
            echo_note(f"{len(earlier.done)} structures are in {output} already")
        writer = RelaxWriter(output, as_json=as_json, trajectory=trajectory, earlier=earlier)
        if environment is not None:
            write_environment(environment, engine="torch", device=device_name, seeds={})
    tally = _Tally(settings)
    try:
        records = (earlier or Earlier()).records(files)
        first = list(islice(records, MIN_PARALLEL))
        total = len(first) if len(first) < MIN_PARALLEL else None
        if learning is None:
            rows = stream_relaxed(chain(first, records), ref, settings, workers=workers, device=device, total=total)
        else:
            rows = stream_learned(chain(first, records), *learning, trajectory=bool(trajectory))
        with writer, warnings_as_lines(), closing(rows):
            for row in progress_of_files(rows, "Relaxing", files):
                writer.write(row)
                tally.add(row)
    except KeyboardInterrupt:
        written = f": what was relaxed is in {output}; --resume goes on" if output else ""
        echo_stderr(f"interrupted{written}")
        raise typer.Exit(130) from None
    except (OSError, WorkerError) as error:
        if isinstance(error, BrokenPipeError):  # `| head` has enough
            raise
        echo_stderr(f"cgcnn-ase: {error}")
        raise typer.Exit(2) from error
    tally.show(output)
    if tally.named[_FAILED]:
        raise typer.Exit(1)


def _refuse_unused(
    reference_settings: Path | None, memory: Path | None, max_force_std: float | None, max_calls: int | None
) -> None:
    options = {"--reference-settings": reference_settings, "--memory": memory, "--max-force-std": max_force_std}
    unused = [name for name, value in {**options, "--max-calls": max_calls}.items() if value is not None]
    if unused:
        raise ValueError(f"{', '.join(unused)}: of no effect without --reference")


def _learning(
    reference: str,
    settings_file: Path | None,
    memory: Path | None,
    model: str | None,
    settings: "RelaxOptions",
    *,
    max_force_std: float | None,
    max_calls: int | None,
    workers: int | None,
    output: Path | None,
    resume: bool,
) -> "tuple[LearningState, LearnedRelaxOptions]":
    """State and options of a relaxation with a reference."""
    from cgcnn_ase.core.yaml_settings import read_yaml
    from cgcnn_ase.learning.learning_state import LearningState
    from cgcnn_ase.learning.reference import reference_by_name
    from cgcnn_ase.learning.session import MAX_FORCE_STD, LearnedRelaxOptions
    from cgcnn_ase.models.registry import load_model
    from cgcnn_ase.potential.potential import Potential

    if workers not in (None, 1):
        raise ValueError(f"--workers {workers}: with a reference structures learn from each other, one after the other")
    if settings.keep_symmetry:
        raise ValueError("--keep-symmetry: not with --reference, whose forces have the symmetry of the structure")
    if resume and output is not None:
        raise ValueError("--resume: with a reference, --memory FOLDER is what a run goes on from")
    options = LearnedRelaxOptions(
        fmax=settings.fmax,
        max_force_std=MAX_FORCE_STD if max_force_std is None else max_force_std,
        fixed_cell=settings.fixed_cell,
        max_calls=100 if max_calls is None else max_calls,
    )
    potential = None if model is None else load_model(model)
    if potential is not None:
        Potential(potential)  # says why it has no forces, if so
    parameters = None if settings_file is None else read_yaml(settings_file)
    if memory is not None and not memory.parent.is_dir():
        raise ValueError(f"--memory {memory}: the folder {memory.parent} does not exist")
    calculator = reference_by_name(reference, parameters, folder=memory)
    return LearningState(memory, model=potential, reference=calculator), options


class _Tally:
    """Messages about the rows, and their number."""

    def __init__(self, settings: "RelaxOptions") -> None:
        self._settings, self.named = settings, NamedRows()
        self.n_relaxed = self.n_outside = self.n_calls = 0

    def add(self, row: "Relaxed") -> None:
        """Count a row, and name one that failed or is not converged."""
        self.n_calls += row.n_reference_calls or 0
        if row.error is not None:
            self.named.add(_FAILED, row, row.error)
            return
        self.n_relaxed += 1
        self.n_outside += row.in_domain is False
        if not row.converged:
            text = f"not converged after {row.steps} steps: the largest force is {row.max_force:.3g} eV/Å"
            self.named.add(_UNCONVERGED, row, f"{text}; {row.stopped}" if row.stopped else text)

    def show(self, output: Path | None) -> None:
        """Say how many there are of each kind, and where."""
        self.named.show_rest()
        n_failed, n_unconverged = self.named[_FAILED], self.named[_UNCONVERGED]
        notes = [f"{self.n_relaxed} relaxed"]
        if n_unconverged:
            notes.append(f"{n_unconverged} of them not converged after {self._settings.steps} steps (see --steps)")
        if self.n_outside:
            notes.append(f"{self.n_outside} of them unlike what the model has learned (in_domain)")
        if self.n_calls:
            notes.append(f"{self.n_calls} calls of the reference")
        if output is not None:
            notes.append(f"written to {output}")
        if n_failed:
            echo_stderr(f"{n_failed} failed, {', '.join(notes)}")
        else:
            echo_note(", ".join(notes))
