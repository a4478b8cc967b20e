"""Make a version's canary: run its input in process, through the same `ServedModel` that the backend runs.

`python -m serving.triton.derive VERSION_DIR TARGET OUT [SAMPLE]`, a process of its own, so that the supervisor holds
neither the engine's memory nor its threads. SAMPLE is a picture with something in it; without one a picture is drawn.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from serving.bundle import MANIFEST, sha256_of
from serving.config import Settings, load_settings
from serving.errors import EngineFailed, LockstepError
from serving.triton.canary import CANARY, Canary, make_inputs
from serving.triton.home import python_environment
from serving.types import InferResponse

DERIVE_SECONDS = 120.0
# Low enough that a detector says something about a drawn picture: a canary without boxes would prove little.
_MANY: dict[str, str | int | bool] = {"score_threshold": "0.0", "max_detections": 10}
_PARAMETERS = {"detection": _MANY, "face": _MANY, "pipeline": _MANY}


def derive(version_dir: Path, settings: Settings, target: str = "cpu", sample: bytes | None = None) -> Canary:
    """The canary of a version. Raises LockstepError classes where the version does not load or cannot answer."""
    from serving.backend import open_served, samples_of, stack  # brings prometheus_client, which a gateway imports late

    model = open_served(version_dir, settings, target)
    spec = model.bundle.spec
    inputs = {spec.encoded_input: np.frombuffer(sample, np.uint8)[None]} if sample is not None else make_inputs(spec)
    parameters = _PARAMETERS.get(spec.task, dict[str, str | int | bool]())
    (answer,) = model.infer(list(samples_of(inputs, parameters)))
    if not isinstance(answer, InferResponse):
        raise EngineFailed(f"{spec.name}: its own canary fails: {answer}")
    expected = stack([{n: np.atleast_1d(a) for n, a in model.task.to_tensors(answer.result, spec).items()}])
    model.close()
    return Canary(spec.name, spec.task, inputs, parameters, expected)


def canary_of(version_dir: Path, settings: Settings, target: str = "cpu", folder: Path | None = None) -> Canary:
    """The version's own canary.json, or the one that this machine derived at first load.

    That one is kept in `folder` (a staging run's own) or in the cache, by the hash of the manifest.
    """
    if (version_dir / CANARY).is_file():
        return Canary.read(version_dir / CANARY)
    manifest = version_dir / MANIFEST
    key = sha256_of(manifest if manifest.is_file() else version_dir / "spec.json")[:16]
    kept = (folder or settings.cache_dir.resolve() / "canaries") / f"{version_dir.parent.name}-{key}.{target}.json"
    if not kept.is_file():
        _derive_in_child(version_dir, settings, target, kept)
    return Canary.read(kept)


def _derive_in_child(version_dir: Path, settings: Settings, target: str, kept: Path) -> None:
    command = [sys.executable, "-m", __name__, str(version_dir), target, str(kept)]
    try:
        done = subprocess.run(
            command, env=python_environment(settings), capture_output=True, timeout=DERIVE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise EngineFailed(f"{version_dir}: its canary took more than {DERIVE_SECONDS:.0f} s") from error
    if done.returncode:
        text = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no message"]
        raise EngineFailed(f"{version_dir}: its canary could not be made: {text[0][:300]}")


def main(arguments: list[str]) -> int:
    """0 done, 1 failed with the reason as the last line of stderr."""
    version_dir, target, out, *sample = arguments
    data = Path(sample[0]).read_bytes() if sample else None
    try:
        derive(Path(version_dir), load_settings().settings, target, data).write(Path(out))
    except LockstepError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
