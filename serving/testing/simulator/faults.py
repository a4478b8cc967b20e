"""The faults F1 to F14 of the fault matrix, each a way to strike a running system at a random moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from serving.testing.simulator.camera import TICKS
from serving.testing.simulator.scheduler import NS_PER_S
from serving.testing.simulator.services import Answer

if TYPE_CHECKING:
    from serving.testing.simulator.system import System

Strike = Callable[["System"], bool]


def f1_kill(system: System) -> bool:
    """kill -9: a worker with records in flight, else a mixer, an accountant or an ingester; once in a while every
    worker, and nobody starts them again before the keys are closed.
    """
    rng = system.scheduler.rng
    if rng.random() < 0.08:
        for worker in system.workers:
            worker.kill(75 * NS_PER_S)
        for accountant in system.accountants:  # and what was closed must still be closed for the next accountant
            system.scheduler.after(90 * NS_PER_S, lambda a=accountant: a.kill(NS_PER_S))  # type: ignore[misc]
        return True
    victims = [w for w in system.workers if w.alive and w.in_flight > 0]
    others = [*system.mixers, *system.accountants, *(i for i in system.ingests if not i.fenced)]
    victim = rng.choice(victims) if victims and rng.random() < 0.6 else rng.choice(others)
    if not victim.alive:
        return False
    victim.kill(system.scheduler.between(200, 2500) if rng.random() < 0.7 else 8 * NS_PER_S)
    return True


def f2_broker_down(system: System) -> bool:
    """The broker goes away for a while, or loses acknowledgements."""
    log, scheduler = system.log, system.scheduler
    if not log.up:
        return False
    if scheduler.rng.random() < 0.3:
        log.lose_acks = True
        scheduler.after(scheduler.between(500, 2000), lambda: setattr(log, "lose_acks", False))
    else:
        log.set_up(False)
        scheduler.after(scheduler.between(300, 5000), lambda: log.set_up(True))
    return True


def f3_triton_killed(system: System) -> bool:
    """The server is gone and comes back."""
    if not system.triton.up:
        return False
    system.triton.up = False
    system.scheduler.after(system.scheduler.between(500, 6000), lambda: setattr(system.triton, "up", True))
    return True


def f4_redis(system: System) -> bool:
    """FLUSHALL, or down for a while."""
    system.redis.flush()
    if system.redis.up and system.scheduler.rng.random() < 0.5:
        system.redis.up = False
        system.scheduler.after(system.scheduler.between(500, 20_000), lambda: setattr(system.redis, "up", True))
    return True


def f5_corruption(system: System) -> bool:
    """Packets of one camera are damaged for a while."""
    camera = system.scheduler.rng.choice(system.cameras)
    camera.damage = 0.1
    system.scheduler.after(system.scheduler.between(1000, 4000), lambda: setattr(camera, "damage", 0.0))
    return not camera.done


def f6_slow(system: System) -> bool:
    """A worker five times slower; or the accountant stops while the log deletes what it has not read."""
    rng = system.scheduler.rng
    if rng.random() < 0.7:
        worker = rng.choice(system.workers)
        worker.slow = 5.0
        system.scheduler.after(system.scheduler.between(1000, 5000), lambda: setattr(worker, "slow", 1.0))
        return worker.alive
    partition = rng.randrange(len(system.accountants))
    accountant = system.accountants[partition]
    if not accountant.alive or accountant.stopped:
        return False
    wait = system.scheduler.between(1000, 3000)
    accountant.stop(wait + NS_PER_S // 10)
    system.scheduler.after(wait, lambda: system.delete_unread(partition))
    return True


def f7_rebalance_storm(system: System) -> bool:
    """Workers leave and join in turn."""
    for n in range(4):
        worker = system.workers[n % len(system.workers)]
        system.scheduler.after(n * NS_PER_S // 2, lambda w=worker: system.leave_and_join(w))  # type: ignore[misc]
    return True


def f8_clock_jump(system: System) -> bool:
    """The wall clock steps by an hour either way."""
    system.scheduler.wall_offset_ns += system.scheduler.rng.choice([-3600, 3600]) * NS_PER_S
    system.log.clean_by_time()
    return True


def f9_disk_full(system: System) -> bool:
    """The broker can be read and not written."""
    if system.log.disk_full:
        return False
    system.log.disk_full = True
    system.scheduler.after(system.scheduler.between(300, 3000), lambda: setattr(system.log, "disk_full", False))
    return True


def f10_second_ingest(system: System) -> bool:
    """A second ingester of the same camera."""
    return system.second_ingest()


def f11_poison(system: System) -> bool:
    """Pictures that end the worker, hang it, break the answer, or always fail."""
    rng, camera = system.scheduler.rng, system.scheduler.rng.choice(system.cameras)
    if camera.done:
        return False
    kinds = [Answer.EXIT, Answer.HANG, Answer.BROKEN, Answer.BROKEN, Answer.ERROR, Answer.ERROR]
    system.triton.bad[camera.source_id, camera.next_index + rng.randrange(4, 12)] = rng.choice(kinds)
    return True


def f12_zombie(system: System) -> bool:
    """A worker is stopped for longer than its session and comes back with old work."""
    victims = [w for w in system.workers if w.alive and not w.stopped and w.shares]
    if not victims:
        return False
    system.scheduler.rng.choice(victims).stop(system.scheduler.between(7000, 12_000))
    return True


def f13_camera(system: System) -> bool:
    """Reconnect with PTS from 0 or going on, other timestamps in mid-connection, twelve seconds of silence."""
    rng = system.scheduler.rng
    camera = rng.choice(system.cameras)
    if camera.done:
        return False
    kind = rng.randrange(4)
    if kind == 0:
        camera.reconnect(system.scheduler.between(50, 3000), 0)
    elif kind == 1:
        camera.reconnect(system.scheduler.between(50, 3000), None)
    elif kind == 2:
        camera.restart_clock(rng.randrange(2**33 // TICKS) * TICKS)
    else:
        camera.pause(12 * NS_PER_S)
    return True


def f14_triton_slow(system: System) -> bool:
    """Half a second slower, and one answer in twenty an error."""
    triton = system.triton
    triton.extra_ms, triton.error_share = 500.0, 0.05

    def healed() -> None:
        triton.extra_ms, triton.error_share = 0.0, 0.0

    system.scheduler.after(system.scheduler.between(500, 4000), healed)
    return True


FAULTS: dict[str, Strike] = {
    "F1": f1_kill,
    "F2": f2_broker_down,
    "F3": f3_triton_killed,
    "F4": f4_redis,
    "F5": f5_corruption,
    "F6": f6_slow,
    "F7": f7_rebalance_storm,
    "F8": f8_clock_jump,
    "F9": f9_disk_full,
    "F10": f10_second_ingest,
    "F11": f11_poison,
    "F12": f12_zombie,
    "F13": f13_camera,
    "F14": f14_triton_slow,
}
