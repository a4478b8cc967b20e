"""S7, at the function: decompression bombs are refused by their headers, in no time and with memory flat.

The same files go through the gateway in tests/security of the server.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from bombs import BOMBS, jpeg, png

from serving.errors import InputError
from serving.preprocess.decode import decode

_CHILD = """
import json, pathlib, resource, sys, time
from serving.errors import InputError
from serving.preprocess.decode import decode

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

folder = pathlib.Path(sys.argv[1])
decode((folder / "honest").read_bytes())
answers = {}
before = peak()
for path in sorted(folder.glob("bomb*")):
    data = path.read_bytes()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        try:
            code = str(decode(data).shape)
        except InputError as error:
            code = error.code
        times.append(1000 * (time.perf_counter() - start))
    answers[path.name] = [code, min(times)]
print(json.dumps({"answers": answers, "grown_kib": peak() - before}))
"""


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """All bombs decoded in one process of its own; its peak memory is theirs."""
    folder = tmp_path_factory.mktemp("bombs")
    (folder / "honest").write_bytes(jpeg())
    for index, (data, _) in enumerate(BOMBS.values()):
        (folder / f"bomb{index:02}").write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("name", BOMBS)
def test_each_bomb_is_small_and_refused_with_its_code(name: str, answered: dict[str, dict[str, list[object]]]) -> None:
    data, expected = BOMBS[name]
    code, milliseconds = answered["answers"][f"bomb{list(BOMBS).index(name):02}"]
    assert len(data) <= 110_000
    assert code == expected
    assert milliseconds < 50  # type: ignore[operator]


def test_memory_stays_flat_over_all_of_them(answered: dict[str, int]) -> None:
    assert len(BOMBS) >= 15
    assert answered["grown_kib"] < 16 * 1024


def test_pixels_beyond_the_declared_size_are_not_inflated() -> None:
    """30 MB behind a header of 8 x 8: the inflater stops at the declared size."""
    assert decode(png(8, 8, bytes(30_000_000))).shape == (8, 8, 3)


def test_a_refusal_names_no_internals() -> None:
    for data, _ in BOMBS.values():
        with pytest.raises(InputError) as caught:
            decode(data)
        assert "0x" not in str(caught.value) and "/" not in str(caught.value)
