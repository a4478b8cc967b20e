#!/bin/sh
# Entry point of both images: what can never work here (driver older than CUDA, TensorRT-RTX on Hopper, a Triton below
# the floor) is refused in one line, before anything loads.
set -eu
lockstep doctor --entry
exec "$@"
