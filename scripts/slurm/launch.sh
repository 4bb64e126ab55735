#!/usr/bin/env bash
# Runs inside a SLURM allocation (the .sbatch files beside it call it): checks the options, starts one torchrun a node,
# and decides afterwards whether the job queues itself again.
# Environment: EXPERIMENT (vl_hq), OUTPUT_DIR (outputs/$EXPERIMENT), GPUS_PER_NODE (8), MAX_RESTARTS (3),
# MAX_REQUEUES (50), PORT (29500 + job id modulo 1000), PYTHON (python). Arguments are Hydra overrides.
set -euo pipefail

PYTHON=${PYTHON:-python}
EXPERIMENT=${EXPERIMENT:-vl_hq}
GPUS_PER_NODE=${GPUS_PER_NODE:-8}
PORT=${PORT:-$((29500 + SLURM_JOB_ID % 1000))}
# The time that torchrun leaves its ranks to end the step and save; its own 30 s would cut a large model short.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-280}
# Chunks differ in size: without segments that grow, torch's memory on the GPU falls into pieces that fit none.
[[ -n ${PYTORCH_CUDA_ALLOC_CONF:-} ]] || export PYTORCH_ALLOC_CONF=${PYTORCH_ALLOC_CONF:-expandable_segments:True}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
options=("+experiment=$EXPERIMENT" "output_dir=${OUTPUT_DIR:-outputs/$EXPERIMENT}" resume=true "$@")

# A mistake in the options ends the job here with status 2, before torchrun would try it MAX_RESTARTS times.
env -u WORLD_SIZE -u RANK "$PYTHON" -m reasonir.train "${options[@]}" \
    dry_run=true "planned_ranks=$((SLURM_NNODES * GPUS_PER_NODE))"

stopped=0
trap 'stopped=$((stopped + 1))' TERM # should SLURM tell this shell too, it has to live on to read the status
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
host=${hosts%%$'\n'*}
# A node that has saved and left must not take along one that is still saving: no killing on a bad exit.
srun --ntasks-per-node=1 --kill-on-bad-exit=0 --wait=0 "$here/node.sh" "$PYTHON" -m torch.distributed.run \
    --nnodes "$SLURM_NNODES" --nproc_per_node "$GPUS_PER_NODE" --max-restarts "${MAX_RESTARTS:-3}" \
    --rdzv_backend c10d --rdzv_endpoint "$host:$PORT" --rdzv_id "$SLURM_JOB_ID" \
    -m reasonir.train "${options[@]}" &
step=$!
while :; do # a trapped signal ends `wait` before the step has ended
    status=0 before=$stopped
    wait "$step" || status=$?
    ((stopped > before)) || break
done

if ((status == 143 || (stopped > 0 && status != 0))); then
    if ((${SLURM_RESTART_COUNT:-0} >= ${MAX_REQUEUES:-50})); then
        echo "stopped for time after ${SLURM_RESTART_COUNT} requeues (MAX_REQUEUES): giving up" >&2
        exit "$status"
    fi
    echo "stopped for time: job $SLURM_JOB_ID queues again and goes on from its newest checkpoint" >&2
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit "$status"
