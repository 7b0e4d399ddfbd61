#!/usr/bin/env bash
# Plays every experiment of pipelines/questions twice with few words: once undisturbed, and once killed (-9, all
# processes) at random moments and started anew each time. Both must end with the same tables, digests included.
#
#     tests/questions/kills.sh DIR [KILLS] [RANDOM_SEED]
#
# The programs and `oracle_preferences` have to be on PATH.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$1 kills=${2:-10}
RANDOM=${3:-$$}
# Enough words for θ0 to get some right: the oracle has to have something to prefer.
flags=(--set data.train.limit=600 --set data.test.limit=100 --set sample.samples_per_prompt=2 --set sample.rows_per_part=100
    --set fit.checkpoint_every=5)

for part in whole killed; do
    mkdir -p "$dir/$part/data"
    cp -r "$root/pipelines" "$dir/$part/"
    cp -r "$root/data/raw" "$dir/$part/data/"
done
play() { exec "$dir/$1/pipelines/questions/run.sh" 11 -- "${flags[@]}"; }

start=$(date +%s)
(play whole) > "$dir/whole.log" 2>&1
took=$(($(date +%s) - start))
echo "undisturbed: $took s"

done_kills=0
while [ "$done_kills" -lt "$kills" ]; do
    set -m
    (play killed) >> "$dir/killed.log" 2>&1 &
    pid=$!
    set +m
    # So that all kills together are spread over the whole of it.
    wait_ms=$((200 + (RANDOM * 32768 + RANDOM) % (took * 1400 / kills)))
    sleep "$(printf '%d.%03d' $((wait_ms / 1000)) $((wait_ms % 1000)))"
    if ! kill -9 -- "-$pid" 2> /dev/null; then
        wait "$pid" || { echo "a run failed: $dir/killed.log" >&2; exit 1; }
        echo "all was done before kill $((done_kills + 1))" >&2
        break
    fi
    wait "$pid" 2> /dev/null || true
    done_kills=$((done_kills + 1))
    artifacts=$(spin-store ls --store "$dir/killed/data" | wc -l)
    echo "kill $done_kills after $wait_ms ms: $artifacts artifacts"
done
(play killed) >> "$dir/killed.log" 2>&1

different=0
for file in "$root"/pipelines/questions/*.toml; do
    name=$(basename "$file")
    [ "$name" != base.toml ] || continue
    for part in whole killed; do
        spin-bench table "$dir/$part/pipelines/questions/$name" --set seed=11 "${flags[@]}" \
            --format json > "$dir/$part-$name.json"
    done
    cmp "$dir/whole-$name.json" "$dir/killed-$name.json" || different=$((different + 1))
done
spin-store verify --store "$dir/killed/data" --level rows > "$dir/verify.log" || { echo "the store is not whole: $dir/verify.log" >&2; exit 1; }
tables=$(find "$dir" -maxdepth 1 -name 'whole-*.json' | wc -l)
echo "$done_kills kills, $tables tables, $different different; store verified"
[ "$different" = 0 ] && [ "$done_kills" = "$kills" ]
