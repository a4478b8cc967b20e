"""The broker's jars: Apache Kafka from Maven Central, fetched once by Maven into `.kafka/libs`.

`python -m deploy.embedded.kafka_jars` fetches them, as `make setup` does not: 43 MB, needed only without a broker of
one's own. Maven checks the checksums that the repository publishes (`-C`: a mismatch fails).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from serving.errors import Unavailable

ROOT = Path(__file__).resolve().parents[2]
KAFKA_HOME = ROOT / ".kafka"
POM = Path(__file__).with_name("pom.xml")
KAFKA_VERSION = "4.1.0"
FETCH_SECONDS = 600
JAVA_AT_LEAST = 17


def jars_present(home: Path = KAFKA_HOME) -> bool:
    """The broker's own jar lies there, and the fetch that put it there came to its end."""
    return (home / "libs" / f"kafka_2.13-{KAFKA_VERSION}.jar").is_file()


def obtainable(home: Path = KAFKA_HOME) -> bool:
    """This machine can run the broker: Java, and the jars or Maven to fetch them."""
    return shutil.which("java") is not None and (jars_present(home) or shutil.which("mvn") is not None)


def fetch(home: Path = KAFKA_HOME, timeout_s: float = FETCH_SECONDS) -> Path:
    """The folder of the jars, fetched where they are missing. Raises Unavailable, with what to do.

    They are put aside first and renamed last, so that a fetch cut short is no broker with holes.
    """
    libs = home / "libs"
    if jars_present(home):
        return libs
    maven = shutil.which("mvn")
    if maven is None:
        raise Unavailable("embedded Kafka: its jars are missing and there is no Maven", hint="apt-get install maven")
    aside = home / "libs.partial"
    shutil.rmtree(aside, ignore_errors=True)
    command = [maven, "-q", "-B", "-C", "-f", str(POM), "dependency:copy-dependencies", f"-DoutputDirectory={aside}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"embedded Kafka: Maven did not end within {timeout_s:.0f} s") from error
    if done.returncode or not list(aside.glob("kafka_2.13-*.jar")):
        said = " ".join((done.stdout + done.stderr).split())[-500:]
        raise Unavailable(f"embedded Kafka: Maven ended with {done.returncode}: {said}", hint="is a network there?")
    shutil.rmtree(libs, ignore_errors=True)
    aside.rename(libs)
    return libs


if __name__ == "__main__":
    sys.stdout.write(f"{fetch()}\n")
