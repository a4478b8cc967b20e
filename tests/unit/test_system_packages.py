"""`tools/system-packages.sh` starts no server of the packages that it installs, and leaves nothing behind."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "system-packages.sh"
# apt-get: what a package's own script would be told of starting its server; then the case's own end.
APT_GET = '#!/bin/sh\n{policy} nginx start\necho "$1 $?" >>{asked}\n[ "$1" = update ] || {end}\n'


class Machine:
    """Debian as the script sees it: nothing is installed, the caller is root."""

    def __init__(self, folder: Path) -> None:
        self._bin, sbin = folder / "bin", folder / "sbin"
        self._bin.mkdir()
        sbin.mkdir()
        self.policy, self._asked, self._script = sbin / "policy-rc.d", folder / "asked", folder / "script.sh"
        self._script.write_text(SCRIPT.read_text("utf-8").replace("/usr/sbin", str(sbin)))
        for name in ("sh", "chmod", "rm"):
            (self._bin / name).symlink_to(str(shutil.which(name)))
        self._program("id", "#!/bin/sh\necho 0\n")

    def _program(self, name: str, text: str) -> None:
        (self._bin / name).write_text(text)
        (self._bin / name).chmod(0o755)

    def install(self, end: str) -> tuple[list[str], str]:
        """What apt-get was called for, with what the policy answered it, and what was said."""
        self._program("apt-get", APT_GET.format(policy=self.policy, asked=self._asked, end=end))
        command, env = [str(self._bin / "sh"), str(self._script)], {"PATH": str(self._bin)}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr
        return self._asked.read_text().splitlines(), done.stderr


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("exit 0", "installed: ffmpeg"),
        ("exit 100", "could not install: ffmpeg"),
        ("kill -TERM $PPID", "could not install: ffmpeg"),
    ],
    ids=["installed", "failed", "ended meanwhile"],
)
def test_no_server_is_started_and_the_policy_is_gone_afterwards(machine: Machine, end: str, said: str) -> None:
    asked, told = machine.install(end)
    assert asked == ["update 101", "install 101"] and said in told
    assert not machine.policy.exists()


def test_a_policy_that_is_there_is_left_as_it_is(machine: Machine) -> None:
    machine.policy.write_text("#!/bin/sh\nexit 7\n")
    machine.policy.chmod(0o755)
    asked, told = machine.install("exit 0")
    assert asked == ["update 7", "install 7"] and "installed: ffmpeg" in told
    assert machine.policy.read_text() == "#!/bin/sh\nexit 7\n"
