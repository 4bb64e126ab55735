#!/usr/bin/env bash
# Runs one node's torchrun, given as arguments. torchrun hands TERM on to its ranks, waits until they have saved, and
# ends with status 1 as after a crash; here that becomes 143, so that launch.sh can tell the two apart.
set -euo pipefail

asked=0
child=
# Only the first TERM is handed on: a second one would end torchrun while its ranks still save.
trap '((asked)) || [[ -z $child ]] || kill -TERM "$child" || true; asked=$((asked + 1))' TERM
"$@" &
child=$!
((asked == 0)) || kill -TERM "$child" || true
while :; do # a trapped signal ends `wait` before the child has ended
    status=0 before=$asked
    wait "$child" || status=$?
    ((asked > before)) || break
done
((asked == 0 || status == 0)) || status=143
exit "$status"
