#!/usr/bin/env bash
# Measure against the peer: tests/bench/run.sh fit|score|sample PYTHON [FLAGS], from the project's directory.
set -euo pipefail
what=$1 python=$2
shift 2
data="target/bench-$what"
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
    *)
        echo "there is no benchmark $what; there are fit, score and sample" >&2
        exit 2 ;;
esac
[ -e "$data/model/config.json" ] || "$python" "${prepare[@]}"
"bench-$what" run --data "$data" --python "$python" --peer "$peer" --out docs/bench "$@"
