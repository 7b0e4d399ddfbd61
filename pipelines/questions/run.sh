#!/usr/bin/env bash
# Plays the experiments of this directory for some seeds, as far as they are not done:
#
#     pipelines/questions/run.sh 11 12 13
#     pipelines/questions/run.sh 11 -- --set data.test.limit=1000
#
# What follows `--` is given to every run. The programs and `oracle_preferences`
# (cargo build --release --workspace --examples) have to be on PATH.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
seeds=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    seeds+=("$1")
    shift
done
[ $# -eq 0 ] || shift

for seed in "${seeds[@]}"; do
    # θ0 is made by words*.toml, from which the others start.
    for file in "$here"/words*.toml; do
        spin-run run "$file" --set seed="$seed" "$@"
    done
    # Written beside and then renamed: a half file would be taken for a whole one.
    preferences="$here/../../data/oracle-$seed.jsonl"
    oracle_preferences "$here/words.toml" 0 "$preferences.part" --set seed="$seed" "$@"
    mv "$preferences.part" "$preferences"
    # SFT on what reach.toml learns from: the words, and θ0's own right answers.
    spin-run run "$here/reach.toml" --set seed="$seed" "$@"
    rows() {
        local to="$here/../../data/$1-$seed.jsonl" sql=$2
        shift 2
        spin-store query "$sql" "$@" --from demonstrations="demonstrations/reach-$seed/train" --store "$here/../../data" --format jsonl >"$to.part"
        mv "$to.part" "$to"
    }
    rows reach "SELECT d.row_id AS id, d.prompt, d.response FROM demonstrations d JOIN (SELECT DISTINCT row_id FROM pairs) AS p
        ON d.row_id = p.row_id" --from pairs="pairs/reach-$seed/iter-0"
    rows right "SELECT CONCAT(s.row_id, '-', CAST(s.sample_index AS VARCHAR)) AS id, d.prompt, d.response FROM samples s
        JOIN demonstrations d ON s.row_id = d.row_id WHERE TRIM(s.response) = d.response" --from samples="samples/reach-$seed/iter-0"
    for file in "$here"/*.toml; do
        case "$file" in */base.toml | */words*.toml | */reach.toml) continue ;; esac
        spin-run run "$file" --set seed="$seed" "$@"
    done
done
