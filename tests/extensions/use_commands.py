"""Run commands one after the other: JSON with their arguments on stdin, with exit codes and outputs on stdout."""

import json
import sys

from typer.testing import CliRunner

from cgcnn_ase.cli.app import app

done = []
for arguments in json.load(sys.stdin):
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    done.append([result.exit_code, result.stdout, result.stderr])
print(json.dumps(done))
