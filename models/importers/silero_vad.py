"""Silero's voice activity detector out of PyPI's silero-vad: the constants of its 16 kHz ONNX file, renamed.

The package's `silero_vad_16k.safetensors` holds other (older) numbers than its TorchScript and ONNX files do; those
agree (a test compares), and an ONNX file is read without running anything. Samples: real speech as it was recorded,
then scenes laid out of it with known beginnings and ends.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from models.importers.package import Fetched, Progress
from models.importers.recipe import ImportedModel, Recipe, run
from models.samples import sound_scenes
from serving.errors import ImportFailed
from serving.types import FloatArray

PACKAGE, SPEECH = "silero-vad", "pocketsphinx-testdata"
SCENES = 26
WINDOW, CONTEXT = 512, 64
WEIGHTS = "silero_vad/data/silero_vad_openvino_16k.onnx"
_INLINED = re.compile(r".*_Inline_0__")


def bring(cache: Path, progress: Progress) -> ImportedModel:
    """Checkpoint and samples. Raises as models.importers.recipe.run."""
    code = (Path(__file__), Path(sound_scenes.__file__))
    return run(Recipe("silero_vad", (PACKAGE, SPEECH), code, _build), cache, progress)


def _build(packages: Mapping[str, Fetched], out: Path, progress: Progress) -> None:
    (out / "checkpoint.pth").write_bytes(_checkpoint(packages[PACKAGE].path(WEIGHTS)))
    write_samples(packages[SPEECH], out / "samples")


def _checkpoint(path: Path) -> bytes:
    """The weights under the names of models/architectures/silero_vad.py. The file's SHA-256 is the manifest's."""
    import torch

    names, found = renamed(), constants_of(path)
    absent = sorted(names.keys() - found.keys())
    if absent:
        raise ImportFailed(f"{path.name}: expected the weights of silero-vad for 16 kHz, missing {absent[:4]}")
    saved = io.BytesIO()
    torch.save({names[name]: torch.from_numpy(found[name].copy()) for name in names}, saved)
    return saved.getvalue()


def constants_of(path: Path) -> dict[str, FloatArray]:
    """FP32 constants of an ONNX file by the names they had before the exporter wrote the 16 kHz branch in line."""
    import onnx

    values = {node.output[0]: node.attribute[0].t for node in onnx.load(path).graph.node if node.op_type == "Constant"}
    return {
        _INLINED.sub("", name): onnx.numpy_helper.to_array(tensor)
        for name, tensor in values.items()
        if tensor.data_type == onnx.TensorProto.FLOAT
    }


def renamed() -> dict[str, str]:
    """Name in the package's file -> name in our module."""
    names = {"stft.forward_basis_buffer": "stft_conv.weight"}
    for part in ("weight", "bias"):
        names |= {f"encoder.{i}.reparam_conv.{part}": f"conv{i + 1}.{part}" for i in range(4)}
        names[f"decoder.decoder.2.{part}"] = f"final_conv.{part}"
        names |= {f"decoder.rnn.{part}_{way}": f"lstm_cell.{part}_{way}" for way in ("ih", "hh")}
    return names


def recordings(speech: Fetched) -> dict[str, FloatArray]:
    """Every recording by a short name, mono at 16 kHz."""
    names = sorted(name for name in speech.package.files if name.endswith((".wav", ".raw")))
    return {re.sub(r"[^A-Za-z0-9]+", "_", Path(n).stem)[-24:]: sound_scenes.read_wav(speech.path(n)) for n in names}


def write_samples(speech: Fetched, folder: Path) -> None:
    """The recordings as they are, without label; scenes with `begin-end` of every utterance, joined by `;`."""
    folder.mkdir(parents=True)
    found = recordings(speech)
    for name, samples in found.items():
        sound_scenes.write_wav(folder / f"recorded_{name}.wav", samples)
    rng = np.random.default_rng(20240611)
    pieces = [piece for samples in found.values() for piece in sound_scenes.utterances(samples)]
    lines = ["file,label"]
    for number in range(SCENES):
        chosen = [pieces[i] for i in rng.permutation(len(pieces))[: 1 + number % 3]]
        samples, placed = sound_scenes.scene(chosen, rng)
        sound_scenes.write_wav(folder / f"scene_{number:02d}.wav", samples)
        lines.append(f"scene_{number:02d}.wav," + ";".join(f"{p.begin:.3f}-{p.end:.3f}" for p in placed))
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


def training_side(data: bytes) -> FloatArray:
    """The windows as the package's own loop cuts them: whole blocks of 512, each with the 64 samples before it.

    Written from the package's description with the standard library's `wave`, apart from serving/preprocess/audio.py.
    """
    import wave

    with wave.open(io.BytesIO(data)) as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (sound_scenes.RATE, 1, 2):
            raise ValueError("expected 16-bit mono at 16 kHz")
        sound = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768.0
    padded = np.pad(sound, (CONTEXT, -len(sound) % WINDOW))
    starts = range(0, len(padded) - CONTEXT, WINDOW)
    return np.stack([padded[start : start + CONTEXT + WINDOW] for start in starts]).astype(np.float32)


def constants_of_source() -> dict[str, Any]:
    """The package's defaults of `get_speech_timestamps`, by our names: thresholds and times in milliseconds."""
    from models.importers.manifest import read_manifest
    from models.importers.package import fetch
    from serving.config import load_settings

    package = read_manifest()[PACKAGE]
    found = fetch(package, load_settings().settings.cache_dir, lambda line: None)
    text = found.path("silero_vad/utils_vad.py").read_text("utf-8")
    head = text[text.index("def get_speech_timestamps(") :]
    wanted = {
        "threshold": "score_threshold",
        "min_speech_duration_ms": "min_duration_ms",
        "min_silence_duration_ms": "min_silence_ms",
        "speech_pad_ms": "pad_ms",
    }
    values: dict[str, Any] = {}
    for name, ours in wanted.items():
        match = re.search(rf"\b{name}: (?:int|float) = ([\d.]+)", head)
        if match is None:
            raise ImportFailed(f"{PACKAGE}: no default of {name} in utils_vad.py")
        values[ours] = float(match[1]) if "." in match[1] else int(match[1])
    return values
