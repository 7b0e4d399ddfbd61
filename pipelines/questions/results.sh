#!/usr/bin/env bash
# Writes docs/questions/results.md from the store: the table of every experiment
# that is done there, as JSON into docs/questions/results, and all of these, with
# those of other machines and days that are there already, summed up over seeds.
#
#     pipelines/questions/results.sh 11 12 13 14 15
set -euo pipefail
cd "$(dirname "$0")/../.."
out=docs/questions/results
mkdir -p "$out"
for file in pipelines/questions/*.toml; do
    name=$(basename "$file" .toml)
    for seed in "$@"; do
        # What is not scored, in whole, is no result yet.
        table=$(spin-bench table "$file" --set seed="$seed" --format json 2>/dev/null) || continue
        grep -q '"missing": \[\]' <<<"$table" || continue
        tr -d '\n' <<<"$table" | sed 's/  */ /g' >"$out/$name-$seed.json"
        echo >>"$out/$name-$seed.json"
    done
done

# All seeds of some experiments, the first of which has the θ0 of all.
section() {
    local title=$1 files=() name
    shift
    for name in "$@"; do
        for file in "$out/$name"-[0-9]*.json; do
            # words-500-11 is no seed of words.
            [[ -f $file && $(basename "$file") =~ ^"$name"-[0-9]+\.json$ ]] && files+=("$file")
        done
    done
    [ ${#files[@]} -gt 0 ] || return 0
    printf '\n## %s\n\n' "$title"
    spin-bench seeds --markdown "${files[@]}"
    printf '\nScores and their digests: %s.\n' "$(for file in "${files[@]}"; do printf '[%s](results/%s) ' "$(basename "$file" .json)" "$(basename "$file")"; done | sed 's/ $//')"
}

{
    echo '# Results of pipelines/questions'
    echo
    echo 'Written by `just questions-results` from the store; [questions.md](../questions.md) reads them.'
    section 'The ladder, 20,000 words' words
    section 'Variants, 20,000 words' words tspin tspin-3 space beta-0.1 beta-0.3 beta-1 beta-10 loss-hinge loss-exponential \
        loss-correlation samples-1 greedy window-2 nll epochs-3 dpo-oracle
    for size in 500 2000 5000; do
        section "Scarcity, $size words" "words-$size" "tspin-$size" "space-$size"
    done
} >docs/questions/results.md
