"""The result index on Redis; the only importer of redis.

Keys, all under `<prefix>lockstep:` and all with a time to live (docs/redis.md):

    minutes:<source>:<epoch>        sorted set: minutes of PTS that have results
    pts:<source>:<epoch>:<minute>   sorted set: member `<pts_ns>:<pipeline>`, score microseconds (exact to 285 years)
    doc:<source>:<epoch>:<minute>   hash: the same member -> result document, JSON
    epochs:<source>                 sorted set
    latest:<source>                 hash: pipeline -> result document
    fresh:<source>                  set anew with each result; its remaining time to live tells the result's age
    state:<role>:<source>           JSON
    mark:<name>                     text

No script, no CONFIG, no KEYS is used, so the account needs none of them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from serving.adapters.redis_states import StateMailbox, key_prefix, state_key
from serving.adapters.redis_values import document_of, dumps, is_number, place_of_member, place_or_none
from serving.errors import Unavailable
from serving.ports_index import MINUTE_NS, NS_PER_US, ROLES, STATE_TTL_S, Json, Latest, Page, Place, place_of

logger = logging.getLogger("lockstep.index")

CONNECT_S = 0.3
ANSWER_S = 0.5
REST_S = 0.5  # after a failure callers are refused at once for so long
JOIN_S = 2 * (CONNECT_S + ANSWER_S)
PIECE = 256
SPARE = 8  # asked for beyond a page: what else stands at the PTS of its last result, and where the next one begins
NO_KEY = -2  # of PTTL
MINUTE_US = MINUTE_NS // NS_PER_US
_RESULT_TYPES = (b"zset", b"hash", b"zset", b"zset")  # of the keys of one minute of results
Answer = TypeVar("Answer")


class RedisIndex:
    """Meets `serving.ports_index.ResultIndex`. Nothing connects before it is used.

    url: redis://, rediss:// or unix://. retention_s: how long results stay after they were written.
    """

    def __init__(self, url: str, prefix: str = "", retention_s: float = 21_600.0) -> None:
        self._prefix, self._ttl_ms = key_prefix(prefix), int(retention_s * 1000)
        self._client = redis.Redis.from_url(
            url,
            socket_connect_timeout=CONNECT_S,
            socket_timeout=ANSWER_S,
            retry=Retry(NoBackoff(), 0),
            decode_responses=False,
            health_check_interval=0,
            client_name="lockstep",
        )
        self._refuse_until = 0.0
        self._mailbox = StateMailbox(self.write_states, JOIN_S)

    # -- results ----------------------------------------------------------------------------------------------------

    def write(self, source_id: str, documents: Sequence[Json], fresh: bool = True) -> None:
        """Put result documents at their places. Raises Unavailable."""
        placed = [(place_of(document), dumps(document)) for document in documents]
        newest: dict[str, tuple[Place, str]] = {}
        for (place, text), document in zip(placed, documents, strict=True):
            known = newest.get(place.pipeline)
            if document.get("outcome") == "result" and (known is None or place >= known[0]):
                newest[place.pipeline] = (place, text)
        for start in range(0, len(placed), PIECE):
            self._write_piece(source_id, placed[start : start + PIECE])
        if newest:
            self._write_latest(source_id, newest, fresh)

    def _write_piece(self, source_id: str, placed: Sequence[tuple[Place, str]]) -> None:
        minutes: dict[tuple[int, int], dict[str, tuple[int, str]]] = {}
        for place, text in placed:
            minute = minutes.setdefault((place.epoch, place.pts_ns // MINUTE_NS), {})
            minute[f"{place.pts_ns}:{place.pipeline}"] = (place.pts_ns // NS_PER_US, text)

        keys = {place: self._result_keys(source_id, *place) for place in minutes}
        kinds = {key: kind for found in keys.values() for key, kind in zip(found, _RESULT_TYPES, strict=True)}

        def ask(client: Any) -> None:
            pipe = client.pipeline(transaction=False)
            for place, members in minutes.items():
                marks, docs, listed, epochs = keys[place]
                pipe.zadd(marks, {member: score for member, (score, _) in members.items()})
                pipe.hset(docs, mapping={member: text for member, (_, text) in members.items()})
                pipe.zadd(listed, {str(place[1]): place[1]})
                pipe.zadd(epochs, {str(place[0]): place[0]})
            for key in kinds:
                pipe.pexpire(key, self._ttl_ms)
            pipe.execute()

        self._own(ask, kinds)

    def _write_latest(self, source_id: str, newest: Mapping[str, tuple[Place, str]], fresh: bool) -> None:
        """Read and replace: each source has one writer."""
        key = self._key("latest", source_id)

        def ask(client: Any) -> None:
            known = [place_or_none(document_of(value)) for value in client.hmget(key, list(newest))]
            older = {
                name: text
                for (name, (place, text)), there in zip(newest.items(), known, strict=True)
                if there is None or there <= place
            }
            pipe = client.pipeline(transaction=False)
            if older:
                pipe.hset(key, mapping=older)
                pipe.pexpire(key, self._ttl_ms)
            if fresh:
                pipe.set(self._key("fresh", source_id), "1", px=self._ttl_ms)
            pipe.execute()

        self._own(ask, {key: b"hash"})

    def results(self, source_id: str, epoch: int, from_ns: int, to_ns: int | None, limit: int) -> Page:
        """Documents of a half-open range. Raises Unavailable."""
        found: list[tuple[Place, Json]] = []
        for minute in self._minutes(source_id, epoch, from_ns, to_ns):
            for members in self._members(source_id, epoch, minute, from_ns, to_ns, limit + SPARE):
                rows = self._rows(source_id, epoch, minute, members)
                found += sorted(
                    (row for row in rows if from_ns <= row[0].pts_ns and (to_ns is None or row[0].pts_ns < to_ns)),
                    key=lambda row: row[0],
                )
                if len(found) > limit and found[limit - 1][0].pts_ns != found[-1][0].pts_ns:
                    return _page(found, limit)
        return _page(found, limit)

    def _minutes(self, source_id: str, epoch: int, from_ns: int, to_ns: int | None) -> Iterator[int]:
        """Those of the range that have results; those whose time is over are taken off the list."""
        key = self._result_keys(source_id, epoch, 0)[2]
        high: int | str = "+inf" if to_ns is None else (to_ns - 1) // MINUTE_NS
        listed: list[bytes] = self._ask(lambda client: client.zrangebyscore(key, from_ns // MINUTE_NS, high), [])
        minutes = [int(minute) for minute in listed if is_number(minute)]
        start, size = 0, 4  # the first ones are enough for most pages
        while piece := minutes[start : start + size]:
            start, size = start + size, PIECE
            left_ms = self._ask(partial(_pttl, [self._result_keys(source_id, epoch, minute)[0] for minute in piece]))
            dead = {minute for minute, left in zip(piece, left_ms, strict=True) if left == NO_KEY}
            if dead:
                self._ask(partial(_zrem, key, dead), 0)
            yield from (minute for minute in piece if minute not in dead)

    def _members(
        self, source_id: str, epoch: int, minute: int, from_ns: int, to_ns: int | None, most: int
    ) -> Iterator[list[tuple[bytes, float]]]:
        """About `most` of a minute's members at a time, in the order of their microseconds, none of which is parted."""
        key = self._result_keys(source_id, epoch, minute)[0]
        low, high = minute * MINUTE_US, (minute + 1) * MINUTE_US - 1
        low = max(low, from_ns // NS_PER_US)
        high = high if to_ns is None else min(high, (to_ns - 1) // NS_PER_US)
        while True:
            listed: list[tuple[bytes, float]] = self._ask(partial(_zrangebyscore, key, low, high, most), [])
            if len(listed) < most:
                yield listed
                return
            last_us = int(listed[-1][1])  # the next piece begins with it: there may be more of it
            if whole := [row for row in listed if row[1] < last_us]:
                yield whole
                low = last_us
            else:
                most *= 2

    def _rows(
        self, source_id: str, epoch: int, minute: int, members: Sequence[tuple[bytes, float]]
    ) -> Iterator[tuple[Place, Json]]:
        """What stands at these members, where all that is said of its place is one."""
        key = self._result_keys(source_id, epoch, minute)[1]
        for start in range(0, len(members), PIECE):
            piece = members[start : start + PIECE]
            values: list[Any] = self._ask(partial(_hmget, key, [m for m, _ in piece]), [None] * len(piece))
            for (member, score), value in zip(piece, values, strict=True):
                document, place = document_of(value), place_of_member(member, epoch)
                if document is None or place is None or place_or_none(document) != place:
                    continue
                if place.pts_ns // NS_PER_US == score:
                    yield place, document

    def epochs(self, source_id: str) -> tuple[int, ...]:
        """Epochs that have results. Raises Unavailable."""
        found: list[bytes] = self._ask(lambda client: client.zrange(self._key("epochs", source_id), 0, -1), [])
        return tuple(int(epoch) for epoch in found if is_number(epoch))

    def latest(self, source_id: str) -> Latest:
        """The newest results. Raises Unavailable."""
        key, fresh = self._key("latest", source_id), self._key("fresh", source_id)
        values: dict[bytes, bytes] = self._ask(lambda client: client.hgetall(key), {})
        left_ms = self._ask(lambda client: client.pttl(fresh), -2)
        documents = {name.decode("utf-8", "replace"): document_of(value) for name, value in values.items()}
        good = {name: document for name, document in documents.items() if document and place_or_none(document)}
        return Latest(good, max(0.0, (self._ttl_ms - left_ms) / 1000) if left_ms >= 0 else None)

    # -- states and marks -------------------------------------------------------------------------------------------

    def put_state(self, role: str, source_id: str, fields: Json) -> None:
        """What a role says of a source; written by a thread of its own."""
        self._mailbox.put(state_key(self._prefix, role, source_id), dumps(fields))

    def write_states(self, states: Mapping[str, str]) -> None:
        """States by key, now. Raises Unavailable."""

        def ask(client: Any) -> None:
            pipe = client.pipeline(transaction=False)
            for key, text in states.items():
                pipe.set(key, text, px=int(STATE_TTL_S * 1000))
            pipe.execute()

        self._ask(ask)

    def states(self, source_ids: Sequence[str]) -> Mapping[str, Mapping[str, Json]]:
        """What the roles say. Raises Unavailable."""
        asked = [(source_id, role) for source_id in source_ids for role in ROLES]
        found: dict[str, dict[str, Json]] = {source_id: {} for source_id in source_ids}
        for start in range(0, len(asked), PIECE):
            piece = asked[start : start + PIECE]
            keys = [self._key("state", f"{role}:{source_id}") for source_id, role in piece]
            values: list[Any] = self._ask(partial(_mget, keys))
            for (source_id, role), value in zip(piece, values, strict=True):
                if (state := document_of(value)) is not None:
                    found[source_id][role] = state
        return found

    def forget(self, source_id: str) -> None:
        """Take states and latest results away. Raises Unavailable."""
        keys = [self._key("state", f"{role}:{source_id}") for role in ROLES]
        keys += [self._key("latest", source_id), self._key("fresh", source_id)]
        self._ask(lambda client: client.delete(*keys))

    def exchange(self, name: str, value: str) -> str | None:
        """Leave a mark, return the last one. Raises Unavailable."""
        key = self._key("mark", name)
        before = self._own(lambda client: client.set(key, value, get=True, px=self._ttl_ms), {key: b"string"})
        return before.decode("utf-8", "replace") if isinstance(before, bytes) else None

    def close(self) -> None:
        """Let go."""
        self._mailbox.close()
        self._client.close()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _key(self, kind: str, rest: str) -> str:
        return f"{self._prefix}{kind}:{rest}"

    def _result_keys(self, source_id: str, epoch: int, minute: int) -> tuple[str, str, str, str]:
        timeline = f"{source_id}:{epoch}"
        return (
            self._key("pts", f"{timeline}:{minute}"),
            self._key("doc", f"{timeline}:{minute}"),
            self._key("minutes", timeline),
            self._key("epochs", source_id),
        )

    def _ask(self, question: Callable[[Any], Answer], planted: Answer | None = None) -> Answer:
        """One exchange with the server. planted: the answer where a key holds another type than ours: a miss."""
        with self._guarded():
            try:
                return question(self._client)
            except ResponseError as error:
                if planted is None or "WRONGTYPE" not in str(error):
                    raise
                return planted

    def _own(self, writing: Callable[[Any], Answer], keys: Mapping[str, bytes]) -> Answer:
        """Write to keys that are ours, of these types: where somebody planted another type, that one goes first."""
        with self._guarded():
            try:
                return writing(self._client)
            except ResponseError as error:
                if "WRONGTYPE" not in str(error):
                    raise
                foreign = [key for key, kind in keys.items() if self._client.type(key) not in (kind, b"none")]
                self._client.delete(*foreign)
                return writing(self._client)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Every error of the client is Unavailable; after a dead connection nobody waits again for a moment."""
        if time.monotonic() < self._refuse_until:
            raise Unavailable("the index is away")
        try:
            yield
        except (RedisConnectionError, redis.exceptions.TimeoutError, OSError) as error:
            self._refuse_until = time.monotonic() + REST_S
            raise Unavailable(f"the index is away: {type(error).__name__}") from error
        except RedisError as error:
            raise Unavailable(f"the index refused: {type(error).__name__}") from error


def _page(found: Sequence[tuple[Place, Json]], limit: int) -> Page:
    """About `limit` of these, those of one PTS together."""
    if len(found) <= limit:
        return Page(tuple(document for _, document in found))
    last_pts = found[limit - 1][0].pts_ns
    taken = [row for row in found if row[0].pts_ns <= last_pts]
    after = found[len(taken)][0].pts_ns if len(taken) < len(found) else None
    return Page(tuple(document for _, document in taken), after)


def _pttl(keys: Sequence[str], client: Any) -> list[int]:
    pipe = client.pipeline(transaction=False)
    for key in keys:
        pipe.pttl(key)
    return list(pipe.execute())


def _zrem(key: str, members: Iterable[int], client: Any) -> int:
    return int(client.zrem(key, *members))


def _zrangebyscore(key: str, low: int, high: int, most: int, client: Any) -> list[tuple[bytes, float]]:
    return list(client.zrangebyscore(key, low, high, start=0, num=most, withscores=True))


def _hmget(key: str, members: Sequence[bytes], client: Any) -> list[Any]:
    return list(client.hmget(key, members))


def _mget(keys: Sequence[str], client: Any) -> list[Any]:
    return list(client.mget(keys))
