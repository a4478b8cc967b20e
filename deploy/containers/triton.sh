#!/bin/sh
# Triton for the gateway and the workers: gRPC and metrics only, and of the repository what may be served, by name: a
# folder that is no model (.locks, .staging) or one model without its certificate would end a Triton that loads all.
# Models never change while it runs; what would change or read the server needs a key that nobody has, new with each
# start. More options may follow as arguments.
set -eu
case "${LOCKSTEP_REPOSITORY}" in  # that of the GPU is links into the one with the certificates
    *.gpu) target=gpu certified=${LOCKSTEP_REPOSITORY%.gpu} ;;
    *) target=cpu certified=${LOCKSTEP_REPOSITORY} ;;
esac
models=$(lockstep models verify --json --target "${target}" --repository "${certified}" | python3 -c '
import json, sys
for row in json.load(sys.stdin):
    if row["state"] == "servable":
        print(row["model"])
    else:
        print("not loaded: {model}: {reason}".format(**row), file=sys.stderr)
')
loaded=""
for model in ${models}; do
    if [ -f "${LOCKSTEP_REPOSITORY}/${model}/config.pbtxt" ]; then
        set -- "--load-model=${model}" "$@"
        loaded="${loaded} ${model}"
    else
        echo "not loaded: ${model}: ${LOCKSTEP_REPOSITORY} has no config.pbtxt of it" >&2
    fi
done
if [ -z "${loaded}" ]; then
    echo "error[certificate_refused]: ${LOCKSTEP_REPOSITORY}: no model may be served for ${target};" \
        "run \`lockstep convert\` first" >&2
    exit 1
fi
key=$(head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n')
exec tritonserver \
    --model-repository="${LOCKSTEP_REPOSITORY}" \
    --model-control-mode=explicit \
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
