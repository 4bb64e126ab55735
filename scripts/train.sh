#!/usr/bin/env bash
# Trains on one machine, one process a GPU, and goes on from the newest checkpoint of OUTPUT_DIR.
#   scripts/train.sh                                     # the paper's experiment on all GPUs
#   NPROC=2 EXPERIMENT=hq scripts/train.sh parallel=ddp max_steps=100
# Environment: NPROC (processes; default the GPUs there are, else 1), EXPERIMENT (vl_hq; empty is none), OUTPUT_DIR
# (outputs/$EXPERIMENT), MAX_RESTARTS (3; after a crash torchrun starts all ranks again), PYTHON (python).
# Arguments are Hydra overrides and win over all of these.
set -euo pipefail

PYTHON=${PYTHON:-python}
EXPERIMENT=${EXPERIMENT-vl_hq}
OUTPUT_DIR=${OUTPUT_DIR:-outputs/${EXPERIMENT:-train}}
MAX_RESTARTS=${MAX_RESTARTS:-3}
if [[ -z ${NPROC:-} ]]; then
    NPROC=$(nvidia-smi --list-gpus 2>/dev/null | wc -l) || true
    ((NPROC > 0)) || NPROC=1
fi

# The time that torchrun leaves its ranks to end the step and save after TERM or Ctrl-C; its own is 30 s.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-280}

# Chunks differ in size: without segments that grow, torch's memory on the GPU falls into pieces that fit none.
[[ -n ${PYTORCH_CUDA_ALLOC_CONF:-} ]] || export PYTORCH_ALLOC_CONF=${PYTORCH_ALLOC_CONF:-expandable_segments:True}

# torch.distributed.run is torchrun, of the very Python that trains.
exec "$PYTHON" -m torch.distributed.run --standalone --nproc_per_node "$NPROC" --max-restarts "$MAX_RESTARTS" \
    -m reasonir.train ${EXPERIMENT:+"+experiment=$EXPERIMENT"} "output_dir=$OUTPUT_DIR" resume=true "$@"
