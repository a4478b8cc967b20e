"""The metrics page: shared by all that wait for one, and never older than the question."""

from __future__ import annotations

import asyncio
import time

from serving.gateway.metrics_page import MetricsPage


def test_a_hundred_scrapers_cost_two_pages_and_each_sees_what_was_counted_before_it_asked() -> None:
    count, made = 0, 0

    def make() -> bytes:
        nonlocal made
        made += 1
        seen = count
        time.sleep(0.05)
        return b"%d" % seen

    async def asked() -> list[bytes]:
        nonlocal count
        page = MetricsPage(make)
        first = asyncio.create_task(page.newest())
        while not made:
            await asyncio.sleep(0.001)
        count = 7
        later = [asyncio.create_task(page.newest()) for _ in range(100)]
        later[0].cancel()  # a scraper that goes away takes nobody's page with it
        return [await first, *await asyncio.gather(*later[1:]), await page.newest()]

    pages = asyncio.run(asked())
    assert pages == [b"0", *[b"7"] * 100] and made == 3


def test_a_page_that_fails_is_not_the_last() -> None:
    failing = True

    def make() -> bytes:
        if failing:
            raise OSError("gone")
        return b"page"

    async def asked() -> bytes:
        nonlocal failing
        page = MetricsPage(make)
        found = await asyncio.gather(page.newest(), page.newest(), return_exceptions=True)
        assert [type(error) for error in found] == [OSError, OSError]
        failing = False
        return await page.newest()

    assert asyncio.run(asked()) == b"page"
