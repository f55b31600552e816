"""``cgcnn-ase`` without the four seconds that its imports take: each run is a fork of one process that has made them.

Beside it is a ``python`` that runs a script in the same way, for jobs of ASE calculators. The pictures of a
training are empty (``pictures.py``).

As a script it is that process, which takes runs from a socket. What a run is given (arguments, folder, environment,
files for its output) and what it gives are those of the installed command; it is another process, and ends with it.
"""

import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
import traceback
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({path!r})
    run = {{"program": {program!r}, "argv": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ)}}
    socket.send_fds(server, [json.dumps(run).encode() + b"\\n"], [1, 2])
    code = server.recv(16)
sys.exit(int(code) if code else 137)  # killed without a word
"""
MODULES = ("cgcnn_ase.cli.app", "cgcnn_ase.cli.predict", "cgcnn_ase.cli.train", "cgcnn_ase.prediction.predictor",
           "cgcnn_ase.training.run", "lightning", "torchmetrics", "pandas", "gemmi", "matplotlib.pyplot",
           "ase.calculators.emt", "ase.optimize")  # fmt: skip


@contextmanager
def warm_command():
    """The path of the command, while the process behind it runs; ``python`` is in the same folder."""
    with TemporaryDirectory(prefix="warm-") as folder:
        address = Path(folder) / "socket"
        server = subprocess.Popen([sys.executable, __file__, str(address)], env=os.environ | {"OMP_NUM_THREADS": "1"})
        for program in ("cgcnn-ase", "python"):
            client = Path(folder) / program
            client.write_text(CLIENT.format(python=sys.executable, path=str(address), program=program))
            client.chmod(0o755)
        while not address.exists():
            assert server.poll() is None, "the process behind the command did not start"
            time.sleep(0.05)
        try:
            yield Path(folder) / "cgcnn-ase"
        finally:
            server.kill()
            server.wait()


def serve(address):
    for name in MODULES:
        import_module(name)
    pictures = import_module("pictures")
    pictures.model_plots.save = pictures.Pictures(pictures.blank())
    gc.freeze()  # else a run that looks for garbage writes to all that it shares with this process
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the runs
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address + ".new")
        server.listen()
        Path(address + ".new").rename(address)
        while True:
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                run(connection)
            connection.close()


def run(connection):
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    text, files, _, _ = socket.recv_fds(connection, 1 << 16, 2)
    while not text.endswith(b"\n"):
        text += connection.recv(1 << 16)
    request = json.loads(text)
    for target, file in zip((1, 2), files, strict=True):
        os.dup2(file, target)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    try:
        if request["program"] == "python":
            sys.argv = request["argv"]
            packages = os.environ.get("PYTHONPATH", "").split(os.pathsep)
            sys.path[:0] = [str(Path(sys.argv[0]).parent), *(each for each in packages if each not in sys.path)]
            runpy.run_path(sys.argv[0], run_name="__main__")
        else:
            sys.argv = ["cgcnn-ase", *request["argv"]]
            import_module("cgcnn_ase.cli").main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    connection.send(str(code).encode())
    os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
