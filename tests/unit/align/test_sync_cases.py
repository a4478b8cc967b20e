"""Every case passes with the genuine code, and every mutant fails the cases named for it."""

from __future__ import annotations

import itertools

import pytest

from serving.testing.mutants import MUTANTS
from serving.testing.sync_cases import CASES
from serving.testing.sync_scene import play
from serving.testing.sync_score import judge, score


@pytest.mark.parametrize("name", CASES)
def test_the_genuine_code_passes(name: str) -> None:
    scene = CASES[name]()
    played = play(scene)
    assert judge(scene, played) == []
    assert played.shown, "a case that shows nothing proves nothing"
    assert score(scene, played).exact == 1.0


@pytest.mark.parametrize(("mutant", "case"), [(name, case) for name, m in MUTANTS.items() for case in m.cases])
def test_a_mutant_fails_the_cases_named_for_it(mutant: str, case: str) -> None:
    scene = CASES[case]()
    assert judge(scene, play(scene, MUTANTS[mutant].parts)) != [], f"{MUTANTS[mutant].what}: {case} does not see it"


@pytest.mark.parametrize(("case", "share"), [("ibbp", 0.67), ("pyramid3", 0.25)])
def test_dts_keys_give_the_shares_of_the_specification(case: str, share: float) -> None:
    scene = CASES[case]()
    assert abs(score(scene, play(scene, MUTANTS["dts"].parts)).exact - share) <= 0.05


@pytest.mark.parametrize(("case", "missed"), [("ibbp", 0.33), ("rate_29_97", 0.48)])
def test_millisecond_keys_miss_as_many_as_computed(case: str, missed: float) -> None:
    scene = CASES[case]()
    assert abs(1 - score(scene, play(scene, MUTANTS["milliseconds"].parts)).measured - missed) <= 0.05


def test_no_case_has_bounds_of_its_own() -> None:
    for name, make in CASES.items():
        scene = make()
        assert (scene.min_measured, scene.min_coverage, scene.max_fill_error) == (0.95, 0.99, 0.5), name


def test_the_wrap_cases_do_wrap() -> None:
    for name in ("wrap_ibbp", "wrap_pyramid3", "wrap_file", "bad_order_near_wrap", "wrap_flv"):
        scene = CASES[name]()
        raws = [p.raw_pts for p in sorted(scene.packets, key=lambda p: p.index) if p.raw_pts is not None]
        assert max(abs(b - a) for a, b in itertools.pairwise(raws)) > 1 << 30, name
