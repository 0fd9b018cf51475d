#!/usr/bin/env bash
# Test on a Slurm cluster, one task for each GPU.
set -euo pipefail

if [[ $# -lt 4 ]]; then
    echo "usage: [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=5] [SRUN_ARGS=…]" \
        "$0 PARTITION JOB_NAME CONFIG CHECKPOINT [options of test.py]" >&2
    exit 2
fi
partition=$1
job=$2
config=$3
checkpoint=$4
shift 4
tools=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-8}
if ((gpus < per_node)); then per_node=$gpus; fi
read -r -a more <<<"${SRUN_ARGS:-}"

export PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}"
exec srun \
    --partition="$partition" \
    --job-name="$job" \
    --gres="gpu:$per_node" \
    --ntasks="$gpus" \
    --ntasks-per-node="$per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 \
    ${more[@]+"${more[@]}"} \
    python -u "$tools/test.py" "$config" "$checkpoint" --launcher=slurm "$@"
