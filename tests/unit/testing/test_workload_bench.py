"""`lockstep bench workloads`: what a row says, and that both arms of it are run in turns."""

from __future__ import annotations

from serving.testing.workload_bench import Figure, alternate, gallery, tracker


def test_a_row_says_whether_its_limit_is_met() -> None:
    rows = [Figure("w", "search", ours, bare, limit).to_row() for ours, bare, limit in
            ((1.5, 1.0, 2.0), (2.5, 2.0, 2.0), (9.0, None, None))]  # fmt: skip
    assert [(row["verdict"], row["ours / bare"]) for row in rows] == [("met", 1.5), ("missed", 1.25), ("", None)]


def test_ours_and_bare_take_turns_after_a_call_that_is_not_counted() -> None:
    order: list[str] = []
    ours, bare = alternate(lambda: order.append("o"), lambda: order.append("b"), 2, 3)
    assert "".join(order) == "ob" + "oobb" * 3 and ours >= 0 and bare >= 0
    assert alternate(lambda: None, None, 1, 1)[1] is None


def test_gallery_and_tracker_are_measured_on_what_they_say() -> None:
    found = gallery(1)
    assert found.workload == "gallery 10000 x 128" and found.ours > 0 and found.bare and found.limit == 2.0
    one = tracker("bytetrack", 1, 5)
    assert one.ours > 0 and one.limit == 1.0 and tracker("ocsort", 1, 2).limit is None
