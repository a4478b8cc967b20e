"""What binds a model's requests, decided from a profile's figures alone."""

from __future__ import annotations

from serving.profiling.facts import Facts, Finding

CAUSES = ("input_size", "preprocessing", "computation", "no_batch", "transfer", "gateway")
# Which stages of a lone request speak for which cause. A lone request, because under load every stage waits for the
# same cores and the waits (queue, batch) are the symptom.
SPEAKS_FOR = {
    "preprocessing": ("header", "decode", "preprocess"),
    "computation": ("infer", "postprocess", "batch"),
    "transfer": ("wire", "transfer"),
    "gateway": ("gateway",),
}
# A sample with this many times the model's pixels (4 times on each side) costs by its size, not by the preprocessing.
LARGE_INPUT = 16.0
# Fewer requests than this a batch, while requests waited for at least this share of an inference: nothing is joined.
NO_BATCH, WAITED = 1.5, 0.5


def binding_cause(facts: Facts) -> Finding:
    """The cause that takes most of a lone request's time; pure."""
    alone = facts.alone.stages_ms
    times = {cause: sum(alone.get(stage, 0.0) for stage in stages) for cause, stages in SPEAKS_FOR.items()}
    cause = max(times, key=lambda name: times[name])
    ms, share = times[cause], times[cause] / max(facts.alone.mean_ms, 1e-9)
    if cause == "preprocessing" and _pixels(facts) >= LARGE_INPUT:
        cause = "input_size"
    if cause == "computation" and _never_joined(facts):
        cause = "no_batch"
    why, steps = _ADVICE[cause](facts)
    return Finding(cause, min(share, 1.0), f"{ms:.2f} of {facts.alone.mean_ms:.2f} ms: {why}", steps)


def _pixels(facts: Facts) -> float:
    """How many times the model's own pixels the sample has; 0 where there are none to compare."""
    if facts.source is None or facts.model_size is None:
        return 0.0
    return facts.source[0] * facts.source[1] / max(1, facts.model_size[0] * facts.model_size[1])


def _never_joined(facts: Facts) -> bool:
    """Requests waited while the engine took them one by one; not where `tune` has measured that batches do not pay."""
    stages = facts.loaded.stages_ms
    waited = stages.get("queue", 0.0) >= WAITED * stages.get("infer", 0.0)
    return waited and facts.loaded.batch < NO_BATCH and not (facts.tuned and facts.batch_limit == 1)


def _fast(facts: Facts) -> tuple[str, ...]:
    if facts.fast or facts.model_size is None:
        return ()
    return (
        "`preprocess: {fast: true}` in the model's YAML, then `lockstep convert`: JPEG decoded at a fraction of its "
        "size; served only if its row of the certificate passes",
    )


def _tune(facts: Facts, what: str) -> tuple[str, ...]:
    done = " (it was tuned: again where the machine or the load has changed)" if facts.tuned else ""
    return (f"`lockstep tune {facts.model}`: {what}{done}",)


def _input_size(facts: Facts) -> tuple[str, tuple[str, ...]]:
    assert facts.source is not None and facts.model_size is not None
    (width, height), (own_width, own_height) = facts.source, facts.model_size
    why = f"reading a picture of {width} x {height}, of which the model looks at {own_width} x {own_height}"
    smaller = f"send pictures of about {2 * own_width} x {2 * own_height}, made smaller where they come from"
    return why, (smaller, *_fast(facts))


def _preprocessing(facts: Facts) -> tuple[str, tuple[str, ...]]:
    steps = (*_fast(facts), *_tune(facts, "more instances decode and preprocess side by side"))
    return "decoding and preprocessing, more than the network itself", steps


def _computation(facts: Facts) -> tuple[str, tuple[str, ...]]:
    steps = (
        *_tune(facts, "instances, threads and batch for this machine"),
        "`lockstep convert ... --target gpu` on a machine with a GPU",
        "a smaller input (`preprocess.width`, `preprocess.height`) or a smaller network, trained for it; "
        "`lockstep check` counts its multiply-adds",
    )
    return "the network and what follows it", steps


def _no_batch(facts: Facts) -> tuple[str, tuple[str, ...]]:
    why = f"the network, asked one by one ({facts.loaded.batch:.1f} a batch) while requests wait"
    larger = "`batch: {max: 8}` in the model's YAML, then `lockstep convert`"
    wait = "`serving: {max_queue_delay_us: 1000}` in the model's YAML, then `lockstep convert`: wait for company"
    return why, (larger if facts.batch_limit == 1 else wait, *_tune(facts, "says whether batches pay here"))


def _transfer(facts: Facts) -> tuple[str, tuple[str, ...]]:
    sent = facts.bytes.get("request", 0)
    steps = (
        "send the file itself as the body, not base64 in JSON; tensors as binary data",
        f"send less than {sent} bytes: a smaller picture, or JPEG instead of PNG",
        "keep the connection open from request to request, and the client near the gateway",
    )
    return f"moving {sent} bytes to the model and {facts.bytes.get('answer', 0)} back", steps


def _gateway(facts: Facts) -> tuple[str, tuple[str, ...]]:
    steps = (
        f"`lockstep serve {facts.model} --workers {max(facts.cores, facts.workers + 1)}` (setting `workers`, now "
        f"{facts.workers})",
        "several pictures in one request (a multipart body), where the client has them together",
    )
    return "HTTP, admission and the answer in the gateway; the model itself is quick", steps


_ADVICE = {
    "input_size": _input_size,
    "preprocessing": _preprocessing,
    "computation": _computation,
    "no_batch": _no_batch,
    "transfer": _transfer,
    "gateway": _gateway,
}
