"""Your own ingest: the pictures of a video file as frames. usage: ingest.py BROKER SOURCE_ID MODEL VIDEO [PREFIX]"""

import io
import json
import sys

import av
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.partitioner.default import murmur2

broker, source, model, video, prefix = [*sys.argv[1:], ""][:5]
reader = KafkaConsumer(bootstrap_servers=broker)
number = (murmur2(source.encode()) & 0x7FFFFFFF) % len(reader.partitions_for_topic(prefix + "timelines"))
place = TopicPartition(prefix + "timelines", number)
reader.assign([place])
reader.seek_to_beginning(place)
epoch, end = 1, reader.end_offsets([place])[place]
while reader.position(place) < end:  # an epoch that nobody has claimed yet
    for record in reader.poll(500).get(place, []):
        epoch = max(epoch, json.loads(record.value)["epoch"] + 1 if record.key.startswith(f"{source}|".encode()) else 1)
producer = KafkaProducer(bootstrap_servers=broker, acks="all")
with av.open(video) as container:
    stream, u0, seq = container.streams.video[0], None, 0
    base = f"{stream.time_base.numerator}/{stream.time_base.denominator}"
    claim = {"schema": 1, "source_id": source, "epoch": epoch, "ingest_id": "own", "time_base": base, "kind": "file"}
    claim |= {"pipelines": [model], "width": stream.width, "height": stream.height, "codec": stream.codec.name}
    for seq, picture in enumerate(container.decode(stream)):
        if u0 is None:
            claim |= {"u0": (u0 := picture.pts), "first_raw_pts": u0}
            key = f"{source}|{epoch}|own".encode()
            producer.send(place.topic, json.dumps(claim).encode(), key, partition=number).get(10)
        ns = stream.time_base * (picture.pts - u0) * 10**9
        headers = {"epoch": epoch, "frame_seq": seq, "pipelines": model, "pts": picture.pts, "time_base": base}
        headers |= {"pts_ns": (2 * ns.numerator + ns.denominator) // (2 * ns.denominator)}  # rounded half up
        picture.to_image().save(jpeg := io.BytesIO(), "JPEG", quality=92, subsampling=0)
        texts = [(name, str(value).encode()) for name, value in headers.items()]
        producer.send(prefix + "frames", jpeg.getvalue(), source.encode(), texts, number)
claim |= {"frames": seq + 1, "last": True}  # the source is over, so its account can be closed at once
producer.send(place.topic, json.dumps(claim).encode(), key, partition=number).get(10)
producer.flush()
print(f"{source} epoch {epoch}: {seq + 1} frames")
