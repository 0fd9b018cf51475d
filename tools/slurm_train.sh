#!/usr/bin/env bash
# Train on a Slurm cluster, one task for each GPU or, on CPUs, for each process.
#   GPUS           tasks in all (8)
#   GPUS_PER_NODE  tasks, and GPUS asked for, on each node (8, or GPUS if fewer); 0 on
#                  partitions without GPUs: nothing is asked for but CPUs
#   CPUS_PER_TASK  CPUs of a task, its data loading included (5)
#   SRUN_ARGS      more options of srun; words with blanks in quotes, as in a shell:
#                  SRUN_ARGS="--time=4:00:00 --comment='two words'"
# The run answers SIGTERM and SIGUSR1 by saving; tools/sbatch_train.sh requeues it.
set -euo pipefail

if [[ $# -lt 4 ]]; then
    echo "usage: [GPUS=8] [GPUS_PER_NODE=8, 0 on CPUs] [CPUS_PER_TASK=5]" \
        "[SRUN_ARGS=…] $0 PARTITION JOB_NAME CONFIG WORK_DIR [options of train.py]" >&2
    exit 2
fi
partition=$1
job=$2
config=$3
work_dir=$4
shift 4
tools=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-8}
if [[ ! $gpus =~ ^[1-9][0-9]*$ || ! $per_node =~ ^[0-9]+$ ]]; then
    echo "$0: GPUS is '$gpus', GPUS_PER_NODE '$per_node'; expected numbers, GPUS from" \
        "1; GPUS_PER_NODE=0 asks for no GPU" >&2
    exit 2
fi
where=(--ntasks="$gpus")
if ((per_node > 0)); then
    if ((gpus < per_node)); then per_node=$gpus; fi
    where+=(--ntasks-per-node="$per_node" --gres="gpu:$per_node")
fi
# xargs takes quotes apart as a shell does, and expands nothing
more=()
while IFS= read -r -d '' word; do more+=("$word"); done \
    < <(xargs printf '%s\0' <<<"${SRUN_ARGS:-}")
if [[ -z ${SRUN_ARGS:-} ]]; then more=(); fi

export PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}"
exec srun \
    --partition="$partition" \
    --job-name="$job" \
    "${where[@]}" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 \
    ${more[@]+"${more[@]}"} \
    python -u "$tools/train.py" "$config" --work-dir="$work_dir" --launcher=slurm "$@"
