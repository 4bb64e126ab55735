#!/usr/bin/env bash
# The steps of reproduce.sh at the paper's scale; sourced by it. Sizes and models are those of arXiv 2504.20595.
set -euo pipefail
: "${root:?this file is a part: run scripts/reproduce.sh scale=paper}"

bright=(data.hub=xlangai/BRIGHT)
base=$out/train/vl_hq/model
released=reasonir/ReasonIR-8B

check_needs() {
    if asked synth; then
        [[ -n ${MODEL:-} ]] || refuse "MODEL is missing: name the generator of synth, such as MODEL=meta-llama/Llama-3.1-70B-Instruct"
    fi
    if asked rag; then
        [[ -f ${GPQA:-} ]] || refuse "GPQA=${GPQA:-} is no file: name gpqa_diamond.csv, which its authors give on request"
    fi
    [[ ${ROWS:-ours} == ours || $ROWS == release ]] || refuse "ROWS=$ROWS must be ours or release"
    ((NPROC > 0)) || refuse "scale=paper needs GPUs and nvidia-smi lists none; plan=true prints it, scale=tiny runs on a CPU"
}

prepare() { :; }

if [[ -z ${NPROC:-} ]]; then
    NPROC=$(nvidia-smi --list-gpus 2>/dev/null | wc -l) || NPROC=0
    ! $plan || ((NPROC > 0)) || NPROC=8
fi
export NPROC
parallel=("$PYTHON" -m torch.distributed.run --standalone --nproc_per_node "$NPROC" -m reasonir.eval)

step_synth() {
    local chains='hq vl eq'
    [[ ${ROWS:-ours} == ours ]] || chains=eq # the release has no easy queries
    run chain env CORPUS=hub:xlangai/BRIGHT "MODEL=${MODEL:-MODEL}" "GENERATOR=${GENERATOR:-openai}" \
        "BASE_URL=${BASE_URL:-}" "CHAINS=$chains" PAIRS=244970 "OUTPUT_DIR=$out/synth" \
        "FILTER=classifier=HuggingFaceFW/fineweb-edu-classifier min_score=2 top=100521" "$root/scripts/synth.sh"
}

# What is trained on; zero3 shares the weights among the GPUs of one machine. On a cluster: docs/reproduce.md.
train() {
    local experiment=$1 rows=()
    if [[ ${ROWS:-ours} == ours ]]; then
        [[ $experiment != *vl* ]] || rows+=("data.sources.vl.path=$out/synth/vl_negatives/data.jsonl" data.sources.vl.rows=null)
        [[ $experiment != *hq* ]] || rows+=("data.sources.hq.path=$out/synth/hq_negatives/data.jsonl" data.sources.hq.rows=null
            "data.sources.hq.documents=[]")
        [[ $experiment != vl_hq ]] || rows+=(data.published_rows=null)
    fi
    [[ $experiment != eq ]] || rows+=("data.sources.eq.path=$out/synth/eq_negatives/data.jsonl")
    run "train_$experiment" env "EXPERIMENT=$experiment" "OUTPUT_DIR=$out/train/$experiment" "$root/scripts/train.sh" parallel=zero3 \
        "${rows[@]}"
}

measure() { run "$1" "${parallel[@]}" bright "${bright[@]}" "output_dir=$out/bright/$1" "${@:2}"; }

step_train() { train vl_hq; }

step_bright() {
    measure released "model.path=$released"
    measure released_gpt4 "model.path=$released" queries=gpt4_reason
    measure trained "model.path=$base"
    measure trained_gpt4 "model.path=$base" queries=gpt4_reason
    measure hybrid_gpt4 "model.path=$base" queries=gpt4_reason retriever=hybrid
    local lexical=("$PYTHON" -m reasonir.eval bright "${bright[@]}" retriever=bm25_query_weighted)
    run bm25 "${lexical[@]}" "output_dir=$out/bright/bm25"
    run bm25_gpt4 "${lexical[@]}" queries=gpt4_reason "output_dir=$out/bright/bm25_gpt4"
}

step_rewrite() {
    run llama "$PYTHON" -m reasonir.eval rewrite "${bright[@]}" name=llama "output_dir=$out/rewrites" generator=vllm \
        generator.model=meta-llama/Llama-3.1-8B-Instruct
    measure rewritten "model.path=$base" "queries=$out/rewrites/llama"
}

step_rerank() {
    run qwen "$PYTHON" -m reasonir.eval rerank "run=$out/bright/trained_gpt4" top=100 "output_dir=$out/reranked" generator=vllm \
        generator.model=Qwen/Qwen2.5-32B-Instruct "generator.tensor_parallel_size=$NPROC"
}

step_rag() {
    local pool
    for pool in mmlu:mmlu_searched_results_from_massiveds gpqa:gpqa_searched_results_from_massiveds_non_cc; do
        local name=${pool%%:*} store=$out/store/${pool%%:*}
        run "${name}_datastore" "$PYTHON" -m reasonir.eval datastore "source=[hub:rulins/${pool#*:}]" "output_dir=$store"
        run "${name}_encode" "${parallel[@]}" encode "input=$store/passages.jsonl" side=document max_tokens=2048 \
            "model.path=$base" dtype=float16 "output_dir=$store/encoded"
    done
    run mmlu "$PYTHON" -m reasonir.eval mmlu data.hub=cais/mmlu "datastore=$out/store/mmlu/encoded" "model.path=$base" \
        "output_dir=$out/mmlu"
    run gpqa "$PYTHON" -m reasonir.eval gpqa "data.file=${GPQA:-gpqa_diamond.csv}" "datastore=$out/store/gpqa/encoded" \
        "model.path=$base" "output_dir=$out/gpqa"
}

step_ablations() {
    local experiment
    for experiment in public vl hq eq; do
        train "$experiment"
        measure "$experiment" "model.path=$out/train/$experiment/model"
        measure "${experiment}_gpt4" "model.path=$out/train/$experiment/model" queries=gpt4_reason
    done
}
