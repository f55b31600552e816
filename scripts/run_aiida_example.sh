#!/usr/bin/env bash
# Runs an example under `verdi run` in a profile of its own, made by `aiida-cgcnn setup` in the folder aiida-profile here.
#   scripts/run_aiida_example.sh BIN EXAMPLE        BIN: absolute path of the virtual environment's bin folder
set -euo pipefail
bin=$1
example=$2

rm -rf aiida-profile
mkdir aiida-profile
export AIIDA_PATH=$PWD/aiida-profile
export OMP_NUM_THREADS=1
PATH=$bin:$PATH
verdi presto --use-zeromq --non-interactive > /dev/null
aiida-cgcnn setup
verdi run "$example"
