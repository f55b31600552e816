#!/usr/bin/env bash
# Installs the wheel into a throwaway environment, and predicts from another folder without a network.
# The third-party packages are borrowed from VENV; the checkout cannot be seen.
#   scripts/wheel_test.sh VENV WHEEL
set -euo pipefail

venv=$(cd "$1" && pwd)
wheel=$(realpath "$2")
structures=$(realpath "$(dirname "$0")/../examples/structures")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

"$venv/bin/python" -m venv "$scratch/venv"
python=$scratch/venv/bin/python
"$python" -m pip install --disable-pip-version-check --quiet --no-deps "$wheel"
# A line in a .pth file adds that folder only: VENV's own .pth files, so its editable install, are not followed.
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$site/borrowed.pth"

# No network: a network namespace of its own where that is allowed, and proxies that lead nowhere.
mkdir "$scratch/elsewhere" "$scratch/home"
run=(env -u PYTHONPATH HOME="$scratch/home" HF_HUB_OFFLINE=1 http_proxy=http://127.0.0.1:9 https_proxy=http://127.0.0.1:9)
if unshare --net --map-root-user true 2> /dev/null; then run=(unshare --net --map-root-user "${run[@]}"); fi

cp -r "$structures" "$scratch/elsewhere/structures"
cd "$scratch/elsewhere"

"${run[@]}" "$python" - "$site" << 'EOF'
import sys
from pathlib import Path

import cgcnn_ase

package = Path(cgcnn_ase.__file__).parent
assert package.parent == Path(sys.argv[1]), f"imported from {package}, not from the wheel"
assert (package / "py.typed").is_file() and (package / "core" / "elements.csv").is_file()
models = sorted(folder.name for folder in (package / "pretrained").iterdir())
assert models, "the wheel carries no pretrained model"
print("models in the wheel:", *models)
EOF
"${run[@]}" "$scratch/venv/bin/cgcnn-ase" predict structures --output predictions.csv
"${run[@]}" "$python" - << 'EOF'
import pandas as pd

table = pd.read_csv("predictions.csv")
assert len(table) >= 8, f"{len(table)} predictions"
assert table[["value", "std"]].notna().all(axis=None), "a prediction is missing"
print(f"wheel-test: {len(table)} structures predicted offline by the installed wheel")
EOF
