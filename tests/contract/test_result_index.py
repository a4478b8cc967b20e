"""One contract for the index on Redis and its double: results by PTS, latest, states, marks, outages."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis_support import RedisServer

from serving.adapters.redis import RedisIndex
from serving.adapters.redis_states import RedisStates
from serving.errors import Unavailable
from serving.ports_index import MINUTE_NS, ResultIndex
from serving.testing.memory_index import MemoryIndex

FRAME_NS = 33_366_667


class System:
    """An index and what can befall it."""

    def __init__(self, index: ResultIndex, down: Callable[[bool], None], flush: Callable[[], None]) -> None:
        self.index, self.down, self.flush = index, down, flush


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.close()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.needs("redis"))])
def system(request: pytest.FixtureRequest) -> Iterator[System]:
    if request.param == "memory":
        memory = MemoryIndex()
        yield System(memory, memory.set_down, memory.flush)
        return
    server: RedisServer = request.getfixturevalue("server")
    index = RedisIndex(server.url, "test.")
    yield System(index, lambda down: server.stop() if down else server.start(), server.flush)
    index.close()


def document(pts_ns: int, epoch: int = 1, pipeline: str = "persons", outcome: str = "result", **more: Any) -> Any:
    return {"epoch": epoch, "pts_ns": pts_ns, "pipeline": pipeline, "outcome": outcome, **more}


def pts(index: ResultIndex, *where: Any, limit: int = 1000) -> list[int]:
    return [found["pts_ns"] for found in index.results("gate", *where, limit).documents]


def test_ranges_are_half_open_and_exact_to_the_nanosecond(system: System) -> None:
    times = [n * FRAME_NS for n in range(4000)]  # over two minutes
    near = 3 * MINUTE_NS + 1_000_000_007
    system.index.write("gate", [document(t) for t in reversed(times)])
    system.index.write("gate", [document(near - 1), document(near), document(near + 1)])
    assert pts(system.index, 1, 0, None, limit=9999) == [*times, near - 1, near, near + 1]
    assert pts(system.index, 1, near, near + 1) == [near], "three results within one microsecond are told apart"
    assert pts(system.index, 1, times[10], times[12]) == times[10:12]
    assert pts(system.index, 1, near + 2, None) == [] and pts(system.index, 2, 0, None) == []
    assert system.index.results("other", 1, 0, None, 10).documents == ()


def test_pages_join_without_a_gap_and_never_part_one_picture(system: System) -> None:
    wanted = [(n * FRAME_NS, name) for n in range(50) for name in ("faces", "persons")]
    system.index.write("gate", [document(t, pipeline=name) for t, name in wanted])
    found: list[tuple[int, str]] = []
    start: int | None = 0
    pages = 0
    while start is not None:
        page = system.index.results("gate", 1, start, None, 7)
        rows = [(d["pts_ns"], d["pipeline"]) for d in page.documents]
        assert len(rows) % 2 == 0 and len(rows) <= 8
        found, start, pages = found + rows, page.next_pts_ns, pages + 1
    assert found == wanted and pages == 13


def test_a_page_of_one_has_all_pipelines_of_its_picture(system: System) -> None:
    names = [f"p{n:02}" for n in range(20)]
    system.index.write("gate", [document(t, pipeline=name) for t in (999, 1000, 1001) for name in names])
    found: list[tuple[int, str]] = []
    start: int | None = 0
    while start is not None:
        page = system.index.results("gate", 1, start, None, 1)
        assert len(page.documents) == 20
        found, start = found + [(d["pts_ns"], d["pipeline"]) for d in page.documents], page.next_pts_ns
    assert found == [(t, name) for t in (999, 1000, 1001) for name in names]


def test_a_raised_outcome_replaces_the_one_before(system: System) -> None:
    system.index.write("gate", [document(5, outcome="dropped", reason="stale"), document(5, pipeline="faces")])
    system.index.write("gate", [document(5, attempt=2)])
    found = system.index.results("gate", 1, 0, None, 10).documents
    assert [(d["pipeline"], d["outcome"], d.get("attempt")) for d in found] == [
        ("faces", "result", None),
        ("persons", "result", 2),
    ]


def test_epochs_do_not_mix(system: System) -> None:
    system.index.write("gate", [document(5, 2, n=2), document(5, 1, n=1), document(7, 12)])
    assert system.index.epochs("gate") == (1, 2, 12)
    assert [d["n"] for e in (1, 2) for d in system.index.results("gate", e, 0, None, 10).documents] == [1, 2]


def test_latest_is_the_newest_by_place_whatever_came_last(system: System) -> None:
    assert system.index.latest("gate").documents == {} and system.index.latest("gate").age_s is None
    system.index.write("gate", [document(9, 2), document(900, 1), document(3, 2, "faces")])
    system.index.write("gate", [document(8, 2), document(10, 2, outcome="dropped")])
    latest = system.index.latest("gate")
    assert {name: (d["epoch"], d["pts_ns"]) for name, d in latest.documents.items()} == {
        "persons": (2, 9),
        "faces": (2, 3),
    }
    assert latest.age_s is not None and 0 <= latest.age_s < 30


def test_what_is_read_back_from_the_log_does_not_look_fresh(system: System) -> None:
    system.index.write("gate", [document(9)], fresh=False)
    assert system.index.latest("gate").age_s is None and len(system.index.latest("gate").documents) == 1


def eventually(condition: Callable[[], bool], patience_s: float = 10.0) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_states_by_source_and_role(system: System) -> None:
    system.index.put_state("ingest", "gate", {"epoch": 3, "fps_in": 14.9})
    system.index.put_state("mixer", "gate", {"shown": 5})
    system.index.put_state("ingest", "yard", {"epoch": 1})
    eventually(lambda: len(system.index.states(["gate"])["gate"]) == 2)
    eventually(lambda: "ingest" in system.index.states(["yard"])["yard"])
    assert system.index.states(["gate", "yard", "none"]) == {
        "gate": {"ingest": {"epoch": 3, "fps_in": 14.9}, "mixer": {"shown": 5}},
        "yard": {"ingest": {"epoch": 1}},
        "none": {},
    }
    system.index.forget("gate")
    assert system.index.states(["gate", "yard"]) == {"gate": {}, "yard": {"ingest": {"epoch": 1}}}


def test_a_mark_tells_of_a_flush(system: System) -> None:
    assert system.index.exchange("writer", "1") is None
    assert system.index.exchange("writer", "2") == "1"
    system.flush()
    assert system.index.exchange("writer", "3") is None
    assert system.index.results("gate", 1, 0, None, 10).documents == ()


def test_an_outage_is_said_at_once_and_ends_by_itself(system: System) -> None:
    system.index.write("gate", [document(5)])
    system.down(True)
    started = time.monotonic()
    for ask in (
        lambda: system.index.write("gate", [document(6)]),
        lambda: system.index.results("gate", 1, 0, None, 5),
        lambda: system.index.latest("gate"),
        lambda: system.index.epochs("gate"),
        lambda: system.index.states(["gate"]),
        lambda: system.index.exchange("writer", "1"),
        lambda: system.index.forget("gate"),
    ):
        with pytest.raises(Unavailable):
            ask()
    system.index.put_state("ingest", "gate", {"epoch": 1})
    assert time.monotonic() - started < 2
    system.down(False)
    eventually(lambda: _works(system.index))


def _works(index: ResultIndex) -> bool:
    try:
        index.write("gate", [document(7)])
    except Unavailable:
        return False
    return True


# -- what only a real server can do --------------------------------------------------------------------------------


@pytest.mark.needs("redis")
def test_a_server_that_hangs_blocks_nobody(server: RedisServer) -> None:
    index = RedisIndex(server.url)
    index.write("gate", [document(5)])
    server.pause(True)
    try:
        started = time.monotonic()
        index.put_state("ingest", "gate", {"epoch": 1})
        assert time.monotonic() - started < 0.2, "a role's loop does not wait"
        with pytest.raises(Unavailable):
            index.latest("gate")
        assert time.monotonic() - started < 2.5
        asked = time.monotonic()
        for _ in range(100):
            with pytest.raises(Unavailable):
                index.latest("gate")
            if time.monotonic() - asked > 0.3:
                break
        assert time.monotonic() - asked < 1.5, "the next ones are refused without waiting"
    finally:
        server.pause(False)
        index.close()


class _Bomb:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle was loaded",))


@pytest.mark.needs("redis")
def test_s13_planted_bytes_are_a_miss(server: RedisServer) -> None:
    index = RedisIndex(server.url, "s13.")
    index.write("gate", [document(5), document(6)])
    index.put_state("ingest", "gate", {"epoch": 1})
    eventually(lambda: bool(index.states(["gate"])["gate"]))
    bomb = pickle.dumps(_Bomb())
    with server.client() as client:
        assert all(key.startswith(b"s13.lockstep:") for key in client.keys("*"))
        client.hset("s13.lockstep:doc:gate:1:0", "5:persons", bomb)
        client.hset("s13.lockstep:latest:gate", mapping={"persons": bomb, "faces": b"[1]", "cars": b'{"epoch": "x"}'})
        client.set("s13.lockstep:state:ingest:gate", bomb)
        client.zadd("s13.lockstep:pts:gate:1:0", {bomb: 0, b"7:persons": 0})
        client.hset("s13.lockstep:doc:gate:1:0", "7:persons", b'{"epoch": 1, "pts_ns": 8, "pipeline": "persons"}')
    assert pts(index, 1, 0, None) == [6]
    assert index.latest("gate").documents == {}
    assert index.states(["gate"]) == {"gate": {}}
    index.write("gate", [document(9), document(9, pipeline="cars")])
    assert {name: d["pts_ns"] for name, d in index.latest("gate").documents.items()} == {"persons": 9, "cars": 9}
    index.close()


@pytest.mark.needs("redis")
@pytest.mark.parametrize("value", [str(10**30), "1e999", "NaN", "9" * 5000, '"\\ud800"', "[" * 300 + "]" * 300])
def test_what_could_not_be_answered_is_a_miss(server: RedisServer, value: str) -> None:
    index = RedisIndex(server.url)
    index.write("gate", [document(5), document(6)])
    with server.client() as client:
        client.set("lockstep:state:ingest:gate", f'{{"epoch": {value}}}')
        planted = f'{{"epoch": 1, "pts_ns": 5, "pipeline": "persons", "more": {value}}}'
        client.hset("lockstep:doc:gate:1:0", "5:persons", planted)
        client.hset("lockstep:latest:gate", "persons", planted)
        client.zadd("lockstep:epochs:gate", {value: 2})
        client.zadd("lockstep:minutes:gate:1", {value: 2})
    assert index.states(["gate"]) == {"gate": {}} and index.latest("gate").documents == {}
    assert index.epochs("gate") == (1,) and pts(index, 1, 0, None) == [6]
    index.close()


@pytest.mark.needs("redis")
def test_a_state_that_cannot_be_written_costs_no_later_one(server: RedisServer) -> None:
    index = RedisIndex(server.url)
    index.put_state("ingest", "gate", {"error": "no such file: \udce4.mp4"})
    time.sleep(0.2)
    index.put_state("ingest", "yard", {"epoch": 1})
    eventually(lambda: bool(index.states(["yard"])["yard"]))
    index.close()


@pytest.mark.needs("redis")
def test_a_page_costs_what_it_holds(server: RedisServer) -> None:
    """Of a minute with 1500 results, behind 550 minutes whose time is over."""
    index = RedisIndex(server.url)
    index.write("gate", [document(n * MINUTE_NS) for n in range(550)])
    index.write("gate", [document(550 * MINUTE_NS + n * FRAME_NS) for n in range(1500)])
    with server.client() as client:
        client.delete(*(f"lockstep:{kind}:gate:1:{n}" for n in range(550) for kind in ("pts", "doc")))
        client.config_resetstat()
        assert pts(index, 1, 0, None, limit=1) == [550 * MINUTE_NS]
        calls = {name: told["calls"] for name, told in client.info("commandstats").items()}
        assert calls["cmdstat_hmget"] == 1 and calls["cmdstat_zrangebyscore"] == 2
        assert client.zcard("lockstep:minutes:gate:1") == 1, "what is over is taken off the list"
    assert pts(index, 1, 0, None, limit=400) == [550 * MINUTE_NS + n * FRAME_NS for n in range(400)]
    index.close()


@pytest.mark.needs("redis")
def test_a_place_of_two_minds_is_a_miss(server: RedisServer) -> None:
    """Pages would go back to it for ever."""
    index = RedisIndex(server.url)
    index.write("gate", [document(n * FRAME_NS) for n in range(5)])
    with server.client() as client:
        client.zadd("lockstep:pts:gate:1:0", {f"{FRAME_NS}:persons": 50_000_000})
    assert pts(index, 1, 0, None) == [n * FRAME_NS for n in (0, 2, 3, 4)]
    index.close()


@pytest.mark.needs("redis")
def test_the_account_of_the_document_is_enough(server: RedisServer) -> None:
    text = Path(__file__).parents[2].joinpath("docs", "redis.md").read_text("utf-8")
    rules = text.partition("ACL SETUSER lockstep on >... ")[2].partition("```")[0].split()
    with server.client() as client:
        if client.info("server")["redis_version"] < "7.2":
            rules.remove("+client|setinfo")
        client.execute_command("ACL", "SETUSER", "lockstep", "on", ">secret", *rules)
    index = RedisIndex(server.url.replace("unix://", "unix://lockstep:secret@"))
    index.write("gate", [document(n * MINUTE_NS) for n in range(3)])
    index.put_state("ingest", "gate", {"epoch": 1})
    with server.client() as client:
        client.delete("lockstep:pts:gate:1:0", "lockstep:latest:gate")
        client.set("lockstep:latest:gate", "planted")
    assert pts(index, 1, 0, None) == [MINUTE_NS, 2 * MINUTE_NS] and index.epochs("gate") == (1,)
    index.write("gate", [document(5)])
    assert index.latest("gate").documents and index.exchange("writer", "1") is None
    eventually(lambda: bool(index.states(["gate"])["gate"]))
    index.forget("gate")
    index.close()


@pytest.mark.needs("redis")
def test_keys_of_another_type_are_a_miss_and_are_taken_back(server: RedisServer) -> None:
    index = RedisIndex(server.url)
    with server.client() as client:
        for key in ("pts:gate:1:0", "doc:gate:1:0", "minutes:gate:1", "epochs:gate", "latest:gate"):
            client.set(f"lockstep:{key}", b"planted")
        assert index.states(["gate"]) == {"gate": {}}
        client.sadd("lockstep:mark:writer", b"planted")
    assert pts(index, 1, 0, None) == [] and index.epochs("gate") == () and index.latest("gate").documents == {}
    index.write("gate", [document(5)])
    assert pts(index, 1, 0, None) == [5] and len(index.latest("gate").documents) == 1
    with server.client() as client:
        client.delete("lockstep:epochs:gate")
        client.set("lockstep:epochs:gate", b"planted")
    index.write("gate", [document(6)])
    assert pts(index, 1, 0, None) == [5, 6], "what is ours stays"
    assert index.exchange("writer", "1") is None and index.exchange("writer", "2") == "1"
    index.close()


@pytest.mark.needs("redis")
def test_everything_goes_by_itself(server: RedisServer) -> None:
    index = RedisIndex(server.url, retention_s=60)
    index.write("gate", [document(5)])
    index.put_state("ingest", "gate", {"epoch": 1})
    index.exchange("writer", "1")
    eventually(lambda: bool(index.states(["gate"])["gate"]))
    with server.client() as client:
        left = {key.decode(): client.ttl(key) for key in client.keys("*")}
    assert len(left) == 8 and all(0 < seconds <= 60 for seconds in left.values()), left
    assert left["lockstep:state:ingest:gate"] <= 10
    index.close()


@pytest.mark.needs("redis")
def test_states_of_a_role_that_reads_nothing_are_the_same_states(server: RedisServer) -> None:
    telling, index = RedisStates(server.url, "test."), RedisIndex(server.url, "test.")
    telling.put_state("worker", "gate", {"analysed": 7})
    eventually(lambda: index.states(["gate"])["gate"] == {"worker": {"analysed": 7}})
    telling.close()
    index.close()
