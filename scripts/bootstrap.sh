#!/usr/bin/env bash
# Makes the virtual environment VENV with PYTHON and installs the project, from constraints.txt, with the given extras.
#   scripts/bootstrap.sh VENV EXTRAS [pip options...]       for example: scripts/bootstrap.sh .venv all,test
# CONSTRAINTS names another file than constraints.txt, which is for Python 3.11; /dev/null takes the newest of everything.
# On a bare Debian or Ubuntu it first installs what is missing of python3, python3-venv and git.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/apt.sh

venv=$1
extras=$2
shift 2
python=${PYTHON:-python3}

# ensurepip is what Debian leaves out of python3 and puts into python3-venv
command -v "$python" > /dev/null || apt_install python3 python3-venv
"$python" -c 'import ensurepip, venv' 2> /dev/null || apt_install python3-venv

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    echo "bootstrap: $("$python" --version) is too old, Python 3.10 or newer is needed: make PYTHON=/path/to/python3.11" >&2
    exit 1
fi

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip=("$venv/bin/python" -m pip install --disable-pip-version-check --quiet --constraint "${CONSTRAINTS:-constraints.txt}" "$@")

# torch first: with it in place nothing else pulls in another build of it
"${pip[@]}" torch
"${pip[@]}" --editable ".[$extras]"
"$venv/bin/python" -m pip check --disable-pip-version-check
