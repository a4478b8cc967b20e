"""Your own ingest: the pictures of a video file as frames. usage: ingest.py BROKER SOURCE_ID MODEL VIDEO [PREFIX]"""

import io
import json
import sys
import uuid

import av
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.partitioner.default import murmur2

broker, source, model, video, prefix = [*sys.argv[1:], ""][:5]
reader, producer = KafkaConsumer(bootstrap_servers=broker), KafkaProducer(bootstrap_servers=broker, acks="all")
places = [TopicPartition(prefix + "timelines", n) for n in reader.partitions_for_topic(prefix + "timelines")]
number = (murmur2(source.encode()) & 0x7FFFFFFF) % len(places)
reader.assign(places)


def owners():
    """Who owns each epoch of the source: its first record, in whatever partition; there may once have been fewer."""
    found, ends = {}, reader.end_offsets(places)
    reader.seek_to_beginning(*places)
    while any(reader.position(place) < ends[place] for place in places):
        for record in (record for records in reader.poll(500).values() for record in records):
            if record.key.startswith(f"{source}|".encode()):
                found.setdefault(int(record.key.split(b"|")[1]), record.key.decode().split("|")[2])
    return found


def claimed(**more):
    """Write the claim with this in it too, and wait until it is acknowledged."""
    claim.update(more)
    key = f"{source}|{epoch}|{own}".encode()
    producer.send(prefix + "timelines", json.dumps(claim).encode(), key, partition=number).get(30)


epoch, own, u0, sent = max(owners(), default=0) + 1, uuid.uuid4().hex, None, []
claim = {"schema": 1, "source_id": source, "epoch": epoch, "ingest_id": own, "pipelines": [model], "kind": "file"}
with av.open(video) as container:
    stream = next(iter(container.streams.video), None)
    for picture in container.decode(stream) if stream else ():
        if u0 is None and (u0 := picture.pts) is None:
            break  # without a time nothing can be joined
        if not sent:
            base = f"{stream.time_base.numerator}/{stream.time_base.denominator}"
            claimed(time_base=base, u0=u0, first_raw_pts=u0, width=stream.width, height=stream.height)
            if owners()[epoch] != own:
                producer.send(prefix + "timelines", None, f"{source}|{epoch}|{own}".encode(), partition=number).get(30)
                sys.exit(f"{source}: another ingest began at the same moment")
        headers = {"epoch": epoch, "frame_seq": len(sent), "pipelines": model}
        picture.to_image().save(data := io.BytesIO(), "JPEG", quality=90)
        if picture.pts is None or data.tell() > 900_000:  # given up, and it keeps its place
            data, headers["drop_reason"] = io.BytesIO(), "no_pts" if picture.pts is None else "too_large"
        else:
            ns = stream.time_base * (picture.pts - u0) * 10**9
            pts_ns = (2 * ns.numerator + ns.denominator) // (2 * ns.denominator)  # rounded half up
            headers |= {"pts": picture.pts, "time_base": base, "pts_ns": pts_ns}
        texts = [(name, str(value).encode()) for name, value in headers.items()]
        sent.append(producer.send(prefix + "frames", data.getvalue(), source.encode(), texts, number))
        if len(sent) > 100:
            sent[-100].get(60)  # no more are on their way at once
if not sent:
    sys.exit(f"{video}: expected pictures with PTS, found none")
for record in sent[-100:]:
    record.get(60)
claimed(frames=len(sent), last=True)  # all are on the log, and the source is over: its account may be closed
print(f"{source} epoch {epoch}: {len(sent)} frames")
