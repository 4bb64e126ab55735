#!/usr/bin/env bash
# The training step on one GPU with 80 GB, one JSON line a shape, mix and variant: real tokens a second, MFU and HFU (the
# formula stands in bench_train.py), peak memory, beside padded chunks without and with layer checkpointing and, where all
# weights train, sentence-transformers. Llama-3.1-8B's shape with LoRA, Llama-3.2-1B's trained whole; random weights.
#   scripts/bench_cuda.sh > sweep.jsonl
#   SHAPES=llama_1b MIXES=hq REPEATS=3 scripts/bench_cuda.sh
# Environment: SHAPES ("llama_8b llama_1b"), MIXES ("public hq vl": up to 2,048 tokens a text), REPEATS (5), PYTHON.
set -euo pipefail

PYTHON=${PYTHON:-python}
here=$(dirname "$0")
"$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || { echo "bench_cuda.sh: no CUDA GPU here" >&2; exit 2; }
read -r -a mixes <<<"${MIXES:-public hq vl}"
for shape in ${SHAPES:-llama_8b llama_1b}; do
    options=(--model "$shape" --precision bf16 --mixes "${mixes[@]}" --repeats "${REPEATS:-5}")
    if [[ $shape == llama_8b ]]; then
        options+=(--lora-rank 16 --chunk-tokens 8192 --variants published padded packed packed_kept_graphs)
    else
        options+=(--chunk-tokens 16384)
    fi
    "$PYTHON" "$here/bench_train.py" "${options[@]}"
done
