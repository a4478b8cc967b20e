"""`make setup`: check the machine, then make `.venv` with the `lockstep` command and unpack the embedded Triton.

Standard library only: it runs on the machine's own Python before anything is installed. A second run takes a second:
a stamp holds the hash of the lock files.
"""

from __future__ import annotations

import argparse
import ctypes.util
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV, TOOLS, TRITON = ROOT / ".venv", ROOT / ".tools", ROOT / ".triton" / "site"
LOCKS = {"full": "requirements.lock", "serving": "requirements-serving.lock"}
NEED_GB = {"full": 10, "serving": 3}
DOWNLOAD_GB = {"full": "about 3 GB", "serving": "about 0.4 GB"}


def checks(profile: str) -> list[tuple[str, str, str, bool]]:
    """Rows of (what, expected, found, good)."""
    version = sys.version_info[:2]
    glibc = platform.libc_ver()[1] or "none"
    free = shutil.disk_usage(ROOT).free / 1e9
    system = f"{platform.system()} {platform.machine()}"
    return [
        ("system", "Linux x86_64", system, system == "Linux x86_64"),
        ("glibc", ">= 2.35", glibc, glibc != "none" and tuple(map(int, glibc.split("."))) >= (2, 35)),
        ("python", "3.11 to 3.13", ".".join(map(str, version)), (3, 11) <= version <= (3, 13)),
        venv_row(),
        libpython_row(),
        ("free disk", f">= {NEED_GB[profile]} GB", f"{free:.0f} GB", free >= NEED_GB[profile] or VENV.is_dir()),
        ("download", "", DOWNLOAD_GB[profile], True),
    ]


def needs_venv() -> bool:
    """Whether `.venv` is to be made: there is none, or a failed try left one that nothing can be installed into."""
    pip, uv = VENV / "bin/pip", TOOLS / "bin/uv"
    return not (VENV / "bin/python").exists() or not (pip.exists() or uv.exists())


def venv_row() -> tuple[str, str, str, bool]:
    """Debian has what fills a new environment in a package of its own."""
    good = not needs_venv() or importlib.util.find_spec("ensurepip") is not None
    package = "python{}.{}-venv".format(*sys.version_info)
    return "venv", f"pip for .venv (Debian: apt-get install {package})", "there" if good else "no ensurepip", good


def libpython_row() -> tuple[str, str, str, bool]:
    """Debian calls each of its Pythons shared, and has the file in a package of its own."""
    version = "python{}.{}".format(*sys.version_info)
    name, folder = (str(sysconfig.get_config_var(key) or "") for key in ("INSTSONAME", "LIBDIR"))
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        found = "static"
    elif Path(folder, name).is_file() or ctypes.util.find_library(version):
        found = "shared"
    else:
        found = "no file of it"
    return "libpython", f"shared library (Debian: apt-get install lib{version})", found, found == "shared"


def print_table(rows: list[tuple[str, str, str, bool]]) -> bool:
    """The table on stderr; True where every row is good."""
    for what, expected, found, good in rows:
        print(f"  {'ok ' if good else 'NO '} {what:<10} {found:<16} {expected}", file=sys.stderr)
    return all(good for *_, good in rows)


def stamp(profile: str) -> str:
    """Hash of everything that decides what is installed."""
    digest = hashlib.sha256(f"{profile} {sys.version}".encode())
    for name in (LOCKS[profile], "requirements-triton.lock", "pyproject.toml", "tools/setup.py"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def run(*command: str) -> None:
    """One step, shown; its failure ends the set-up with the command named."""
    print("+ " + " ".join(command).replace(str(ROOT) + "/", ""), file=sys.stderr, flush=True)
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}, check=False)
    if done.returncode:
        sys.exit(f"setup: `{command[0]} ...` ended with {done.returncode}; the lines above say why. Then run it again.")


def install(profile: str) -> None:
    """venv -> pip brings uv -> uv syncs the hashed lock -> our package -> Triton into a folder of its own."""
    python, uv = str(VENV / "bin/python"), str(TOOLS / "bin/uv")
    if needs_venv():
        run(sys.executable, "-m", "venv", "--clear", str(VENV))
    if not Path(uv).exists():  # in a folder of its own: a sync removes what the lock does not name
        run(python, "-m", "pip", "install", "--quiet", "--target", str(TOOLS), "uv>=0.8")
    run(uv, "pip", "sync", "--quiet", "--python", python, LOCKS[profile])
    run(uv, "pip", "install", "--quiet", "--python", python, "--no-deps", "--editable", ".")
    if not (TRITON / "pytriton/tritonserver/bin/tritonserver").exists():
        run(uv, "pip", "install", "--quiet", "--python", python, "--no-deps", "--target", str(TRITON),
            "-r", "requirements-triton.lock")  # fmt: skip


def main() -> None:
    """Check, install, stamp."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", choices=sorted(LOCKS), default="full", help="serving: without torch and tests")
    parser.add_argument("--check", action="store_true", help="only the table")
    options = parser.parse_args()
    marker = VENV / ".lockstep-stamp"
    current = stamp(options.profile)
    if not options.check and marker.is_file() and marker.read_text() == current:
        return
    print(f"set-up of {ROOT.name} ({options.profile})", file=sys.stderr)
    if not print_table(checks(options.profile)):
        sys.exit(
            "setup: the rows marked NO must be mended first; another Python: make setup PYTHON=/path/to/python3.12"
        )
    if options.check:
        return
    install(options.profile)
    marker.write_text(current)
    print("set-up done; try: .venv/bin/lockstep doctor", file=sys.stderr)


if __name__ == "__main__":
    main()
