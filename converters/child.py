"""`python -m converters.child JOB.json`: the limited child process, and `run_child`, which starts, watches and ends it.

The child gets a clean environment, a process group of its own (killed as one when time is over) and an empty folder; it
ends with the process that started it: the lock of its folder goes with that one.
It answers with report.json, which holds a ChildReport or `{"error": {"code", "message", "hint"}}`.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from converters.job import REPORT, ChildJob, ChildReport, Limits
from serving.config import load_settings
from serving.errors import CheckpointRefused, ConversionError, LockstepError, StorageFailed, subclasses_by_code
from serving.triton import exec_bound

Progress = Callable[[str], None]
_PROGRESS = "lockstep: "
_FULL = (errno.ENOSPC, errno.EDQUOT)
_ROOT = Path(__file__).resolve().parents[1]


def run_child(job: ChildJob, limits: Limits | None = None, progress: Progress | None = None) -> ChildReport:
    """Run `job` in the limited child and return its report. Raises the ConversionError the child met.

    A child that outlives `limits.wall_seconds`, is killed by a limit or dies is a CheckpointRefused that says which.
    `progress` gets one line a step (default: stderr).
    """
    limits = limits or Limits()
    request = job.folder / "job.json"
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / REPORT).unlink(missing_ok=True)
        request.write_text(json.dumps({"job": job.to_json(), "limits": asdict(limits)}), "utf-8")
    except OSError as error:
        raise StorageFailed(f"{job.folder}: {error.strerror}", hint="the job folder must be writable") from error
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", exec_bound.__file__, str(os.getpid()), *_command(request)],
        env=_environment(job, limits),
        cwd=job.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    tail = _watch(process, limits, progress or _to_stderr)
    return _answer(job, limits, process.returncode, tail)


def _command(request: Path) -> list[str]:
    return [sys.executable, "-P", "-m", "converters.child", str(request)]


def _environment(job: ChildJob, limits: Limits) -> dict[str, str]:
    """Nothing of the parent's environment: no secrets to read, no setting that changes what torch does."""
    threads = str(limits.threads)
    return {
        "PYTHONPATH": str(_ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONNOUSERSITE": "1",
        "LANG": "C.UTF-8",
        "LOCKSTEP_CACHE_DIR": str((job.cache or load_settings().settings.cache_dir).resolve()),
        "HOME": str(job.folder),
        "TMPDIR": str(job.folder),
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "CUDA_VISIBLE_DEVICES": "",
        # torch.export.load falls back to a full unpickle by itself; this forbids it wherever torch.load is called.
        "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
    }


def _watch(process: subprocess.Popen[bytes], limits: Limits, progress: Progress) -> list[str]:
    """Wait within the wall clock; relay progress lines; return the last other lines. The group is gone afterwards."""
    tail: deque[str] = deque(maxlen=30)

    def read() -> None:
        assert process.stderr is not None
        for raw in process.stderr:
            line = raw.decode("utf-8", "replace").rstrip()
            if line.startswith(_PROGRESS):
                progress(line.removeprefix(_PROGRESS))
            else:
                tail.append(line[:500])

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        process.wait(limits.wall_seconds)
    except subprocess.TimeoutExpired as error:
        raise CheckpointRefused(
            f"the checkpoint's process did not finish within {limits.wall_seconds:g} s and was stopped",
            hint="raise the converter's time limit if the model is that large",
        ) from error
    finally:
        _end_group(process)
        reader.join(5)
        if process.stderr is not None:
            process.stderr.close()
    return list(tail)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """The group may hold grandchildren even when the child itself has ended."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.wait()


def _answer(job: ChildJob, limits: Limits, status: int, tail: list[str]) -> ChildReport:
    report = job.folder / REPORT
    if status == 0 and report.is_file():
        text = report.read_text("utf-8")
        error = json.loads(text).get("error")
        if error is None:
            return ChildReport.from_json(text)
        kind = subclasses_by_code(ConversionError).get(error["code"], ConversionError)
        raise kind(error["message"], hint=error["hint"])
    reasons = {
        -signal.SIGXCPU: f"it used more than {limits.cpu_seconds} s of processor time",
        -signal.SIGXFSZ: f"it wrote a file larger than {limits.file_bytes} bytes",
        -signal.SIGKILL: "it was killed (the machine may be out of memory)",
        -signal.SIGABRT: f"it aborted (memory limit {limits.memory_bytes} bytes)",
    }
    last = next((line for line in reversed(tail) if line.strip()), "no output")
    if status == os.EX_IOERR:
        raise StorageFailed(f"{job.folder}: {last}", hint="free space there, or set another cache_dir")
    why = reasons.get(status, f"it ended with status {status}")
    raise CheckpointRefused(f"the checkpoint's process failed: {why}; last line: {last}")


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201


def main(arguments: list[str]) -> int:
    """The child's own entry: put up the walls, do the job, write report.json."""
    from converters import sandbox

    request = json.loads(Path(arguments[0]).read_text("utf-8"))
    job, limits = ChildJob.from_json(request["job"]), Limits(**request["limits"])
    isolation = sandbox.enter(job.folder, limits)
    # Only now: Python imports a sitecustomize from its path at start, which would run outside the walls.
    sys.path[1:1] = [str(path) for path in (job.spec_folder, *job.import_paths)]
    try:
        (job.folder / REPORT).write_text(_done(job, limits, isolation), "utf-8")
    except OSError as error:
        if error.errno not in _FULL:
            raise
        _to_stderr(os.strerror(error.errno))
        return os.EX_IOERR
    return 0


def _done(job: ChildJob, limits: Limits, isolation: Mapping[str, str]) -> str:
    """The report, or the error that it holds."""
    try:
        from converters.work import do

        return do(job, limits, isolation, lambda line: _to_stderr(_PROGRESS + line)).to_json()
    except LockstepError as error:
        return json.dumps({"error": {"code": error.code, "message": error.message, "hint": error.hint}})
    except MemoryError:
        return json.dumps({"error": _memory(limits)})
    except RuntimeError as error:  # torch has no MemoryError of its own
        if "allocate memory" not in str(error):
            raise
        return json.dumps({"error": _memory(limits)})


def _memory(limits: Limits) -> dict[str, str]:
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    message = f"the checkpoint needs more than the limit of {limits.memory_bytes >> 20} MiB (peak {used} MiB)"
    return {"code": CheckpointRefused.code, "message": message, "hint": "raise the converter's memory limit"}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
