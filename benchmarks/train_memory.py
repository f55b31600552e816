"""Memory of training on data in shards: what does not lie on disk must not grow with the number of crystals.

One shard of real graphs is made, and linked under new ids as often as asked. A child trains some steps on all of them
and reports its anonymous memory, which is what no file backs; pages of the shards can be dropped at any time.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from _report import Table, finish, parser
from _structures import TARGET, cache_folder, echo_stderr, require

from cgcnn_ase.core.targets import TargetSpec
from cgcnn_ase.data.dataset import load_dataset
from cgcnn_ase.data.prepare import prepare
from cgcnn_ase.data.prepared import PreparedData
from cgcnn_ase.zoo.train import load_recipe

SPEC = TargetSpec(name=TARGET, unit="eV/atom", per_atom=True)
STEPS = 60


def options() -> argparse.Namespace:
    made = parser(__doc__ or "")
    made.add_argument("--shards", type=int, nargs="+", default=[1, 8, 30], help="how many")
    made.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    return made.parse_args()


def main() -> None:
    chosen = options()
    if chosen.child is not None:
        print(json.dumps(train(chosen.child)))
        return
    require(chosen.data.parent, chosen.data.name)
    path = cache_folder() / "train-memory"
    shutil.rmtree(path, ignore_errors=True)
    config = load_recipe("formation-energy-per-atom").config
    first = path / "source"
    prepare(load_dataset(chosen.data, target=TARGET), SPEC, config.graph, is_part=True).save(first)
    table = Table(
        "Training on shards",
        ["shards", "crystals", "graphs on disk MB", "anonymous memory MB", "of which ids, targets, sizes MB"],
        notes=[f"{STEPS} steps of batch 64 of the pretrained recipe's network, one process, compiled code off"],
    )
    for n in chosen.shards:
        folder = link(first, path / f"{n}", n)
        command = [sys.executable, __file__, "--child", str(folder)]
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        result = json.loads(out.splitlines()[-1])
        echo_stderr(f"{n} shards: {result}")
        disk = n * sum(file.stat().st_size for file in first.glob("*.npy")) / 1e6
        table.rows.append([n, result["crystals"], disk, result["anonymous"], result["loaded"]])
    finish([table], chosen.output, vars(chosen))
    shutil.rmtree(path)


def link(first: Path, folder: Path, n: int) -> Path:
    """The shard n times, its arrays as hard links and its ids with a number."""
    for k in range(n):
        shard = folder / f"shard-{k:04d}"
        shard.mkdir(parents=True)
        for file in first.iterdir():
            if file.name != "samples.csv":
                os.link(file, shard / file.name)
        with (first / "samples.csv").open(newline="") as source, (shard / "samples.csv").open("w", newline="") as out:
            rows = list(csv.reader(source))
            csv.writer(out).writerows([rows[0], *([f"{name}-{k}", split] for name, split in rows[1:])])
    return folder


def train(folder: Path) -> dict[str, float]:
    """Train a few steps on what lies in a folder; MB."""
    import torch
    from torch.nn import functional as F

    from cgcnn_ase.training.member import new_network
    from cgcnn_ase.training.module import loader

    torch.set_num_threads(1)
    config = load_recipe("formation-energy-per-atom").config
    before = anonymous()
    data = PreparedData.load(folder)
    loaded = anonymous() - before
    network = new_network(data, config)
    optimizer = torch.optim.AdamW(network.parameters())
    peak = 0.0
    for k, batch in enumerate(loader(data, np.asarray(data.rows("train")), config.batch_size, seed=0)):
        if k == STEPS:
            break
        optimizer.zero_grad()
        F.l1_loss(network(batch.graph, "torch").value, batch.targets).backward()
        optimizer.step()
        peak = max(peak, anonymous())
    return {"crystals": len(data.ids), "anonymous": peak, "loaded": loaded}


def anonymous() -> float:
    """Memory of this process that no file backs, MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1000
    raise SystemExit("RssAnon: not in /proc/self/status")


if __name__ == "__main__":
    main()
