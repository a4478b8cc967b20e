"""The sound of a file as a source: where pieces begin, holes, what lies before the first picture, an early end."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import pytest
import soundfile

from serving.clock import SystemClock
from serving.errors import SourceError, SourceInvalid
from serving.media import DecoderRefused, MediaEvent, PictureSeen, SoundBlock, StreamEnded, StreamOpened
from serving.preprocess.audio import SoundLimits
from serving.spec import SoundSpec
from serving.streams.sound_source import Pieces, SoundSource
from serving.types import FloatArray

RATE = 8_000
RULE = SoundSpec(sample_rate=RATE, window=400)


@dataclass
class ListTrack:
    """Blocks as they are given; then the error, if there is one."""

    given: Sequence[SoundBlock]
    first_picture_s: Fraction | None = None
    rate: int = RATE
    codec: str = "list"
    error: SourceError | None = None
    closed: list[bool] = field(default_factory=list)

    def blocks(self) -> Iterator[SoundBlock]:
        yield from self.given
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        self.closed.append(True)


def block(begin_s: float | None, first: int, count: int) -> SoundBlock:
    """Samples that tell their number, as thousandths."""
    at = None if begin_s is None else Fraction(begin_s).limit_denominator(RATE)
    return SoundBlock(at, (np.arange(first, first + count) / 1000).astype(np.float32))


def events(track: ListTrack, rule: SoundSpec = RULE, most_s: float = 60) -> list[MediaEvent]:
    source = SoundSource("ears", lambda: track, rule, SystemClock(), SoundLimits(max_seconds=most_s))
    return list(source.connect().events())


def samples_of(found: Sequence[MediaEvent]) -> FloatArray:
    pieces = [soundfile.read(io.BytesIO(e.picture.encoded or b""))[0] for e in found if isinstance(e, PictureSeen)]
    return np.round(np.concatenate(pieces) * 1000) if pieces else np.zeros(0)


def test_pieces_are_whole_windows_and_the_last_is_filled_with_silence() -> None:
    track = ListTrack([block(0, 1, 3000), block(0.375, 3001, 2300)])
    found = events(track)
    assert isinstance(found[0], StreamOpened) and found[0].info.time_base == Fraction(1, RATE)
    assert [e.raw_pts for e in found if isinstance(e, PictureSeen)] == [0, 4000]
    assert np.array_equal(samples_of(found), [*range(1, 5301), *[0] * 300])
    assert found[-1] == StreamEnded(None) and track.closed


def test_sound_before_the_first_picture_is_left_out_and_a_later_beginning_is_silence() -> None:
    early = events(ListTrack([block(0, 0, 1000), block(0.125, 1000, 3000)], first_picture_s=Fraction(1, 4)))
    assert np.array_equal(samples_of(early)[:2000], np.arange(2000, 4000))
    late = events(ListTrack([block(1.5, 1, 2000)], first_picture_s=Fraction(1)))
    assert np.array_equal(samples_of(late)[:6000], [*[0] * 4000, *range(1, 2001)])


def test_holes_are_silence_repeats_are_cut_and_stamps_may_tremble() -> None:
    hole = events(ListTrack([block(0, 1, 1000), SoundBlock(None, None), block(0.5, 5, 400)]))
    assert np.array_equal(samples_of(hole)[:4400], [*range(1, 1001), *[0] * 3000, *range(5, 405)])
    assert sum(isinstance(e, DecoderRefused) for e in hole) == 1
    twice = events(ListTrack([block(0, 1, 1000), block(0, 1, 1000), block(0.125, 1001, 1000)]))
    assert np.array_equal(samples_of(twice)[:2000], np.arange(1, 2001))
    trembling = events(ListTrack([block(0, 1, 1000), block(0.127, 1001, 1000), block(None, 2001, 1000)]))
    assert np.array_equal(samples_of(trembling)[:3000], np.arange(1, 3001))


def test_sound_that_steps_back_ends_with_the_reason_and_a_stray_does_not() -> None:
    """Recordings joined end to end: of the second no time is known, and silence would say that nothing was heard."""
    first = [block(number / 2, 4000 * number, 4000) for number in range(4)]
    found = events(ListTrack([*first, block(0, 7, 4000), block(0.5, 7, 4000)]))
    assert np.array_equal(samples_of(found), np.arange(16_000))
    assert isinstance(found[-1], StreamEnded) and isinstance(found[-1].error, SourceInvalid)
    assert "ears: sound steps back at 2.0 s to 0.5 s" in str(found[-1].error)
    stray = events(ListTrack([*first, block(0, 7, 4000), block(2, 16_000, 4000)]))
    assert np.array_equal(samples_of(stray), np.arange(20_000)) and stray[-1] == StreamEnded(None)


def test_a_track_that_ends_early_or_is_too_long_gives_what_it_had_and_the_reason() -> None:
    cut = events(ListTrack([block(0, 1, 4100)], error=SourceInvalid("ends early")))
    assert len(samples_of(cut)) == 4400 and isinstance(cut[-1], StreamEnded) and cut[-1].error is not None
    claimed = events(ListTrack([block(0, 1, 400), block(1e6, 1, 400)]), most_s=10)
    assert len(samples_of(claimed)) == 400 and "more than 10 s" in str(claimed[-1])
    assert samples_of(events(ListTrack([]))).size == 0


def test_another_rate_is_resampled_as_one_stream() -> None:
    at = np.arange(48_000) / 48_000
    wave = (0.4 * np.sin(2 * np.pi * 200 * at)).astype(np.float32)
    blocks = [SoundBlock(Fraction(n, 48_000), wave[n : n + 1024]) for n in range(0, 48_000, 1024)]
    got = samples_of(events(ListTrack(blocks, rate=48_000)))[:RATE] / 1000
    assert np.abs(got - 0.4 * np.sin(2 * np.pi * 200 * np.arange(RATE) / RATE))[200:-200].max() < 2e-3


@pytest.mark.parametrize("samples", [1, 399, 400, 401, 4000, 4001, 9137])
@pytest.mark.parametrize("hop", [0, 100, 160])
def test_overlapping_windows_end_where_those_of_a_file_do(samples: int, hop: int) -> None:
    from serving.preprocess.audio import Windows

    rule = SoundSpec(sample_rate=RATE, window=400, hop=hop)
    whole, cut = Windows(rule), Windows(rule)
    made = len(whole.feed(np.ones(samples, np.float32)))
    made += len(whole.end(made))
    pieces = Pieces(rule)
    found = [*pieces.feed(np.ones(samples, np.float32)), *pieces.end()]
    assert sum(len(cut.feed(piece)) for _, piece in found) == made
