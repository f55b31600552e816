"""``cgcnn-ase prepare``, ``train`` and ``evaluate`` hand on what the Python functions do."""

import json
import shutil

import pytest
import yaml
from ase.io import write

from cgcnn_ase import load_model

SETTINGS = (
    "epochs: 2\nbatch_size: 16\nengine: torch\nmean_variance: true\n"
    "graph: {cutoff: 5.0, n_neighbors: 6, merge: true}\n"
    "network: {n_features: 8, n_convolutions: 2, n_hidden: 8, n_gaussians: 8, cutoff: 5.0}\n"
)


@pytest.fixture(scope="module")
def path(make_crystals, tmp_path_factory):
    """A data set folder of 200 CIF files, and settings."""
    folder = tmp_path_factory.mktemp("command-line")
    (folder / "set").mkdir()
    structures, targets = make_crystals(200)
    lines = ["cif_id,ionicity"]
    for k, (atoms, target) in enumerate(zip(structures, targets, strict=True)):
        write(folder / "set" / f"c{k}.cif", atoms)
        lines.append(f"c{k},{target!r}")
    (folder / "set" / "id_prop.csv").write_text("\n".join(lines) + "\n")
    (folder / "c.yaml").write_text(SETTINGS)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CGCNN_ASE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def direct(path, cgcnn_ase, cache):
    """Trained from the data set."""
    return cgcnn_ase(
        "train", path / "set", "--config", path / "c.yaml", "--output", path / "direct", "--unit", "eV",
        "--target", "ionicity", "--val", "0.2",
    )  # fmt: skip


@pytest.fixture(scope="module")
def prepared(path, cgcnn_ase, cache):
    """Prepared, then trained."""
    ran = cgcnn_ase(
        "prepare", path / "set", "--config", path / "c.yaml", "--output", path / "prepared", "--unit", "eV",
        "--target", "ionicity", "--val", "0.2",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    return path / "prepared"


def test_train_says_what_it_found(direct, path):
    assert direct.code == 0, direct.err
    metrics = json.loads((path / "direct" / "metrics.json").read_text())
    assert "200 structures: " in direct.err
    assert f"test: MAE {metrics['test']['mae']:.4f} eV, 90 % interval covers" in direct.out
    assert direct.out.splitlines()[-1] == f"model: {path / 'direct' / 'best'}"
    assert load_model(path / "direct").target.name == "ionicity"


def test_prepared_data_give_the_same_weights(direct, prepared, path, cgcnn_ase, differing):
    ran = cgcnn_ase("train", prepared, "--config", path / "c.yaml", "--output", path / "from-prepared", "--json")
    assert ran.code == 0, ran.err
    assert not differing(path / "direct" / "last.ckpt", path / "from-prepared" / "last.ckpt")
    metrics = (path / "direct" / "metrics.json").read_text()
    assert (path / "from-prepared" / "metrics.json").read_text() == metrics
    report = json.loads(ran.out)
    assert report.pop("model") == str(path / "from-prepared" / "best")
    assert report == json.loads(metrics)


def test_prepare_does_not_overwrite(prepared, path, cgcnn_ase):
    ran = cgcnn_ase("prepare", path / "set", "--config", path / "c.yaml", "--output", prepared)
    assert ran.code == 2
    assert "is not empty" in ran.err


def test_the_graph_of_prepared_data_is_the_default(prepared, path, cgcnn_ase):
    settings = {k: v for k, v in yaml.safe_load(SETTINGS).items() if k != "graph"} | {"epochs": 1}
    (path / "no-graph.yaml").write_text(yaml.safe_dump(settings))
    ran = cgcnn_ase("train", prepared, "--config", path / "no-graph.yaml", "--output", path / "no-graph")
    assert ran.code == 0, ran.err
    (path / "other.yaml").write_text("graph: {cutoff: 6.0}\n")
    ran = cgcnn_ase("train", prepared, "--config", path / "other.yaml", "--output", path / "other")
    assert ran.code == 2
    assert "the settings ask for GraphConfig(rule='shell', cutoff=6.0" in ran.err


def test_evaluate_gives_the_numbers_of_the_run(direct, prepared, path, cgcnn_ase):
    ran = cgcnn_ase("evaluate", path / "direct", prepared, "--split", "test", "--json", "--output", path / "evaluated")
    assert ran.code == 0, ran.err
    expected = json.loads((path / "direct" / "metrics.json").read_text())["test"]
    assert json.loads(ran.out) == json.loads((path / "evaluated" / "metrics.json").read_text())
    assert _whole_set(ran.out) == pytest.approx(expected, rel=1e-6)
    assert expected["mean_squared_z_low"] < expected["mean_squared_z"] < expected["mean_squared_z_high"]
    results = (path / "evaluated" / "results.csv").read_text().splitlines()
    run = (path / "direct" / "test_results.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in results] == [line.split(",")[0] for line in run]
    assert (path / "evaluated" / "parity.png").exists()
    assert (path / "evaluated" / "calibration.png").exists()
    assert (path / "evaluated" / "domain.png").exists()


def _whole_set(out):
    """The figures of the whole set: not those of its groups."""
    return {name: value for name, value in json.loads(out).items() if not name.startswith("coverage_by_")}


def test_evaluate_on_a_data_set(direct, path, cgcnn_ase):
    ran = cgcnn_ase("evaluate", path / "direct", path / "set", "--json")
    figures = json.loads(ran.out)
    assert figures["n"] == 200
    assert sum(row["n"] for row in figures["coverage_by_domain_score"]) == 200
    assert all(row["n"] >= 30 for row in figures["coverage_by_element"])
    assert "coverage_by_e_above_hull" not in figures


def test_evaluate_tells_stable_from_unstable(direct, path, cgcnn_ase):
    """A column e_above_hull of the data groups the structures; rows without it are in no group."""
    shutil.copytree(path / "set", path / "hull")
    lines = (path / "set" / "id_prop.csv").read_text().splitlines()
    head, rows = lines[0].split(","), lines[1:]
    energies = ["0", "0.07", "0.3", ""]
    text = [",".join([*head, "e_above_hull"]), *(f"{row},{energies[k % 4]}" for k, row in enumerate(rows))]
    (path / "hull" / "id_prop.csv").write_text("\n".join(text) + "\n")
    ran = cgcnn_ase("evaluate", path / "direct", path / "hull", "--target", "ionicity", "--json")
    assert ran.code == 0, ran.err
    table = json.loads(ran.out)["coverage_by_e_above_hull"]
    assert [(row["from"], row["to"], row["n"]) for row in table] == [(None, 0.001, 50), (0.05, 0.1, 50), (0.2, 0.4, 50)]
    shown = cgcnn_ase("evaluate", path / "direct", path / "hull", "--target", "ionicity").out
    assert "by e_above_hull" in shown
    assert "0.05 to 0.1" in shown


def test_evaluate_names_the_splits(direct, prepared, path, cgcnn_ase):
    ran = cgcnn_ase("evaluate", path / "direct", prepared, "--split", "exam")
    assert ran.code == 2
    assert "has no split 'exam'; allowed: all, test, train, val" in ran.err
    alone = shutil.copytree(path / "direct" / "best", path / "model-alone")
    ran = cgcnn_ase("evaluate", alone, path / "set", "--split", "test")
    assert ran.code == 2
    assert "allowed: all; the data have no column `split`, and the model is no run" in ran.err


@pytest.mark.parametrize("model", ["direct", "direct/best"])
def test_a_run_knows_its_split(direct, path, cgcnn_ase, model):
    """Data without a column `split` are divided as the run divided them, by id: its own test errors come out."""
    ran = cgcnn_ase("evaluate", path / model, path / "set", "--split", "test", "--json")
    assert (ran.code, ran.err) == (0, "")
    expected = json.loads((path / "direct" / "metrics.json").read_text())["test"]
    assert _whole_set(ran.out) == pytest.approx(expected, rel=1e-5)


def test_evaluate_says_that_it_mixes_training_crystals_in(direct, path, cgcnn_ase):
    n = {split: load_model(path / "direct").training_record[f"n_{split}"] for split in ("train", "val")}
    ran = cgcnn_ase("evaluate", path / "direct", path / "set")
    assert f"{n['train']} of these 200 structures are training crystals of this run (and {n['val']} its" in ran.err
    assert "--split test leaves them out" in ran.err


def test_ids_of_other_crystals_are_not_those_of_the_run(direct, path, cgcnn_ase, make_crystals):
    """Files are often named alike: c0, c1, ... of another set are no training crystals."""
    (path / "others").mkdir()
    for k, atoms in enumerate(make_crystals(8, seed=77)[0]):
        atoms.numbers[:] = [37, 35]  # RbBr, which the run has not seen
        write(path / "others" / f"c{k}.cif", atoms)
    rows = [f"c{k},1.0" for k in range(8)]
    (path / "others" / "id_prop.csv").write_text("\n".join(["cif_id,ionicity", *rows]) + "\n")
    ran = cgcnn_ase("evaluate", path / "direct", path / "others")
    assert ran.code == 0
    assert "training crystals" not in ran.err
    ran = cgcnn_ase("evaluate", path / "direct", path / "others", "--split", "test")
    assert ran.code == 2
    assert "none of their structures was in the run" in ran.err


def test_fine_tuning(direct, path, cgcnn_ase):
    ran = cgcnn_ase(
        "train", path / "set", "--from", path / "direct", "--freeze", "embedding", "--epochs", "1", "--output",
        path / "tuned", "--val", "0.2",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    base, tuned = load_model(path / "direct"), load_model(path / "tuned")
    assert tuned.scaler == base.scaler
    assert tuned.target == base.target
    start = yaml.safe_load((path / "tuned" / "config.yaml").read_text())["from"]
    assert start == {"model": "direct", "sha256": base.sha256, "frozen": "embedding"}


def test_too_few_to_calibrate_is_one_line_on_stderr(path, cgcnn_ase, cache):
    ran = cgcnn_ase(
        "train", path / "set", "--config", path / "c.yaml", "--epochs", "1", "--val", "0.02", "--output",
        path / "few",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    (line,) = [line for line in ran.err.splitlines() if "warning" in line]
    assert line.startswith("cgcnn-ase: warning: the model is not calibrated: calibration needs at least 20")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "0"], "must be at least 1"),
        (["--workers", "0"], "workers must be at least 1"),
        (["--target", "price"], "no column 'price'"),
        (["--from", "nothing"], "no model 'nothing'"),
        (["--freeze", "head", "--from", "RUN"], "unknown layers 'head' to freeze; allowed: none, embedding"),
        (["--val", "0.9", "--test", "0.2"], "leave something to train on"),
    ],
)
def test_mistakes(direct, path, cgcnn_ase, options, message):
    options = [str(path / "direct") if option == "RUN" else option for option in options]
    ran = cgcnn_ase("train", path / "set", *options, "--output", path / "mistake")
    assert ran.code == 2
    assert message in ran.err
    assert not (path / "mistake").exists()


def test_a_mistake_in_a_file_of_settings_names_the_file(path, cgcnn_ase):
    (path / "wrong.yaml").write_text("epoch: 3\n")
    ran = cgcnn_ase("train", path / "set", "--config", path / "wrong.yaml", "--output", path / "mistake")
    assert ran.code == 2
    assert "wrong.yaml: unknown setting epoch; allowed: graph" in ran.err
