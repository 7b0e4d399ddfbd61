#!/usr/bin/env bash
# Measure against the peer: tests/bench/run.sh fit|score|sample|bf16|pair|store PYTHON [FLAGS], from the project's directory.
set -euo pipefail
what=$1 python=$2
shift 2
data="target/bench-$what"
# No peer, and no model of theirs.
case "$what" in
    store) exec bench-store store --data "$data" --out docs/bench "$@" ;;
    pair) exec bench-store pair --data "$data" --out docs/bench --python "$python" --peer tests/bench/pair_peers.py "$@" ;;
esac
case "$what" in
    fit)
        prepare=(tests/bench/prepare.py "$data" --text ../shared/benchmarks ../shared/sft)
        peer=tests/bench/trl_dpo.py ;;
    score)
        prepare=(tests/bench/prepare_score.py "$data/model" --text ../shared/benchmarks)
        peer=tests/bench/lm_eval_score.py ;;
    sample)
        # The same model.
        data=target/bench-score
        prepare=(tests/bench/prepare_score.py "$data/model" --text ../shared/benchmarks)
        peer=tests/bench/transformers_generate.py ;;
    bf16)
        # On what the others made.
        [ -e target/bench-fit/model/config.json ] && [ -e target/bench-score/sample-prompts.json ] || {
            echo "run the benchmarks fit and sample first, whose data this one takes" >&2
            exit 2
        }
        exec bench-bf16 --fit target/bench-fit --prompts target/bench-score/sample-prompts.json --out docs/bench "$@" ;;
    *)
        echo "there is no benchmark $what; there are fit, score, sample, bf16, pair and store" >&2
        exit 2 ;;
esac
[ -e "$data/model/config.json" ] || "$python" "${prepare[@]}"
"bench-$what" run --data "$data" --python "$python" --peer "$peer" --out docs/bench "$@"
