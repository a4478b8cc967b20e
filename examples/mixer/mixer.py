"""Burns boxes into your own decode of a source. usage: mixer.py BROKER SOURCE_ID VIDEO OUTPUT.mp4 [PREFIX]

A file, an HLS playlist or an MPEG-TS recording: what has the same timestamps for whoever reads it (see README.md).
"""

import json
import sys
from fractions import Fraction

import av
from kafka import KafkaConsumer, TopicPartition

GREEN = (0, 255, 0)


def read(consumer, topic):
    """Everything that stands on a topic now, in the order of each partition."""
    places = [TopicPartition(topic, n) for n in consumer.partitions_for_topic(topic)]
    consumer.assign(places)
    consumer.seek_to_beginning(*places)
    ends = consumer.end_offsets(places)
    while any(consumer.position(place) < ends[place] for place in places):
        for records in consumer.poll(500).values():
            yield from records


def unwrapped(raw, ref, modulus):
    """Ticks that do not wrap: the value nearest to the last one. modulus None: the container never wraps."""
    return raw if modulus is None else ref + (raw - ref + modulus // 2) % modulus - modulus // 2


def frame(rgb, box):
    """A rectangle, two pixels wide."""
    x1, y1, x2, y2 = (round(v) for v in box)
    for y in (y1, y2):
        rgb[max(0, y - 1) : y + 1, max(0, x1 - 1) : x2 + 1] = GREEN
    for x in (x1, x2):
        rgb[max(0, y1 - 1) : y2 + 1, max(0, x - 1) : x + 1] = GREEN


broker, source, video, output, prefix = [*sys.argv[1:], ""][:5]
consumer = KafkaConsumer(bootstrap_servers=broker, enable_auto_commit=False)
key = source.encode()
claims = {}
for record in read(consumer, prefix + "timelines"):  # the first record with an epoch's number owns it
    if record.key.startswith(key + b"|"):
        claims.setdefault((claim := json.loads(record.value))["epoch"], claim)
claim = claims[max(claims)]
epoch, u0, modulus, base = claim["epoch"], claim["u0"], claim.get("pts_modulus"), Fraction(claim["time_base"])
answers = {}
for record in read(consumer, prefix + "results"):
    if record.key == key and (result := json.loads(record.value))["outcome"] == "result":
        # Of several answers the first one in the order of docs/alignment.md: version, attempt, hash.
        order = -int(result["model_version"]), result["attempt"], dict(record.headers).get("payload_hash", b"")
        new, known = (order, result.get("detections", [])), answers.setdefault((result["epoch"], result["pts_ns"]), {})
        known[result["pipeline"]] = min(known.get(result["pipeline"], new), new, key=lambda answer: answer[0])

exact = {"correct_ts_overflow": "0", "fflags": "nofillin"}  # stamps as they stand there: neither moved nor guessed
with av.open(video, options=exact) as container, av.open(output, "w") as mixed:
    stream = container.streams.video[0]
    assert stream.time_base == base, f"the timeline counts in {base}, this reader in {stream.time_base}"
    writing, ref, drawn = mixed.add_stream("libx264", rate=stream.average_rate, options={"crf": "18"}), u0, 0
    writing.width, writing.height, writing.pix_fmt, writing.time_base = stream.width, stream.height, "yuv420p", base
    writing.codec_context.time_base = base
    for picture in container.decode(stream):
        if picture.pts is None:
            continue
        ref = unwrapped(picture.pts, ref, modulus)
        ns = (ref - u0) * base * 10**9
        pts_ns = (2 * ns.numerator + ns.denominator) // (2 * ns.denominator)  # rounded half up
        found = [box for _, boxes in answers.get((epoch, pts_ns), {}).values() for box in boxes]
        rgb = picture.to_ndarray(format="rgb24")
        for box in found:
            frame(rgb, box["xyxy"])
        shown = av.VideoFrame.from_ndarray(rgb, format="rgb24")
        shown.pts, shown.time_base = ref - u0, base
        mixed.mux(writing.encode(shown))
        drawn += bool(found)
    mixed.mux(writing.encode(None))
print(f"{source} epoch {epoch}: boxes on {drawn} pictures")
