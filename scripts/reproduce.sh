#!/usr/bin/env bash
# The paper's chain, arXiv 2504.20595, to one table of numbers obtained beside numbers expected (docs/reproduce.md):
# synth, train, bright, rewrite, rerank, rag, ablations.
#   scripts/reproduce.sh plan=true                  # what would be run, what it costs, what is expected; runs nothing
#   scripts/reproduce.sh scale=tiny                 # the same chain on a CPU: no hub, no GPU, no model to download
#   CORPUS=passages.jsonl BENCHMARK=bright/pony QUESTIONS=questions.jsonl scripts/reproduce.sh scale=small
#   MODEL=meta-llama/Llama-3.1-70B-Instruct BASE_URL=http://127.0.0.1:8000/v1 GPQA=gpqa_diamond.csv scripts/reproduce.sh
# Arguments: scale=paper|small|tiny, output_dir=DIR (outputs/reproduce_SCALE), only=[STEP,...], plan=true (or --plan).
# Environment of scale=small: CORPUS, BENCHMARK (a task's folder), QUESTIONS; MODEL and BASE_URL (a server; default: SmolLM2 by
# vLLM on this machine), RETRIEVER (folder of the model to train; default SmolLM2). scale=tiny takes none of them.
# Environment of scale=paper: MODEL, BASE_URL, GENERATOR (as scripts/synth.sh), GPQA (its csv, gated), ROWS (ours: train on
# what synth wrote; release: on the released rows), NPROC (processes; default the GPUs), REASONIR_DATA (public data).
# PYTHON: default .venv/bin/python where there is one, else python. Run it again and it goes on where it stopped.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
steps=(synth train bright rewrite rerank rag ablations)

refuse() { echo "reproduce.sh: error: $1" >&2; exit 2; }

scale=paper plan=false output_dir='' only='' server='' URL=''
for argument in "$@"; do
    case $argument in
        scale=paper | scale=small | scale=tiny | plan=true | plan=false) declare "$argument" ;;
        output_dir=?* | only=?*) declare "$argument" ;;
        --plan) plan=true ;;
        -h | --help) sed -n '2,/^set /{/^#/s/^# \?//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
        scale=*) refuse "$argument must be paper, small or tiny" ;;
        *) refuse "$argument is no option; there are scale=paper|small|tiny, output_dir=DIR, only=[STEP,...], plan=true" ;;
    esac
done
out=${output_dir:-outputs/reproduce_$scale}
IFS=', ' read -r -a chosen <<<"$(tr -d '[]' <<<"${only:-${steps[*]}}")"
for step in "${chosen[@]}"; do
    [[ " ${steps[*]} " == *" $step "* ]] || refuse "only=$only: $step is no step; there are ${steps[*]}"
done
asked() { [[ " ${chosen[*]} " == *" $1 "* ]]; }

python=${PYTHON:-}
[[ -n $python || ! -x $root/.venv/bin/python ]] || python=$root/.venv/bin/python
export PYTHON=${python:-python} PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
command -v "$PYTHON" >/dev/null || refuse "PYTHON=$PYTHON is not there; make one with 'make quickstart', or name yours"

# One command: printed, run unless it ended well before with the same options, and noted with its seconds.
run() {
    local name=$1 line='' word begun=$SECONDS note=$out/notes/$step.$1
    shift
    for word in "$@"; do
        [[ $word =~ ^[][A-Za-z0-9_./:=,+@%-]+$ ]] || word=${word@Q}
        line+="${line:+ }$word"
    done
    line=${line//"$PYTHON"/python} line=${line//"${URL:-no server}"/URL} line=${line//"$root/scripts"/scripts}
    if $plan; then echo "    $line"; return; fi
    if [[ -f $note && $(head -n 1 "$note") == "$line" ]]; then echo "-- $step: $name was done before"; return; fi
    echo "\$ $line"
    "$@" || { stopped="$step: $name ended with status $?"; exit 1; }
    mkdir -p "$out/notes"
    printf '%s\n%d\n' "$line" $((SECONDS - begun)) >"$note.partial"
    mv "$note.partial" "$note"
}

# Whatever ends this script ends the server, and what there is goes into the table.
stopped=''
leave() {
    local status=$?
    trap - EXIT
    [[ -z $server ]] || { kill "$server" && wait "$server"; } 2>/dev/null || true
    if ! $plan && [[ -d $out ]]; then
        ((status == 0)) || stopped=${stopped:-ended with status $status by a signal; the same command goes on}
        "$PYTHON" "$root/scripts/reproduce_table.py" check "$scale" "$out" "$(IFS=,; echo "${chosen[*]}")" "$stopped" ||
            ((status != 0)) || status=1
    fi
    exit "$status"
}

# shellcheck source=reproduce_paper.sh
# shellcheck source=reproduce_small.sh
# shellcheck source=reproduce_tiny.sh
source "$root/scripts/reproduce_$scale.sh"
$plan || check_needs
$plan || mkdir -p "$out"
trap 'exit 130' INT
trap 'exit 143' TERM
trap leave EXIT
# In braces, so that bash has read it all: who edits this file during a run of days does not change that run.
{
    prepare
    for step in "${steps[@]}"; do
        asked "$step" || continue
        "$PYTHON" "$root/scripts/reproduce_table.py" plan "$scale" "$step"
        "step_$step"
        $plan || touch "$out/notes/$step"
    done
    exit
}
