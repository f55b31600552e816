"""Use each part of the example distribution in Python, then run commands, in a process that has it installed.

The arguments of each command come as JSON, as the one argument; JSON goes to stdout.
"""

import json
import sys
from pathlib import Path

import numpy as np
from ase.build import bulk
from typer.testing import CliRunner

from cgcnn_ase import load_model, predict
from cgcnn_ase.cli.app import app
from cgcnn_ase.models.checkpoint import save_model
from cgcnn_ase.nn.architecture import ARCHITECTURES
from cgcnn_ase.optimization.acquisition import ACQUISITIONS, acquire
from cgcnn_ase.optimization.loop import optimise
from cgcnn_ase.optimization.oracles.base import ORACLES
from cgcnn_ase.optimization.surrogates.base import SURROGATES
from cgcnn_ase.sources.client import Query
from cgcnn_ase.sources.fetch import SOURCES, fetch, open_client
from cgcnn_ase.training.fit import fit

output = Path("python")
NAMES = {
    "average": ARCHITECTURES, "cautious": ACQUISITIONS, "nearest": SURROGATES, "parabola": ORACLES, "shelf": SOURCES,
}  # fmt: skip


def run(arguments: list[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


# the architecture
trained = fit("set", output / "run", target="ionicity", unit="eV", config=Path("train.yaml"), val=0.25)
model = load_model(trained.model)
crystal = [bulk("MgO", "rocksalt", a=4.21)]
before = predict(model, crystal).to_frame()
after = predict(save_model(model, output / "saved"), crystal).to_frame()

# acquisition, surrogate and oracle; the source
result = optimise("optimise.yaml", output / "search")
fetched = fetch(open_client("shelf"), Query(), output / "fetched", fields=["band_gap"], cache=output / "cache")

print(json.dumps({
    "registered": {name: registry.get(name).__module__ for name, registry in NAMES.items()},
    "architecture": model.members[0].config.architecture.architecture,
    "is_calibrated": model.calibration is not None,
    "n_val": trained.metrics["val"]["n"],
    "same": bool(np.array_equal(before[["value", "std"]], after[["value", "std"]])),
    "chosen_by": [record.chosen_by for record in result.records],
    "best": result.best.point,
    "oracle": result.oracle["what"],
    "acquired": acquire("cautious", [1.0, 2.0], [0.5, 0.1]).tolist(),
    "n_fetched": fetched.n_records,
    "provider": fetched.provider,
    "commands": {name: run(arguments) for name, arguments in json.loads(sys.argv[1]).items()},
}))  # fmt: skip
