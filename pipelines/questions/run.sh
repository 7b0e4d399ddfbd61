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
    for file in "$here"/*.toml; do
        case "$file" in */base.toml | */words*.toml) continue ;; esac
        spin-run run "$file" --set seed="$seed" "$@"
    done
done
