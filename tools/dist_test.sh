#!/usr/bin/env bash
# Test with several processes: NCCL on GPUs, gloo on a machine without.
# Several machines: the same call on each with NNODES, NODE_RANK, MASTER_ADDR, PORT.
# One machine takes a free port unless PORT says which; several need the same PORT.
set -euo pipefail

if [[ $# -lt 3 || ! $3 =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: [NNODES=1] [NODE_RANK=0] [MASTER_ADDR=127.0.0.1] [PORT=…]" \
        "$0 CONFIG CHECKPOINT GPUS [options of test.py]" >&2
    exit 2
fi
config=$1
checkpoint=$2
gpus=$3
shift 3
tools=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

export PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}"
exec python -m mmssm.openmmlab.commands.launch "$gpus" \
    "$tools/test.py" "$config" "$checkpoint" --launcher pytorch "$@"
