#!/bin/sh
# Triton for the gateway and the workers: gRPC and metrics only. Models never change while it runs; what would change
# or read the server needs a key that nobody has, new with each start. More options may follow as arguments.
set -eu
key=$(head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n')
exec tritonserver \
    --model-repository="${LOCKSTEP_REPOSITORY}" \
    --model-control-mode=none \
    --disable-auto-complete-config \
    --strict-readiness=false \
    --exit-timeout-secs=20 \
    --log-format=ISO8601 \
    --allow-http=false \
    --allow-sagemaker=false \
    --allow-vertex-ai=false \
    --grpc-port=8001 \
    --metrics-port=8002 \
    --grpc-restricted-protocol="model-repository,shared-memory,trace,logging:lockstep-key=${key}" \
    --backend-config=python,stub-timeout-seconds=60 \
    "$@"
