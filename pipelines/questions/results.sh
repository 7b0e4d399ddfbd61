#!/usr/bin/env bash
# Writes docs/questions/results.md from the store: the table of every experiment
# that is done there, as JSON into docs/questions/results, and all of these, with
# those of other machines and days that are there already, summed up over seeds.
#
#     pipelines/questions/results.sh 11 12 13 14 15
#
# Where the data of SmolLM2's runs lie elsewhere than their files say, the flags that
# say so are in SMOLLM2_FLAGS, as `--set data.train.path=…`.
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

# A pretrained model, one seed: its table, and every score of every model against θ0.
for name in smollm2-gsm8k-dpo smollm2-instruct; do
    read -ra flags <<<"${SMOLLM2_FLAGS:-}"
    [ "$name" = smollm2-gsm8k-dpo ] || flags=()
    table=$(spin-bench table "pipelines/$name.toml" "${flags[@]}" --format markdown 2>/dev/null) || continue
    run=${name%-dpo}
    mapfile -t models < <(grep -oE '^\| (iter-[0-9]+|sft|dpo) ' <<<"$table" | tr -d '| ')
    {
        echo "$table"
        printf '\n```\n'
        spin-bench compare "${models[@]/#/$run/}"
        printf '```\n\n'
        echo 'Digests of the scores:'
        printf '\n```\n'
        spin-store ls | grep -E "^(scores|evaluations)/$run/"
        printf '```\n'
    } >"$out/$run.md"
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
    section 'Within reach, 20,000 words' words reach reach-10 reach-sft right
    section 'Variants, 20,000 words' words tspin tspin-3 space beta-0.1 beta-0.3 beta-1 beta-10 loss-hinge loss-exponential \
        loss-correlation samples-1 samples-16 greedy window-2 nll epochs-3 dpo-oracle sft-more restarts
    for size in 500 2000 5000; do
        section "Scarcity, $size words" "words-$size" "tspin-$size" "space-$size"
    done
    for run in smollm2-gsm8k smollm2-instruct; do
        [ -f "$out/$run.md" ] || continue
        printf '\n## %s\n\nTable, comparisons and digests: [%s](results/%s.md).\n' "$run" "$run" "$run"
    done
} >docs/questions/results.md
