"""``cgcnn-ase predict``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from cgcnn_ase.cli.command import (
    PROCESS,
    NamedRows,
    echo_note,
    echo_stderr,
    errors_as_usage,
    progress_of_files,
    warnings_as_lines,
)
from cgcnn_ase.cli.options import (
    Fidelity,
    OrderDisordered,
    OrderingAtoms,
    OrderingModel,
    OrderingName,
    OrderingNum,
    OrderingSeed,
    OrderingTime,
    Paths,
    Population,
    check_picture,
    complete_model,
    ordering_options,
)
from cgcnn_ase.core.errors import require

if TYPE_CHECKING:
    from cgcnn_ase.inspection.second_opinion import SecondOpinions
    from cgcnn_ase.nn.messages import Engine
    from cgcnn_ase.prediction.results import Prediction


def predict(
    paths: Paths,
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            "-m",
            autocompletion=complete_model,
            help="Pretrained name, model folder, or original .pth.tar; may be given several times.",
        ),
    ] = ["formation-energy-per-atom"],  # noqa: B006
    fidelity: Fidelity = None,
    n_dropout: Annotated[int | None, typer.Option(help="Monte Carlo dropout with so many samples.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the dropout samples.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Write a .csv, .json or .extxyz file; without it, a table on a terminal, else CSV on stdout.",
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the values with their intervals: a .png, .pdf or .svg file.")
    ] = None,
    failures: Annotated[
        Path | None, typer.Option(help="Also write what failed to this .csv file: id, source, error.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep what is in OUTPUT (a .csv) and predict only the other files.")
    ] = False,
    second_opinion: Annotated[
        list[str] | None,
        typer.Option(help="Another model, chgnet or sevenn: how far it disagrees (second_opinion_std). Several times."),
    ] = None,
    members: Annotated[
        bool,
        typer.Option("--member-values", help="Also write what each network predicts (.csv, .json)."),
    ] = False,
    workers: Annotated[int | None, typer.Option(help="Processes; all cores for many files by default.")] = None,
    engine: Annotated[str, typer.Option(help="Message passing: auto, dgl or torch.")] = "auto",
    population: Population = "known",
    order_disordered: OrderDisordered = False,
    ordering: OrderingName = None,
    ordering_atoms: OrderingAtoms = None,
    ordering_time: OrderingTime = None,
    ordering_seed: OrderingSeed = None,
    ordering_num: OrderingNum = None,
    ordering_model: OrderingModel = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines: JSON on stdout.")] = False,
    environment: Annotated[
        Path | None, typer.Option(help="Also write versions, host, threads, seeds and engine to this .json file.")
    ] = None,
) -> None:
    """Predict a property of structures, or of each of their symmetry-distinct sites, with its uncertainty.

    Exit code 0: all done; 1: some structures failed, each named on stderr, the rest written; 2: nothing could be done.
    """
    from contextlib import closing

    from cgcnn_ase.cli.prediction_output import CsvWriter, open_output
    from cgcnn_ase.core.environment import write_environment
    from cgcnn_ase.core.parallel import WorkerError
    from cgcnn_ase.models.folder import CheckpointError
    from cgcnn_ase.models.registry import with_fidelity
    from cgcnn_ase.prediction.predictor import Predictor, without_result
    from cgcnn_ase.prediction.results import MemberPrediction, member_values
    from cgcnn_ase.structures import collect_paths

    with errors_as_usage():
        if engine not in ("auto", "dgl", "torch"):
            raise ValueError(f"--engine {engine}: allowed are auto, dgl, torch")
        check_picture("--plot", plot)
        if plot is not None:
            require("matplotlib", "a picture")
        order = ordering_options(
            order_disordered, ordering=ordering, atoms=ordering_atoms, time=ordering_time, seed=ordering_seed,
            num=ordering_num, model=ordering_model,
        )  # fmt: skip
        if order and output is not None and output.suffix.lower() == ".extxyz":
            workers = 1  # the frames are written from the very orderings that were predicted
        opinions = _second_opinions(second_opinion, resume=resume)
        files = collect_paths(paths)
        predictor = Predictor(
            [with_fidelity(name, fidelity) for name in model],
            n_dropout=n_dropout,
            seed=seed,
            engine=cast("Engine", engine),
            workers=workers,
            order_disordered=order,
            population=population,
            second_opinion=opinions,
            once=PROCESS.runs_one_command,
        )
        writer = open_output(
            output,
            as_json=as_json,
            resume=resume,
            sources=files,
            models=predictor.check(),
            of_sites=predictor.of_sites,
            order_disordered=order,
            members=members,
        )
        todo = [file for file in files if file not in writer.done.files]
        if resume and len(todo) < len(files):
            echo_note(f"{len(files) - len(todo)} of {len(files)} files are in {output} already")
        if failures is not None and (failures.suffix != ".csv" or not failures.parent.is_dir()):
            raise ValueError(f"--failures {failures}: give a name that ends in .csv, in a folder that exists")
        if environment is not None:
            # no prediction is made on a GPU
            seeds = {"n_dropout": seed} if n_dropout is not None else {}
            write_environment(environment, engine=predictor.settings["engine"], device="cpu", seeds=seeds)
    failed: list[tuple[str, str, str]] = []
    named = NamedRows()
    drawn: list[Prediction] = []
    tally = predictor.tally()
    function = member_values if members else without_result
    try:
        with (
            writer,
            warnings_as_lines(),
            closing(predictor.stream_files_with(function, todo, names=writer.done.names)) as pairs,
        ):
            rows = (MemberPrediction(*pair) for pair in pairs)
            for prediction, of_members in progress_of_files(rows, "Predicting", todo):
                tally.add(prediction)
                if prediction.error is None:
                    writer.write(prediction, of_members)
                    if plot is not None:
                        drawn.append(prediction)
                elif [row[:2] for row in failed[-1:]] != [(prediction.id, prediction.source)]:  # once for all models
                    failed.append((prediction.id, prediction.source, prediction.error))
                    named.add("failed", prediction, prediction.error)
            writer.notes = tally.notes()
    except KeyboardInterrupt:
        written = f": what was predicted is in {output}" if output else ""
        echo_stderr(f"interrupted{written}{'; --resume goes on' if output and isinstance(writer, CsvWriter) else ''}")
        raise typer.Exit(130) from None
    except (OSError, CheckpointError, WorkerError) as error:
        if isinstance(error, BrokenPipeError):  # `| head` has enough
            raise
        echo_stderr(f"cgcnn-ase: {error}")
        raise typer.Exit(2) from error
    for note in writer.notes:
        echo_stderr(f"cgcnn-ase: warning: {note}")
    if plot is not None and drawn:
        from cgcnn_ase.plotting.model_plots import save
        from cgcnn_ase.plotting.prediction_plots import predictions_plot

        save(predictions_plot(drawn), plot)
        echo_note(f"written to {plot}")
    if failures is not None:
        _write_failures(failed, failures)
    named.show_rest()
    if failed:
        echo_stderr(f"{len(failed)} failed, {writer.n_written} predictions written")
        raise typer.Exit(1)


def _second_opinions(names: list[str] | None, *, resume: bool) -> "SecondOpinions | None":
    """Load the other models."""
    if not names:
        return None
    if resume:
        raise ValueError(
            "--resume with --second-opinion: the scale of another model's energies is that of the whole batch"
        )
    from cgcnn_ase.inspection.second_opinion import SecondOpinions

    return SecondOpinions(names)


def _write_failures(failed: list[tuple[str, str, str]], file: Path) -> None:
    import csv

    with file.open("w", newline="", encoding="utf-8") as lines:
        csv.writer(lines, lineterminator="\n").writerows([("id", "source", "error"), *failed])
