"""``cgcnn-ase optimize``: what it prints and draws, its exit codes, and configurations that are refused."""

import json
from pathlib import Path

import pytest
import yaml

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "optimize_ncm.yaml"
FUNCTION = """
def f(point, atoms):
    if point["x"] > 0.9:
        raise RuntimeError("too far")
    return {"value": (point["x"] - 0.3) ** 2, "other": point["x"]}
"""
CONFIG = {
    "space": {"variables": {"x": {"low": 0.0, "high": 1.0, "sites": 20}}},
    "objectives": "value",
    "oracle": {"name": "callable", "function": "f.py:f"},
    "budget": {"evaluations": 8, "initial": 4},
}


@pytest.fixture
def configured(tmp_path):
    (tmp_path / "f.py").write_text(FUNCTION)

    def write(**changes):
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(CONFIG | changes))
        return tmp_path / "c.yaml"

    return write


def variables(high):
    return {"variables": {"x": {"low": 0.0, "high": high, "sites": 20}}}


def test_a_run(cgcnn_ase, configured, tmp_path):
    ran = cgcnn_ase("optimize", configured(space=variables(0.9)), "--output", tmp_path / "run", "--json")
    assert ran.code == 0, ran.err
    report = json.loads(ran.out)
    assert report["best"]["point"] == {"x": 0.3}
    assert report["oracle"]["what"] == "the function f.py:f"
    assert (report["evaluations"], report["failed"], report["front"]) == (8, [], None)
    assert "oracle: the function f.py:f" in ran.err
    assert (tmp_path / "run" / "convergence.png").stat().st_size > 10_000
    assert not (tmp_path / "run" / "pareto.png").exists()
    again = cgcnn_ase("optimize", tmp_path / "c.yaml", "--output", tmp_path / "run", "--json")
    assert again.code == 2
    assert "holds an optimisation already; --resume goes on with it" in again.err
    resumed = cgcnn_ase("optimize", tmp_path / "c.yaml", "--output", tmp_path / "run", "--json", "--resume")
    assert (resumed.code, json.loads(resumed.out)) == (0, report)


def test_several_objectives_and_failures(cgcnn_ase, configured, tmp_path):
    config = configured(
        objectives=["value", {"name": "other", "goal": "max"}], budget={"evaluations": 20, "initial": 4}
    )
    ran = cgcnn_ase("optimize", config, "--output", tmp_path / "run")
    assert ran.code == 1
    assert "Pareto front" in ran.out
    assert "failed (x=1): RuntimeError: too far" in ran.err
    assert (tmp_path / "run" / "pareto.png").stat().st_size > 10_000
    assert "RuntimeError: too far" in (tmp_path / "run" / "log.csv").read_text()


CATHODE = {"host": "LiNiO2", "supercell": [2, 2, 1], "variables": {"ni_content": [0.5, 1.0]}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"orakel": "chgnet"}, "unknown setting orakel; did you mean oracle? allowed: space,"),
        ({"oracle": "chgnt"}, "oracle.name: unknown oracle 'chgnt'; did you mean chgnet?"),
        ({"oracle": {"name": "callable", "function": "f.py:f", "retry": 1}}, "unknown setting oracle.retry"),
        ({"budget": {"evaluatoins": 3}}, "unknown setting budget.evaluatoins; did you mean evaluations?"),
        ({"budget": {}}, "the setting budget.evaluations is missing"),
        ({"budget": {"evaluations": 0}}, "budget.evaluations: input should be greater than 0, not 0"),
        (
            {"acquisition": "eii"},
            "acquisition.name: unknown acquisition 'eii'; did you mean ei? allowed: best, ei,",
        ),
        ({"surrogate": "forest"}, "surrogate.kind: unknown surrogate 'forest'; allowed: gp, network, stacked"),
        ({"surrogate": "stacked"}, "surrogate stacked: no pretrained model predicts value; give `model`"),
        ({"objectives": []}, "objectives: list should have at least 1 item"),
        ({"objectives": ["value", "value"]}, "objectives: value is there twice"),
        ({"objectives": {"name": "value", "goal": "target"}}, "the goal `target` and a value for `target` go together"),
        ({"objectives": "voltage"}, "li_vacancy_ratio must be a variable, and its lowest value above 0"),
        ({"objectives": "stability"}, "it needs a host whose metals are mixed"),
        ({"space": {"variables": {"x": {"low": 1.0, "high": 0.0}}}}, "x: low 1 is above high 0"),
        ({"space": {"variables": {}}}, "a search space needs at least one variable"),
        ({"space": CATHODE | {"variables": {"ni_contents": [0, 1]}}}, "unknown variable ni_contents; allowed: "),
        ({"space": CATHODE | {"variables": {"ni_content": [0.9, 0.5]}}}, "ni_content: low 0.9 is above high 0.5"),
        ({"space": CATHODE | {"host": "LiFePO4"}}, "is no layered cathode"),
        ({"space": CATHODE | {"sum_to_one": ["x"]}}, "sum_to_one and structure are for spaces without a host"),
        ({"labels": "nothing.csv"}, "nothing.csv"),
    ],
)
def test_bad_configurations(cgcnn_ase, configured, tmp_path, changes, words):
    ran = cgcnn_ase("optimize", configured(**changes), "--output", tmp_path / "run")
    assert ran.code == 2
    assert words in ran.err
    assert len(ran.err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_files_that_are_no_configuration(cgcnn_ase, tmp_path):
    for text in ("- a\n- b\n", "a: [\n"):
        (tmp_path / "c.yaml").write_text(text)
        assert cgcnn_ase("optimize", tmp_path / "c.yaml", "--output", tmp_path / "run").code == 2
    assert cgcnn_ase("optimize", tmp_path / "none.yaml", "--output", tmp_path / "run").code == 2


def test_the_example_with_chgnet(cgcnn_ase, tmp_path):
    """The example as it stands but smaller, and nowhere called DFT."""
    small = yaml.safe_load(EXAMPLE.read_text())
    small["budget"] = {"evaluations": 4, "initial": 3}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(small))
    ran = cgcnn_ase("optimize", tmp_path / "c.yaml", "--output", tmp_path / "run", "--json")
    assert ran.code == 0, ran.err
    report = json.loads(ran.out)
    assert report["oracle"]["what"] == (
        "CHGNet 0.4.2, a machine-learned potential, not DFT, of structures relaxed by cathode-potential where it knows "
        "their elements"
    )
    assert -0.2 < report["best"]["values"]["mixing_energy_per_atom"] <= 0.01
    assert "not DFT" in (tmp_path / "run" / "log.csv").read_text().splitlines()[1]
