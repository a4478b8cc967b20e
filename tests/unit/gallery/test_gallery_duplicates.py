"""Groups of near duplicates equal scipy's connected components of the full cosine table."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

from serving.errors import ParameterInvalid
from serving.gallery import View, near_duplicates


def view_of(vectors: np.ndarray, dead: tuple[int, ...] = (), tail: int = 0) -> View:
    """One subject a row; the last `tail` rows came after the snapshot."""
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    alive = np.ones(len(unit), bool)
    alive[list(dead)] = False
    base, rest = np.split(unit, [len(unit) - tail])
    names = tuple(f"s{n}" for n in range(len(unit)))
    return View(base, rest, np.arange(len(unit), dtype=np.int32), np.arange(len(unit)) + 100, alive, names)


@pytest.mark.parametrize("seed", range(4))
def test_groups_equal_the_components_of_the_whole_table(seed: int) -> None:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((300, 16))
    rows = centres[rng.integers(0, 300, 1300)] + 0.25 * rng.standard_normal((1300, 16))  # over two blocks of rows
    dead = tuple(rng.choice(1300, 60, replace=False).tolist())
    view = view_of(rows, dead, tail=333)
    threshold = 0.92
    found = near_duplicates(view, threshold)
    vectors, _ = view.vectors()
    table = vectors @ vectors.T
    label = connected_components(table >= threshold, directed=False)[1]
    living = np.flatnonzero(view.alive)
    expected = {
        frozenset(int(living[row]) + 100 for row in np.flatnonzero(label == one))
        for one in np.unique(label)
        if (label == one).sum() > 1
    }
    assert {frozenset(sample for _, sample in group.members) for group in found} == expected
    assert len(expected) > 50 and [len(g.members) for g in found] == sorted(
        (len(g.members) for g in found), reverse=True
    )
    place = {int(row) + 100: at for at, row in enumerate(living)}
    for group in found:
        inside = [place[sample] for _, sample in group.members]
        part = table[np.ix_(inside, inside)]
        assert group.least == pytest.approx(part.min(), abs=1e-6)
        assert group.best == pytest.approx(part[np.triu_indices(len(part), 1)].max(), abs=1e-6)
        assert [subject for subject, _ in group.members] == [f"s{sample - 100}" for _, sample in group.members]


def test_an_exact_copy_is_found_at_one_and_a_deleted_sample_is_not() -> None:
    rows = np.random.default_rng(3).standard_normal((40, 1280))
    rows[30], rows[31] = rows[4] * 3, rows[5]
    (group,) = near_duplicates(view_of(rows, dead=(5,)), 1.0)
    assert group.members == (("s4", 104), ("s30", 130)) and group.least == pytest.approx(1.0, abs=1e-6)


def test_an_empty_gallery_has_none_and_a_threshold_that_says_nothing_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert near_duplicates(View.empty(), 0.9) == []
    for threshold in (0.0, -0.5, 1.1, float("nan")):
        with pytest.raises(ParameterInvalid, match="expected a cosine"):
            near_duplicates(View.empty(), threshold)
    monkeypatch.setattr("serving.gallery.duplicates.MOST_PAIRS", 20)
    with pytest.raises(ParameterInvalid, match="more than 20 pairs"):
        near_duplicates(view_of(np.ones((10, 4))), 0.5)
