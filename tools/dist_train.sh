#!/usr/bin/env bash
# Train with several processes: NCCL on GPUs, gloo on a machine without.
# Several machines: the same call on each with NNODES, NODE_RANK, MASTER_ADDR, PORT.
# One machine takes a free port unless PORT says which; several need the same PORT.
set -euo pipefail

if [[ $# -lt 2 || ! $2 =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: [NNODES=1] [NODE_RANK=0] [MASTER_ADDR=127.0.0.1] [PORT=…]" \
        "$0 CONFIG GPUS [options of train.py]" >&2
    exit 2
fi
config=$1
gpus=$2
shift 2
tools=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

export PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}"
exec python -m mmssm.openmmlab.commands.launch "$gpus" \
    "$tools/train.py" "$config" --launcher pytorch "$@"
