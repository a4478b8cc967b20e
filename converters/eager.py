"""The reference answers: the module itself in FP32 on the CPU, TF32 off, deterministic. Limited child only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from converters.arrays import Sample, batches, split
from converters.frozen import repeated
from converters.sequence import over_sounds, step_samples
from converters.signature import network_inputs, output_names
from serving.errors import CheckpointRefused, SpecInvalid
from serving.spec import ModelSpec, SoundSpec
from serving.types import Array


def settle(threads: int, seed: int) -> None:
    """One way to compute, whatever the machine's defaults are."""
    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.manual_seed(seed)


def eager_outputs(
    module: Any, spec: ModelSpec, samples: Sequence[Sample], batch: int, progress: Callable[[str], None]
) -> list[dict[str, Array]]:
    """Named outputs for each sample, in order. Raises SpecInvalid, CheckpointRefused or NotFrozen (frozen.repeated)."""
    if spec.sound is not None:
        return _heard(module, spec, spec.sound, samples, progress)
    results: list[dict[str, Array]] = []
    for group in batches(samples, batch):
        arguments = ordered(spec, group)

        def run(arguments: tuple[Any, ...] = arguments) -> list[Any]:
            return call(module, arguments)

        outputs = run() if results else repeated(module, run)
        names = names_of(spec, len(outputs))
        results.extend(split({n: t.numpy().copy() for n, t in zip(names, outputs, strict=True)}))
        progress(f"eager outputs {len(results)}/{len(samples)}")
    return results


def _heard(
    module: Any, spec: ModelSpec, rule: SoundSpec, samples: Sequence[Sample], progress: Callable[[str], None]
) -> list[dict[str, Array]]:
    """Window after window, the state going along; the first window is repeated to see that nothing moves by itself."""
    examples = step_samples(spec, samples[:1])

    def step(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        outputs = call(module, ordered(spec, inputs))
        return {n: t.numpy().copy() for n, t in zip(names_of(spec, len(outputs)), outputs, strict=True)}

    if examples:
        first = ordered(spec, {name: array[None] for name, array in examples[0].items()})
        repeated(module, lambda: call(module, first))
    return over_sounds(spec, step, samples, progress)


def ordered(spec: ModelSpec, batch: Sample) -> tuple[Any, ...]:
    """The batch as tensors in the order of the network's inputs. Raises SpecInvalid when a name is absent."""
    names = [declared.name for declared in network_inputs(spec)]
    if missing := [name for name in names if name not in batch]:
        raise SpecInvalid(f"samples: no tensor {missing}; they have {sorted(batch)}")
    return tuple(torch.from_numpy(batch[name].copy()) for name in names)


def call(module: Any, arguments: tuple[Any, ...]) -> list[Any]:
    """Outputs as a flat list: tuples, lists and dicts in their own order. Raises CheckpointRefused."""
    try:
        with torch.no_grad():
            answer = module(*arguments)
    except MemoryError:
        raise
    except Exception as error:  # the network is foreign code
        shapes = [list(argument.shape) for argument in arguments]
        text = " ".join(str(error).split())[:400]
        raise CheckpointRefused(
            f"the network cannot be called with inputs of shapes {shapes}: {text}",
            hint="compare the spec's preprocess size, colour (channels) and layout with the training code",
        ) from error
    outputs = [leaf for leaf in torch.utils._pytree.tree_leaves(answer) if isinstance(leaf, torch.Tensor)]
    if not outputs:
        raise CheckpointRefused(f"the network's answer holds no tensor, got {type(answer).__name__}")
    return [_plain(output, len(arguments[0])) for output in outputs]


def names_of(spec: ModelSpec, count: int) -> list[str]:
    """The outputs' names. Raises SpecInvalid when the spec names another number."""
    try:
        return output_names(spec, count)
    except ValueError as error:
        raise SpecInvalid(str(error)) from error


def _plain(output: Any, batch: int) -> Any:
    if output.ndim == 0 or output.shape[0] != batch:
        raise CheckpointRefused(
            f"an output of shape {list(output.shape)} has no batch axis (batch {batch})",
            hint="wrap the network so that each output's first axis is the batch",
        )
    if output.is_floating_point() and not torch.isfinite(output).all():
        raise CheckpointRefused("the network's own FP32 answer is NaN or infinite on a sample")
    return output.detach().to(torch.float32) if output.dtype in (torch.float16, torch.bfloat16) else output.detach()
