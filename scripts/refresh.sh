#!/usr/bin/env bash
# Trains in rounds: the current model mines hard negatives for the rows, then trains on them.
#   MODEL=FOLDER ROWS=rows.jsonl CORPUS=docs.jsonl ROUNDS=3 scripts/refresh.sh warmup_ratio=0.1 negatives.drop_above=0.95
# Environment: MODEL (folder or hub id of the retriever to begin with), ROWS (training rows), CORPUS (documents to mine from:
# BRIGHT or BEIR folder, JSONL of id and content, or a folder of .txt and .md files), ROUNDS (1), OUTPUT_DIR (outputs/refresh),
# MINE (options of mining that win over those below), EXPERIMENT (none), NPROC, MAX_RESTARTS and PYTHON as for scripts/train.sh.
# Arguments are overrides of every round's training. A round is one epoch, with a warm-up and an optimizer of its own.
# The model of round N is OUTPUT_DIR/round_N/train/model. Run it again, with more ROUNDS too, and it goes on where it stopped.
set -euo pipefail

PYTHON=${PYTHON:-python}
MODEL=${MODEL:?name the retriever to begin with: MODEL=FOLDER}
ROWS=${ROWS:?name the training rows: ROWS=FILE}
CORPUS=${CORPUS:?name the documents to mine from: CORPUS=FILE}
OUTPUT_DIR=${OUTPUT_DIR:-outputs/refresh}
# Documents below 95 % of the positive's score take the place of the row's own negatives.
mine=(first_rank=1 last_rank=50 margin=0.05 relative_margin=true replace_negatives=true)
read -r -a more <<<"${MINE:-}"

# Whoever stops this script alone stops the command under way too: a second run must not meet it in the same folder.
child=
stop() {
    [[ -z $child ]] || { kill -TERM "$child" && wait "$child"; } 2>/dev/null || true
    exit "$1"
}
trap 'stop 143' TERM
trap 'stop 130' INT
run() {
    "$@" &
    child=$!
    wait "$child"
    child=
}

# Not again what ended well with the same options on the same rows: it would write the same model once more.
train() {
    local folder=$1 rows=$2 asked
    asked=$(printf '%q ' "${EXPERIMENT:-}" "${@:2}" && sha256sum <"$rows")
    if [[ -f $folder/manifest.json && -f $folder.done && $(<"$folder.done") == "$asked" ]]; then
        echo "trained before: $folder/model" >&2
        return
    fi
    EXPERIMENT=${EXPERIMENT:-} OUTPUT_DIR=$folder run "$(dirname "${BASH_SOURCE[0]}")/train.sh" "data.files=[$rows]" "${@:3}"
    printf '%s\n' "$asked" >"$folder.done.partial"
    mv "$folder.done.partial" "$folder.done"
}

current=$MODEL
for ((round = 1; round <= ${ROUNDS:-1}; round++)); do
    folder=$OUTPUT_DIR/round_$round
    echo "== round $round: $current mines -> $folder/mined" >&2
    # The seed of a round: the same would show the rows in the same order again.
    run "$PYTHON" -m reasonir.synth recipe=mine retriever=dense "rows=$ROWS" "corpus=$CORPUS" "model.path=$current" \
        "seed=$round" "output_dir=$folder/mined" "${mine[@]}" "${more[@]}"
    echo "== round $round: $current trains -> $folder/train" >&2
    train "$folder/train" "$folder/mined/data.jsonl" "model.path=$current" "seed=$round" "$@"
    current=$folder/train/model
done
echo "model: $current" >&2
