"""Walls around the child that opens a foreign checkpoint, put up by the child itself before it imports torch.

rlimits (memory, processor time, file size, open files), a network namespace of its own, Landlock (reads anywhere,
writes below one folder, no program started, no TCP), and no capabilities. What the kernel does not offer is reported,
not assumed. Landlock: https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
from pathlib import Path

from converters.job import Limits

_LIBC = ctypes.CDLL(None, use_errno=True)
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on every architecture
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP = 4, 38, 24
_CAP_DAC_READ_SEARCH = 2  # kept: a root converter may read a checkpoint that another user owns
_CAPSET_VERSION_3 = 0x20080522

# linux/landlock.h: EXECUTE, WRITE_FILE and every REMOVE_ and MAKE_; REFER and TRUNCATE came with versions 2 and 3.
_EXECUTE, _WRITE_FILE = 1 << 0, 1 << 1
_WRITES = _WRITE_FILE | sum(1 << bit for bit in range(4, 13))
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_TCP = 0b11
_RULE_PATH_BENEATH = 1


def enter(folder: Path, limits: Limits) -> dict[str, str]:
    """Limit this process for good. `folder` stays writable. Returns what holds, in words, for the report."""
    set_rlimits(limits)
    network = _drop_network()
    # Capabilities fall after the namespace was made (that needs one) and before Landlock, which needs none.
    privileges = _drop_privileges()
    files, tcp = _landlock(folder)
    if network != "own namespace" and tcp:
        network = f"{network}; TCP denied by Landlock"
    return {"network": network, "files": files, "privileges": privileges, "memory_bytes": str(limits.memory_bytes)}


def set_rlimits(limits: Limits) -> None:
    """Private memory, processor seconds, size of a written file, open files, no core dump."""
    wanted = {
        resource.RLIMIT_DATA: limits.memory_bytes,
        # torch maps several GiB of library and thread stacks that it never touches; this one stops shared mappings.
        resource.RLIMIT_AS: limits.memory_bytes + (24 << 30),
        resource.RLIMIT_CPU: limits.cpu_seconds,
        resource.RLIMIT_FSIZE: limits.file_bytes,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_CORE: 0,
    }
    for kind, value in wanted.items():
        hard = resource.getrlimit(kind)[1]
        # Processor time warns (SIGXCPU, which the parent can name) before it kills.
        top = value + 5 if kind == resource.RLIMIT_CPU else value
        soft, top = (value, top) if hard == resource.RLIM_INFINITY else (min(value, hard), min(top, hard))
        resource.setrlimit(kind, (soft, top))


def _drop_network() -> str:
    for flags in (_CLONE_NEWNET, _CLONE_NEWUSER | _CLONE_NEWNET):
        if _LIBC.unshare(flags) == 0:
            return "own namespace"
    return f"shared with the host ({os.strerror(ctypes.get_errno())})"


def _drop_privileges() -> str:
    for capability in range(64):
        if capability != _CAP_DAC_READ_SEARCH:
            _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    _LIBC.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    kept = 1 << _CAP_DAC_READ_SEARCH if os.geteuid() == 0 else 0
    header = struct.pack("=Ii", _CAPSET_VERSION_3, 0)
    data = struct.pack("=6I", kept, kept, 0, 0, 0, 0)
    dropped = _LIBC.capset(header, data) == 0
    bound = _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    return f"capabilities {'dropped' if dropped else 'kept'}, no_new_privs {'on' if bound else 'off'}"


def _landlock(folder: Path) -> tuple[str, bool]:
    """(what holds for files, whether TCP is denied)."""
    version = _LIBC.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        return "not restricted (no Landlock in this kernel)", False
    writes = _WRITES | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    attributes = struct.pack("=QQ", writes | _EXECUTE, _TCP if version >= 4 else 0)
    size = len(attributes) if version >= 4 else 8
    ruleset = _LIBC.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint32(0))
    if ruleset < 0:
        return f"not restricted ({os.strerror(ctypes.get_errno())})", False
    try:
        for path, access in ((folder, writes), (Path(os.devnull), _WRITE_FILE)):
            _allow(ruleset, path, access)
        if _LIBC.syscall(_RESTRICT_SELF, ruleset, ctypes.c_uint32(0)) != 0:
            return f"not restricted ({os.strerror(ctypes.get_errno())})", False
    finally:
        os.close(ruleset)
    return f"Landlock {version}: writes below the job folder only, no program started", version >= 4


def _allow(ruleset: int, path: Path, access: int) -> None:
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", access, handle)
        if _LIBC.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, ctypes.c_uint32(0)) != 0:
            raise OSError(ctypes.get_errno(), f"Landlock rule for {path}")
    finally:
        os.close(handle)
