#!/usr/bin/env bash
# A training that survives the time limit of its partition, and preemption:
#
#     sbatch [options] tools/sbatch_train.sh CONFIG WORK_DIR [options of train.py]
#
# Slurm sends SIGUSR1 to the tasks five minutes before the limit, SIGTERM at preemption;
# the training saves itself and ends with status 138 or 143, and goes on with --resume in
# the place that the job gets next. Change the lines below, or give options to sbatch:
# they count more. On CPUs, take out --gres. Call it from the folder above tools.
#SBATCH --job-name=mmssm
#SBATCH --ntasks=8
#SBATCH --ntasks-per-node=8
#SBATCH --gres=gpu:8
#SBATCH --cpus-per-task=5
#SBATCH --time=4:00:00
#SBATCH --signal=USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail

if [[ $# -lt 2 ]]; then
    echo "usage: sbatch [options] $0 CONFIG WORK_DIR [options of train.py]" >&2
    exit 2
fi
config=$1
work_dir=$2
shift 2

export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
trap '' USR1 TERM # the tasks answer; this script waits for them
srun --kill-on-bad-exit=0 \
    ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} \
    python -u tools/train.py "$config" --work-dir="$work_dir" \
    --launcher=slurm --resume "$@"
status=$?
if ((status == 138 || status == 143)); then
    echo "job $SLURM_JOB_ID is saved in $work_dir; it queues again" >&2
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $status
