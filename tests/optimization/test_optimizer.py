"""Ask and tell: it finds what it looks for, says the same after a restart, and is told no number for a failure."""

import numpy as np
import pytest

from cgcnn_ase.optimization.engine import Optimizer
from cgcnn_ase.optimization.space.cathode_space import cathode_space
from cgcnn_ase.optimization.space.search_space import SearchSpace, initial_points

SPACE = cathode_space(
    {"li_vacancy_ratio": [0, 0.75], "ni_content": [0, 1], "co_content": [0, 1], "mn_content": [0, 1],
     "ordering_seed": 3}
)  # fmt: skip


def energy(point):
    """A smooth function of composition, and of the ordering: the same for the same point."""
    noise = np.random.default_rng(list(SPACE.key(point).encode())).standard_normal()
    ni, mn, vacancy = point["ni_content"], point["mn_content"], point["li_vacancy_ratio"]
    return -1.2 * ni * mn + 0.3 * point["co_content"] + 0.9 * (vacancy - 0.35) ** 2 + 0.02 * noise


def run(n, *, batch=1, **options):
    optimizer = Optimizer(SPACE, n_initial=6, **options)
    told = []
    while len(told) < n:
        points = optimizer.ask(batch)
        optimizer.tell(points, [energy(point) for point in points])
        told += points
    return told


def test_the_best_hundredth_is_found_in_a_third_of_the_evaluations_of_random_search():
    values = np.sort([energy(point) for point in SPACE.candidates()])
    n_best = len(values) // 100
    best, random = values[n_best - 1], (len(values) + 1) / (n_best + 1)
    needed = []
    for seed in range(3):
        optimizer, n = Optimizer(SPACE, n_initial=6, seed=seed), 1
        while energy(*(points := optimizer.ask())) > best and n < 40:
            optimizer.tell(points, [energy(*points)])
            n += 1
        needed.append(n)
    assert np.mean(needed) < random / 3


def test_told_again_it_goes_on_as_if_never_stopped():
    whole = run(14, seed=3)
    again = Optimizer(SPACE, n_initial=6, seed=3)
    order = np.random.default_rng(0).permutation(11)  # in another order, in two goes
    for part in (order[:4], order[4:]):
        again.tell([whole[i] for i in part], [energy(whole[i]) for i in part])
    for point in whole[11:]:
        assert again.ask() == [point]
        again.tell([point], [energy(point)])


def test_a_batch_is_as_asking_one_by_one():
    together, single = Optimizer(SPACE, n_initial=6, seed=5), Optimizer(SPACE, n_initial=6, seed=5)
    for optimizer in (together, single):
        known = initial_points(SPACE, 8, kind="random", seed=1)
        optimizer.tell(known, [energy(point) for point in known])
    assert together.ask(5) == [point for _ in range(5) for point in single.ask()]
    assert together.pending == single.pending


@pytest.mark.parametrize("acquisition", ["ei", "lcb", "pi", "thompson", "uncertain", "information", "best"])
def test_nothing_is_asked_for_twice(acquisition):
    keys = [SPACE.key(point) for point in run(21, batch=5, acquisition=acquisition, seed=1)]
    assert len(set(keys)) == len(keys)


def test_other_seeds_begin_elsewhere():
    assert run(3, seed=0) != run(3, seed=1)


def test_a_failed_point_is_neither_a_number_nor_asked_for_again():
    optimizer, failed = Optimizer(SPACE, n_initial=4, seed=0), set()
    for _ in range(15):
        (point,) = optimizer.ask()
        assert SPACE.key(point) not in failed
        if point["li_vacancy_ratio"] > 0.3:
            failed.add(SPACE.key(point))
            optimizer.tell([], [], failed=[point])
        else:
            optimizer.tell([point], [energy(point)])
    assert failed
    assert len(optimizer.labels) == 15 - len(failed)
    assert optimizer.pending == []
    with pytest.raises(ValueError, match="not all finite numbers; a point without a value is told as failed"):
        optimizer.tell([point], [float("nan")])


def test_where_all_is_known_nothing_comes():
    space = SearchSpace.from_dict({"variables": {"n": {"low": 1, "high": 7, "integer": True}}})
    optimizer = Optimizer(space, n_initial=3)
    result = []
    while points := optimizer.ask(2):
        result += points
        optimizer.tell(points, [point["n"] for point in points])
    assert sorted(point["n"] for point in result) == list(range(1, 8))
    assert optimizer.best() == ({"n": 1}, (1.0,))


def test_only_candidates_are_asked_for():
    rows = SPACE.sample(30, 0)
    optimizer = Optimizer(SPACE, n_initial=5, candidates=rows)
    result = []
    while points := optimizer.ask(4):
        result += points
        optimizer.tell(points, [energy(point) for point in points])
    assert {SPACE.key(point) for point in result} == {SPACE.key(point) for point in rows}


def test_a_candidate_that_is_there_twice_is_asked_for_once():
    rows = SPACE.sample(4, 0)
    optimizer = Optimizer(SPACE, n_initial=2, candidates=rows + rows)
    optimizer.tell(rows[:2], [0.0, 1.0])
    assert len(optimizer.ask(8)) == 2


def test_a_lucky_label_with_a_large_error_bar_is_not_what_is_to_be_improved_on():
    points = SPACE.sample(20, 0)
    values = np.array([energy(point) for point in points])
    noise = np.zeros(20)
    values[3], noise[3] = values.min() - 5, 3.0
    lowest = []
    for told in (noise, None):
        optimizer = Optimizer(SPACE, n_initial=0)
        optimizer.tell(points, values, told)
        optimizer.ask()
        known = optimizer._known()[:, 0]
        lowest.append(known.min())
    assert lowest[1] == values[3]
    assert lowest[0] > values[3] + 4
    assert set(np.delete(values, 3)) <= set(known)


def test_labels_told_first_stand_for_initial_points():
    optimizer = Optimizer(SPACE, n_initial=6, seed=0)
    known = SPACE.sample(6, 3)
    optimizer.tell(known, [energy(point) for point in known], noise=np.full(6, 0.05))
    (proposal,) = optimizer.propose()
    assert proposal.acquisition == "ei"
    assert proposal.gain > 0
    assert len(proposal.mean) == len(proposal.std) == 1


def test_a_measured_point_between_the_realisable_ones_can_be_told():
    optimizer = Optimizer(SPACE, n_initial=0)
    measured = {"li_vacancy_ratio": 0.11, "ni_content": 0.815, "co_content": 0.1, "mn_content": 0.085,
                "ordering_seed": 0}  # fmt: skip
    optimizer.tell([measured, SPACE.point(0)], [0.1, 0.2], noise=[0.02, 0.0])
    assert optimizer.best()[0] == measured
    assert len(optimizer.ask(3)) == 3


def test_a_space_too_large_to_list_is_searched_near_the_best():
    shares = {name: {"low": 0, "high": 1, "sites": 40} for name in ("a", "b", "c", "d", "e")}
    space = SearchSpace.from_dict({"variables": shares, "sum_to_one": list(shares)})
    target = np.array([0.4, 0.3, 0.2, 0.1, 0.0])

    def cost(point):
        return float(((np.array([point[name] for name in shares]) - target) ** 2).sum())

    optimizer = Optimizer(space, n_initial=8, n_candidates=200, seed=0)
    for _ in range(25):
        points = optimizer.ask()
        optimizer.tell(points, [cost(point) for point in points])
    drawn = min(cost(point) for point in optimizer._candidates.points)
    assert optimizer.best()[1][0] < drawn  # better than any of the candidates that were drawn


def test_two_objectives_give_a_front():
    optimizer = Optimizer(SPACE, goals=["min", "max"], n_initial=6, seed=0)
    for _ in range(6):
        points = optimizer.ask(3)
        optimizer.tell(points, [(energy(point), point["ni_content"]) for point in points])
    front = optimizer.front()
    values = np.array(sorted(values for _, values in front))
    assert len(front) > 1
    assert (np.diff(values[:, 1]) > 0).all()  # to gain in one, the other must lose


@pytest.mark.parametrize("kind", ["sobol", "lhs", "grid", "random"])
def test_initial_points_cover_the_space(kind):
    points = initial_points(SPACE, 20, kind=kind, seed=2)
    assert len({SPACE.key(point) for point in points}) == 20
    assert points == initial_points(SPACE, 20, kind=kind, seed=2)
    assert all(SPACE.snap(point) == point for point in points)
    assert len({point["ni_content"] for point in points}) > 3
    everything = initial_points(SPACE, 10**4, kind="random")
    assert len(everything) == SPACE.count


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"acquisition": "ucb"}, "unknown acquisition 'ucb'; did you mean lcb. allowed: best"),
        ({"surrogate": "forest"}, "unknown surrogate 'forest'; allowed: gp, network, stacked"),
        ({"goals": "min"}, "goals must be a list with one for each objective, not 'min'"),
        ({"goals": ["low"]}, "goal 'low'; allowed: min, max, or a number"),
        ({"initial": "halton"}, "no initial points by 'halton'; allowed: sobol, random, lhs, grid"),
        ({"n_initial": -1}, "must be 0 or more"),
    ],
)
def test_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Optimizer(SPACE, **options)


@pytest.mark.parametrize(
    ("points", "values", "noise", "words"),
    [
        ([{"ni_content": 1.0}], [0.0], None, "point of ni_content; the variables are li_vacancy_ratio"),
        (
            [SPACE.point(0) | {"ni_content": "high"}],
            [0.0],
            None,
            "ni_content: value must be a finite number, not 'high'",
        ),
        ([SPACE.point(0)], [[0.0, 1.0]], None, r"values of shape \(1, 2\); 1 points of 1 objectives need \(1, 1\)"),
        ([SPACE.point(0)], [float("inf")], None, "the values are not all finite"),
        ([SPACE.point(0)], [0.0], [-1.0], "an error bar is negative: -1.0"),
    ],
)
def test_told_wrongly(points, values, noise, words):
    optimizer = Optimizer(SPACE)
    with pytest.raises(ValueError, match=words):
        optimizer.tell(points, values, noise)
    assert len(optimizer.labels) == 0
    with pytest.raises(ValueError, match="no value was told yet"):
        optimizer.best()
