#!/usr/bin/env bash
# Installs the DFT codes that the tests and the AiiDA examples run: Quantum ESPRESSO, CP2K and Graphviz as Debian
# packages, and GPAW, built from PyPI, into the virtual environment VENV.
#   scripts/install_engines.sh VENV [pip options...]
# Where Debian's packages cannot be installed it says so and goes on, as the tests that need them are then skipped with
# the reason; with CI set in the environment that is an error.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/apt.sh

venv=$1
shift

missing=()
command -v pw.x > /dev/null || missing+=(quantum-espresso)
command -v cp2k > /dev/null || missing+=(cp2k)
command -v dot > /dev/null || missing+=(graphviz)
command -v g++ > /dev/null || missing+=(g++)
headers=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
[ -e "$headers/Python.h" ] || missing+=(python3-dev)
if [ ${#missing[@]} -gt 0 ] && ! (apt_install "${missing[@]}"); then
    [ -z "${CI:-}" ] || exit 1
    echo "install_engines: going on without; the tests that need them will be skipped" >&2
fi

if ! GPAW_CONFIG=$PWD/scripts/gpaw_siteconfig.py "$venv/bin/python" -m pip install --disable-pip-version-check --quiet \
    --constraint constraints.txt "$@" --editable ".[gpaw]"; then
    [ -z "${CI:-}" ] || exit 1
    echo "install_engines: GPAW could not be built; the tests that need it will be skipped" >&2
fi
