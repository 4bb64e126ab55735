#!/usr/bin/env bash
# Training data from documents, as the paper makes it: filter -> hq -> negatives, and vl -> negatives.
#   CORPUS=docs.jsonl MODEL=meta-llama/Llama-3.1-70B-Instruct BASE_URL=http://127.0.0.1:8000/v1 scripts/synth.sh
#   CORPUS=bright/biology MODEL=gpt-4.1 CHAINS=hq LIMIT=1000 scripts/synth.sh generator.max_concurrency=64
# Environment: CORPUS (BRIGHT or BEIR folder, JSONL of id and content, or a folder of .txt and .md files), MODEL, GENERATOR
# (openai; openai_batch, vllm), BASE_URL (the server; unset is OpenAI's), OUTPUT_DIR (outputs/synth), CHAINS ("hq vl"; also
# eq), PAIRS (1000 rows of vl), VL (more options of vl, such as "query_words=[100,400]"), LIMIT (documents; default all),
# PROMPTS (folder of edited prompts), JUDGE (false), FILTER (options of the filter, such as
# "classifier=HuggingFaceFW/fineweb-edu-classifier min_score=2"; FILTER=off leaves it out), PYTHON (python).
# Arguments are overrides of every step that asks the generator. Run it again and it goes on where it stopped.
set -euo pipefail

PYTHON=${PYTHON:-python}
CORPUS=${CORPUS:?name the documents: CORPUS=FILE}
MODEL=${MODEL:?name the generator\'s model: MODEL=NAME}
GENERATOR=${GENERATOR:-openai}
OUTPUT_DIR=${OUTPUT_DIR:-outputs/synth}
CHAINS=${CHAINS:-hq vl}
FILTER=${FILTER:-}
read -r -a varied <<<"${VL:-}"

shared=("generator=$GENERATOR" "generator.model=$MODEL")
[[ -z ${BASE_URL:-} ]] || shared+=("generator.base_url=$BASE_URL")
[[ -z ${PROMPTS:-} ]] || shared+=("prompts=$PROMPTS")
judge=("judge=${JUDGE:-false}")

synth() {
    echo "== recipe=$1 -> $2" >&2
    "$PYTHON" -m reasonir.synth "recipe=$1" "output_dir=$2" "${@:3}"
}

documents=$CORPUS
if [[ $FILTER != off ]]; then
    read -r -a filter <<<"$FILTER"
    synth filter "$OUTPUT_DIR/filter" "corpus=$CORPUS" "${filter[@]}"
    documents=$OUTPUT_DIR/filter/documents.jsonl
fi

for chain in $CHAINS; do
    options=("corpus=$documents" "${shared[@]}" "${judge[@]}")
    [[ $chain != vl ]] || options+=("pairs=${PAIRS:-1000}" "${varied[@]}")
    [[ $chain == vl || -z ${LIMIT:-} ]] || options+=("limit=$LIMIT")
    synth "$chain" "$OUTPUT_DIR/$chain" "${options[@]}" "$@"
    synth negatives "$OUTPUT_DIR/${chain}_negatives" "rows=$OUTPUT_DIR/$chain/data.jsonl" "${shared[@]}" "${judge[@]}" "$@"
    echo "train on: $OUTPUT_DIR/${chain}_negatives/data.jsonl" >&2
done
