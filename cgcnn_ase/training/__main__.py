"""Train on prepared data: ``python -m cgcnn_ase.training PREPARED --config CONFIG.yaml --output RUN``.

The command for a machine, such as one with a GPU, that has only torch, numpy, pandas and lightning. Where the rest of
the package is missing, ``cgcnn-ase train PREPARED --config CONFIG.yaml --output RUN --resume`` on a machine that has it
makes the model of the trained networks.
"""

import argparse
import sys
import warnings
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from cgcnn_ase.core.yaml_settings import current_names, merged, read_yaml
from cgcnn_ase.data.prepared import PreparedData, is_prepared
from cgcnn_ase.training.config import TrainConfig, is_alignn, translate
from cgcnn_ase.training.run import train


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; exit code 0, or 2 for input that cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m cgcnn_ase.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("prepared", type=Path, metavar="PREPARED", help="folder that `cgcnn-ase prepare` wrote")
    parser.add_argument("--config", type=Path, help="YAML with any of the settings of a run")
    parser.add_argument("--output", type=Path, required=True, metavar="RUN", help="folder of the run")
    parser.add_argument("--workers", type=int, default=1, help="members trained at the same time")
    parser.add_argument("--resume", action="store_true", help="go on with the run in RUN")
    parser.add_argument("--overwrite", action="store_true", help="put a new run in the place of that in RUN")
    options = parser.parse_args(arguments)
    warnings.showwarning = _one_line
    try:
        if not is_prepared(options.prepared):
            raise ValueError(f"{options.prepared}: not a folder that `cgcnn-ase prepare` wrote")
        data = PreparedData.load(options.prepared)
        settings = {} if options.config is None else read_yaml(options.config)
        settings = translate(settings).settings if is_alignn(settings) else current_names(settings)
        run = train(
            data,
            _config(merged({"graph": asdict(data.graph_config)}, settings)),
            options.output,
            resume=options.resume,
            overwrite=options.overwrite,
            workers=options.workers,
            progress=sys.stderr.isatty(),
        )
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return 2
    sys.stdout.write(f"{run}\n")
    return 0


def _config(settings: dict[str, object]) -> TrainConfig:
    """Settings of the run, each checked where pydantic is installed."""
    if find_spec("pydantic") is None:
        return TrainConfig.from_dict(settings)
    from cgcnn_ase.core.settings import parse_settings

    return parse_settings(TrainConfig, settings)


def _one_line(message: Warning | str, *_: object, **__: object) -> None:
    sys.stderr.write(f"warning: {message}\n")


if __name__ == "__main__":
    sys.exit(main())
