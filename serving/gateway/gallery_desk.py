"""Galleries for one gateway process: file work on a thread, one at a time; other processes wait by the lock.

Who waits for it (for another process too) lets the others of this one go on, and keeps its own time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from serving.errors import DeadlineExceeded, NotFound, ParameterInvalid
from serving.errors_gallery import GalleryBusy
from serving.gallery import Facts, Galleries, GalleryWriter, Rule, near_duplicates, threshold_for
from serving.gallery.asking import Found, answers, duplicate_rows, sample_of, subjects, summary

T = TypeVar("T")
MOST_COMPARED = 10_000  # samples whose pairs are all compared for one request: seconds of a core at 1280 numbers
WRITER_WAIT_S, PAUSE_S = 5.0, 0.05  # for a writer of another process to end; between two looks


class GalleryDesk:
    """Every method returns plain JSON values. Raises what serving.gallery raises, and DeadlineExceeded (`until`)."""

    def __init__(self, folder: Path) -> None:
        self._galleries = Galleries(folder)
        self._turn, self._comparing = asyncio.Lock(), asyncio.Lock()
        self._deadline: float | None = None

    def until(self, deadline: float) -> GalleryDesk:
        """This desk for one request, whose time is over at `deadline` (the loop's clock, seconds)."""
        desk = copy(self)
        desk._deadline = deadline
        return desk

    async def names(self) -> list[dict[str, Any]]:
        """All galleries."""
        return await self._do(lambda: [self._summary(name) for name in self._galleries.names()])

    async def facts(self, name: str) -> Facts:
        """The gallery's record."""
        return await self._do(lambda: self._galleries.get(name).facts)

    async def one(self, name: str) -> dict[str, Any]:
        """A gallery with its subjects."""
        return await self._do(
            lambda: {**self._summary(name), "subjects_list": subjects(self._galleries.get(name).view())}
        )

    async def create(self, facts: Facts) -> dict[str, Any]:
        """A new gallery."""

        def make() -> dict[str, Any]:
            self._galleries.create(facts)
            return self._summary(facts.name)

        return await self._do(make)

    async def change(self, name: str, values: dict[str, Any]) -> dict[str, Any]:
        """threshold and margin as given; `far` chooses the threshold from the gallery's own pairs."""

        def write() -> dict[str, Any]:
            reader = self._galleries.get(name)
            with self._writer(name) as writer:
                chosen: dict[str, Any] = {}
                facts = replace(reader.facts, **{k: v for k, v in values.items() if k in ("threshold", "margin")})
                if "threshold" in values:
                    facts = replace(facts, far=None)
                if "far" in values:
                    found = threshold_for(reader.view(), values["far"])
                    facts = replace(facts, threshold=found.threshold, far=values["far"])
                    chosen = {"measured": {"far": found.far, "tar": found.tar, "impostor_pairs": found.impostors,
                                           "genuine_pairs": found.genuine}}  # fmt: skip
                writer.set_facts(facts)
            return {**self._summary(name), **chosen}

        return await self._write(write)

    async def delete(self, name: str) -> None:
        """The gallery with all it holds."""
        await self._write(lambda: self._galleries.delete(name, wait_s=0))

    async def subject(self, name: str, subject: str) -> dict[str, Any]:
        """One subject."""
        return await self._do(lambda: self._subject(name, subject))

    async def enrol(
        self, name: str, subject: str, found: Found, about: dict[str, Any], label: str, replaces: bool
    ) -> dict[str, Any]:
        """Acknowledged: it is on the disk when this returns."""

        def write() -> dict[str, Any]:
            with self._writer(name) as writer:
                (number,) = writer.enrol(subject, [sample_of(found, about)], fingerprint=found.fingerprint,
                                         label=label, replace=replaces)  # fmt: skip
            return {**self._subject(name, subject), "sample": number}

        return await self._write(write)

    async def relabel(self, name: str, subject: str, label: str) -> dict[str, Any]:
        """Another label."""

        def write() -> dict[str, Any]:
            with self._writer(name) as writer:
                writer.relabel(subject, label)
            return self._subject(name, subject)

        return await self._write(write)

    async def remove(self, name: str, subject: str) -> None:
        """A subject with all samples."""

        def write() -> None:
            with self._writer(name) as writer:
                writer.remove(subject)

        await self._write(write)

    async def duplicates(self, name: str, rule: Rule) -> dict[str, Any]:
        """Groups of near duplicates. Searches and changes go on meanwhile: the view never changes."""
        view = await self._do(lambda: self._galleries.get(name).view())
        if len(view) > MOST_COMPARED:
            raise ParameterInvalid(f"gallery {name}: {len(view)} samples, {MOST_COMPARED} at most are compared here",
                                   hint="`lockstep galleries duplicates` compares any number")  # fmt: skip
        async with self._hold(self._comparing):  # seconds each: several at once would take all threads
            groups = await asyncio.to_thread(near_duplicates, view, rule.threshold)
        return {"gallery": name, "threshold": rule.threshold, "samples": len(view),
                "groups": duplicate_rows(view, groups)}  # fmt: skip

    async def search(self, name: str, rule: Rule, found: list[Found], top: int) -> list[dict[str, Any]]:
        """Who each of them is, all against the same view."""

        def look() -> list[dict[str, Any]]:
            reader = self._galleries.get(name)
            return answers(reader.view(), reader.facts, rule, found, top)

        return await self._do(look)

    async def search_vector(self, name: str, rule: Rule, vector: list[float], top: int) -> list[dict[str, Any]]:
        """The same for an embedding that the caller has: it is taken to be of the gallery's own chain."""
        facts = await self.facts(name)
        return await self.search(name, rule, [Found(np.array(vector, np.float32), facts.fingerprint)], top)

    def _summary(self, name: str) -> dict[str, Any]:
        reader = self._galleries.get(name)
        return summary(reader.facts, reader.view())

    def _subject(self, name: str, subject: str) -> dict[str, Any]:
        view = self._galleries.get(name).view()
        found = next((row for row in subjects(view) if row["subject"] == subject), None)
        if found is None:
            raise NotFound(f"gallery {name}: no subject {subject[:80]!r}")
        return {"gallery": name, **found}

    def _writer(self, name: str) -> GalleryWriter:
        return GalleryWriter(self._galleries.get(name), wait_s=0)

    async def _do(self, work: Callable[[], T]) -> T:
        async with self._hold(self._turn):
            return await asyncio.to_thread(work)

    async def _write(self, work: Callable[[], T]) -> T:
        """`work` takes the gallery's lock at once or not at all; between two tries it is the turn of others."""
        clock = asyncio.get_running_loop().time
        due = clock() + WRITER_WAIT_S
        due = due if self._deadline is None else min(due, self._deadline)
        while True:
            try:
                return await self._do(work)
            except GalleryBusy:
                if clock() + PAUSE_S > due:
                    raise
            await asyncio.sleep(PAUSE_S)

    @asynccontextmanager
    async def _hold(self, lock: asyncio.Lock) -> AsyncIterator[None]:
        """The deadline bounds the wait; what has begun on a thread cannot be stopped and is finished."""
        late = DeadlineExceeded("the deadline passed before it was this request's turn at the galleries")
        if self._deadline is not None and asyncio.get_running_loop().time() >= self._deadline:
            raise late
        try:
            async with asyncio.timeout_at(self._deadline):
                await lock.acquire()
        except TimeoutError:
            raise late from None
        try:
            yield
        finally:
            lock.release()
