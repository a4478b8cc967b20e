"""Reads results: a line for each frame and model, at least once; a better answer is printed again.

usage: consumer.py BROKER [--prefix P] [--source ID] [--group NAME] [--until N]
"""

import argparse
import json

from kafka import KafkaConsumer

# A frame may have several records: replays, a worker that was slow. Higher is better; equal ones are the same answer.
RANK = {"result": 2, "dead_letter": 1, "dropped": 0}
REASONS = [  # the lists of docs/guarantees.md: earlier is better
    "poison", "schema", "retry_exhausted",
    "decode_error", "no_pts", "bad_pts", "duplicate_pts", "out_of_order", "preroll", "fenced", "too_large",
    "not_sampled", "overload", "stale", "model_unavailable", "retention", "deadline",
]  # fmt: skip


def rank(record):
    """The order of docs/alignment.md: outcome, then model version (or reason), then the earlier attempt."""
    is_result = record["outcome"] == "result"
    second = int(record["model_version"]) if is_result else -REASONS.index(record["reason"])
    return RANK[record["outcome"]], second, -record["attempt"]


def better(new, old):
    """By rank; between equal results the smaller hash."""
    return rank(new) > rank(old) or (rank(new) == rank(old) and new["hash"] < old["hash"])


def line(record):
    """What a person wants to know of it."""
    time = "no time" if record["pts_ns"] is None else f"{record['pts_ns'] / 1e9:.3f} s"
    where = f"{record['source_id']} epoch {record['epoch']} {time} {record['pipeline']}"
    if record["outcome"] != "result":
        return f"{where}: {record['outcome']} ({record['reason']})"
    boxes = [f"{b.get('label', b['class_id'])} {b['confidence']:.2f}" for b in record.get("detections", ())]
    return f"{where}: {', '.join(boxes) or 'nothing'}"


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("broker")
    arguments.add_argument("--prefix", default="", help="the setting kafka_prefix")
    arguments.add_argument("--source", default="", help="only this source_id")
    arguments.add_argument("--group", default="", help="its position is kept under this name: my-consumer[-SOURCE]")
    arguments.add_argument("--until", type=int, default=0, help="stop after so many frames; 0: never")
    given = arguments.parse_args()
    consumer = KafkaConsumer(
        given.prefix + "results",
        bootstrap_servers=given.broker,
        group_id=given.group or "-".join(filter(None, ["my-consumer", given.source])),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    seen = {}
    try:
        while not given.until or len(seen) < given.until:
            for records in consumer.poll(timeout_ms=500).values():
                for record in records:
                    if given.source and record.key != given.source.encode():
                        continue
                    result = json.loads(record.value)
                    result["hash"] = dict(record.headers).get("payload_hash", b"").decode()
                    key = result["source_id"], result["epoch"], result["frame_seq"], result["pipeline"]
                    if key not in seen or better(result, seen[key]):
                        seen[key] = result
                        print(line(result), flush=True)
            consumer.commit()  # after the lines are out: a crash repeats some, and loses none
    finally:
        consumer.close()


if __name__ == "__main__":
    main()
