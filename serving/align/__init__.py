"""Alignment: a result is drawn on the frame it was computed from, and on no other (docs/alignment.md).

Pure and bounded: nothing here reads a clock, waits, or starts a thread. How the stages use it:

Ingest, one `SourceTimeline` a source, records go to `frames` in the order returned::

    timeline = SourceTimeline("gate", ingest_id, ("person",), LocalClaims(), TimelineSettings())
    records = timeline.open(stream_info, clock.monotonic_ns())        # connect, reconnect, codec parameters changed
    records += timeline.packet(PacketIn(tag, raw_pts, keyframe, discard), now)   # before it enters the decoder
    records += timeline.picture(PictureIn(raw_pts, arrival_mono_ns, Picture(load=to_rgb), tag, corrupt), now)
    records += timeline.decoder_error(now)                              # the decoder raised
    records += timeline.tick(now)                                       # now and then on live sources
    records += timeline.close(now)                                      # end of input, decoder drained

`timeline.record` is the claim of the open epoch (topic `timelines`), `timeline.fenced` means: stop this source.
raw_pts is the container's integer or None; DTS is the decoder's business. A record is a `Frame` or a `DroppedRun`.

Worker: `FairQueue` (register each source with `SheddingRules`), then one posting per frame and pipeline::

    shed = queue.put(frame)                       # every frame; live: what had to go; files: ask queue.room first
    frame, stale = queue.take(now)                # post Outcome.dropped(reason) for what was shed
    result = FrameResult(model, model_version, task, detections, payload_hash(detections))
    posting = Posting(frame.ledger_key("person"), frame.pts_ns, Outcome.of_result(result, attempt=1))

Frames with `analyse` False are not sent to inference and get no posting: everyone derives not_sampled from the record.

Mixer, one a source; poll after every record and at `next_due_ns`::

    mixer = Mixer("gate", MixerSettings(live=True, delay_ns=250_000_000))
    show = mixer.frame(record, now)               # files: only while not mixer.full; live: what must leave at once
    mixer.post(posting, now)
    show += mixer.poll(now)                       # AlignedFrame: frame, out_pts_ns, overlays (boxes and their origin)
    mixer.end()                                   # input over: poll until mixer.held is 0

Accountant, one a partition; what it returns are records of `outcomes`::

    accountant.timeline(timeline.record); accountant.frame(record, now); accountant.post(posting, now)
    accountant.tick(now); accountant.finish(source_id); accountant.total(source_id, "person")    # a Balance
"""

from serving.align.accountant import Accountant, AccountCounters, CloseRule, OutcomeRecord
from serving.align.claims import EpochClaims, EpochRegister, LocalClaims
from serving.align.epoch_mix import Joined
from serving.align.freshness import AgeMeter, FairQueue, SheddingRules, max_age_ns, presentation_delay_ns
from serving.align.ledger import EMPTY_BALANCE, Balance, Posted, TimelineLedger
from serving.align.merge import merge, payload_hash
from serving.align.mixer import Mixer, MixerCounters, MixerFull, MixerSettings
from serving.align.outbox import Outbox, fold
from serving.align.timeline import PacketIn, PictureIn, SourceTimeline, TimelineCounters, TimelineSettings
from serving.align.unwrap import pts_modulus, ticks_to_ns, unwrap

__all__ = [
    "EMPTY_BALANCE",
    "AccountCounters",
    "Accountant",
    "AgeMeter",
    "Balance",
    "CloseRule",
    "EpochClaims",
    "EpochRegister",
    "FairQueue",
    "Joined",
    "LocalClaims",
    "Mixer",
    "MixerCounters",
    "MixerFull",
    "MixerSettings",
    "OutcomeRecord",
    "Outbox",
    "PacketIn",
    "PictureIn",
    "Posted",
    "SheddingRules",
    "SourceTimeline",
    "TimelineCounters",
    "TimelineLedger",
    "TimelineSettings",
    "fold",
    "max_age_ns",
    "merge",
    "payload_hash",
    "presentation_delay_ns",
    "pts_modulus",
    "ticks_to_ns",
    "unwrap",
]
