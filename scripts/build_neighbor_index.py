"""Build the index of training neighbours of a model folder, for ``cgcnn-ase explain``.

    python scripts/build_neighbor_index.py pretrained/formation-energy-per-atom DATA --target formation_energy_per_atom

DATA is the data set that the model was trained on, with its split, or what ``cgcnn-ase prepare`` wrote.
"""

import argparse
from pathlib import Path

from cgcnn_ase.data.dataset import load_dataset
from cgcnn_ase.data.prepare import prepare
from cgcnn_ase.data.prepared import PreparedData, is_prepared
from cgcnn_ase.explain.training_neighbors import build_neighbor_index
from cgcnn_ase.models.registry import find_model, load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--target", help="column that the model learned, where there are several")
    args = parser.parse_args()
    folder = find_model(args.model).path
    if not folder.is_dir():
        parser.error(f"{args.model} is no model folder")
    model = load_model(folder)
    if is_prepared(args.data):
        data = PreparedData.load(args.data)
    else:
        data = prepare(load_dataset(args.data, target=args.target), model.target, model.graph, progress=True)
    if data.train_hash != model.training_record.get("train_hash"):
        parser.error(f"{args.data} is not what {args.model} was trained on: their train_hash differ")
    index = build_neighbor_index(model, data)
    file = index.save(folder)
    print(f"{file}: {len(index)} structures, {file.stat().st_size / 1e6:.2f} MB, typical distance {index.typical:.3f}")


if __name__ == "__main__":
    main()
