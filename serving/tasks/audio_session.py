"""Sound on a stream, piece by piece: the state of the network, the rest of a window and open events go along."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from serving.errors import EngineFailed, InputError, ServingError
from serving.preprocess.audio import Windows, mono_blocks
from serving.sequences import WINDOW
from serving.spec import SoundSpec
from serving.tasks.base import Infer
from serving.tasks.events import NS_PER_S, EventMaker, EventRules
from serving.types import Array, AudioEvents, FloatArray, InferRequest, InferResponse, PixelArray, TaskResult

GAP_NS = 5_000_000  # pieces whose times differ by less belong together (a container's ticks may be milliseconds)


def audio_of(scores: Array, state: Array) -> AudioEvents:
    """Scores of windows and the state after them, without events: those are the session's."""
    none = np.zeros(0, np.int64)
    heard = np.asarray(scores, np.float32).reshape(len(scores), -1)
    empty = np.zeros(0, np.float32), np.zeros(0, np.bool_)
    return AudioEvents(none, none, none, none, *empty, (0, 0), heard, np.asarray(state, np.float32).ravel())


class SoundSession:
    """See `serving.tasks.base.Session` and `ShapesRequests`. A hole in time begins a new hearing at its other side."""

    def __init__(self, rule: SoundSpec, rules: EventRules) -> None:
        self._rule, self._rules = rule, rules
        self._cut, self._events = Windows(rule), EventMaker(rule, rules)
        self._state: FloatArray = np.zeros(sum(int(np.prod(s.shape)) for s in rule.state), np.float32)
        self._next_ns: int | None = None
        self._asked: tuple[int, int, FloatArray] | None = None  # time, samples and windows of the piece being asked

    def count_from(self, told: int) -> None:
        """See `serving.tasks.base.NumbersFinds`."""
        self._events.told = told

    def ask(self, request: InferRequest, infer: Infer, pts_ns: int) -> InferResponse | ServingError:
        """The piece's windows with the state so far. Called again for the same piece, it asks the same."""
        if self._asked is None or self._asked[0] != pts_ns:
            try:
                samples = np.concatenate(list(mono_blocks(request.encoded or b"", self._rule.sample_rate)))
            except InputError as error:
                return error
            self._join(pts_ns)
            self._asked = pts_ns, len(samples), self._cut.feed(samples)
        tensors = {WINDOW: self._asked[2], **self._named_state()}
        answers = infer([InferRequest(tensors=tensors, parameters=request.parameters)])
        if len(answers) != 1:
            return EngineFailed(f"one piece of sound was sent, {len(answers)} answers came")
        return answers[0]

    def update(self, result: TaskResult, pts_ns: int, picture: PixelArray) -> TaskResult:
        """The events of this piece, those that go on marked open."""
        assert isinstance(result, AudioEvents) and self._asked is not None
        if len(result.state):
            self._state = result.state
        self._next_ns = pts_ns + self._asked[1] * NS_PER_S // self._rule.sample_rate
        return self._events.feed(result.scores)

    def _join(self, pts_ns: int) -> None:
        if self._next_ns is not None and abs(pts_ns - self._next_ns) <= GAP_NS:
            return
        if self._next_ns is not None:
            self._cut = Windows(self._rule)
            self._state = np.zeros_like(self._state)
        self._events.gap(pts_ns)

    def _named_state(self) -> Mapping[str, Array]:
        sizes = [int(np.prod(state.shape)) for state in self._rule.state]
        parts = np.split(self._state, np.cumsum(sizes)[:-1]) if sizes else []
        return {s.input: part.reshape(s.shape) for s, part in zip(self._rule.state, parts, strict=True)}
