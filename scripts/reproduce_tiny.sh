#!/usr/bin/env bash
# The steps of reproduce.sh on a CPU; sourced by it. The corpus and the benchmark are one task of the built-in world, the
# generator is scripts/tiny_server.py (rules, no model), the retriever a Llama of half a million parameters.
set -euo pipefail
: "${root:?this file is a part: run scripts/reproduce.sh scale=tiny}"

export REASONIR_CACHE=$out/cache HF_HUB_OFFLINE=1 OPENAI_API_KEY=unused TOKENIZERS_PARALLELISM=false
task=office_cases
bright=("data.dir=$out/world" "tasks=[$task]")
generator=() # the server's address, once it runs
sizes=(
    model=tiny parallel=single data=files planned_ranks=null precision=fp32 gradient_checkpointing=false
    graph_memory_gib=null model.vocabulary_size=2048 model.hidden_size=128 model.intermediate_size=256 model.layers=2
    model.heads=2 model.key_value_heads=2 query_max_tokens=96 document_max_tokens=64 global_batch_queries=32
    warmup_steps=4 learning_rate=3.0e-4 embedding_learning_rate=6.0e-3 weight_decay=0.01 temperature=0.1
    max_gradient_norm=1.0
)

check_needs() {
    [[ -z ${MODEL:-}${BASE_URL:-} ]] ||
        refuse "MODEL and BASE_URL are not used by scale=tiny, whose generator is a set of rules; give scale=small, or unset them"
    "$PYTHON" -c 'import sys, reasonir.core.command; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        refuse "$PYTHON lacks what reasonir needs; 'make quickstart' installs it, or name another: PYTHON=..."
}

# The world, its questions, and the server that stands for every language model.
prepare() {
    local step=prepare
    run world "$PYTHON" -m reasonir.quickstart "output_dir=$out/world" scale=0.5
    run questions "$PYTHON" "$root/scripts/tiny_questions.py" "$out/world/$task" "$out/questions"
    if $plan; then URL=http://127.0.0.1:8000/v1; else start_server; fi
    # The stand-in draws by the seed, so that samples of one question differ.
    generator=(generator=openai generator.model=rules-not-a-model "generator.base_url=$URL" generator.max_concurrency=8
        generator.send_seed=true)
}

start_server() {
    rm -f "$out/address"
    "$PYTHON" "$root/scripts/tiny_server.py" "$out/address" &
    server=$!
    until [[ -f $out/address ]]; do
        kill -0 "$server" 2>/dev/null || { stopped='the stand-in server did not start'; exit 1; }
        sleep 0.1
    done
    URL=$(<"$out/address")
    echo "generator: $URL, rules in place of a language model"
}

train() {
    run "train_$1" "$PYTHON" -m reasonir.train "+experiment=$1" "output_dir=$out/train/$1" resume=true "${sizes[@]}" \
        "data.files=[$2]" "max_steps=$3" save_every_steps=5
}

measure() { run "$1" "$PYTHON" -m reasonir.eval bright "${bright[@]}" "output_dir=$out/bright/$1" "${@:2}"; }

public=$out/world/train/$task.jsonl
rows() { echo "$out/synth/${1}_negatives/data.jsonl"; }

step_synth() {
    run chain env "CORPUS=$out/world/$task" MODEL=rules-not-a-model "BASE_URL=$URL" "CHAINS=hq vl eq" PAIRS=96 \
        "VL=query_words=[20,60] positive_words=[20,60]" "OUTPUT_DIR=$out/synth" "$root/scripts/synth.sh" report=false \
        generator.max_concurrency=8 generator.send_seed=true
}

step_train() { train vl_hq "$public,$(rows vl),$(rows hq)" 40; }

step_bright() {
    measure untrained "model.path=$out/train/vl_hq/initial_model"
    measure trained "model.path=$out/train/vl_hq/model"
    measure bm25 retriever=bm25
}

step_rewrite() {
    run rules "$PYTHON" -m reasonir.eval rewrite "${bright[@]}" name=rules "output_dir=$out/rewrites" "${generator[@]}"
    measure rewritten "model.path=$out/train/vl_hq/model" "queries=$out/rewrites/rules"
    measure rewritten_bm25 retriever=bm25 "queries=$out/rewrites/rules"
}

step_rerank() {
    run rules "$PYTHON" -m reasonir.eval rerank "run=$out/bright/trained" top=10 "output_dir=$out/reranked" "${generator[@]}"
}

step_rag() {
    local searched=("datastore=$out/store/encoded" "model.path=$out/train/vl_hq/model" queries=question)
    run datastore "$PYTHON" -m reasonir.eval datastore "source=[$out/world/$task]" "output_dir=$out/store"
    run encode "$PYTHON" -m reasonir.eval encode "input=$out/store/passages.jsonl" side=document \
        "model.path=$out/train/vl_hq/model" "output_dir=$out/store/encoded"
    run mmlu "$PYTHON" -m reasonir.eval mmlu "data.dir=$out/questions/mmlu" "output_dir=$out/mmlu" "${searched[@]}" \
        "${generator[@]}"
    run gpqa "$PYTHON" -m reasonir.eval gpqa "data.file=$out/questions/gpqa.csv" "output_dir=$out/gpqa" "${searched[@]}" \
        "${generator[@]}"
}

step_ablations() {
    local experiment file
    for experiment in public vl hq eq; do
        file=$public
        [[ $experiment == public ]] || file=$(rows "$experiment")
        train "$experiment" "$file" 16
        measure "$experiment" "model.path=$out/train/$experiment/model"
    done
}
