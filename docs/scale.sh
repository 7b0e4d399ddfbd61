#!/usr/bin/env bash
# Writes docs/scale.md to standard output; spin-fit is on the PATH.
set -euo pipefail
cd "$(dirname "$0")/.."
plan() { spin-fit plan pipelines/zephyr-7b.toml --format markdown --world 1,8,64 "$@"; }
cat <<'END'
# What larger trainings take, on paper

Written by `just scale` from `spin-fit plan`, which reckons for any run file (`--world`, `--gpu`, `--model`).
**Nothing here was measured on a GPU.** `spin-fit` trains on several processes (`docs/training.md`), on CPUs, where that is tested, and on
GPUs by kernels that were never run on one (`docs/devices.md`). What is worth reading are the bytes: they follow from the buffers that the code has
(`spin-model`'s own operations: numbers in f32 whatever the weights are kept in), and at the end they are held against a
dry run of it.

Settings of `pipelines/zephyr-7b.toml`: bf16 weights with f32 masters, RMSProp, 64 pairs an update, full lengths (512 + 512
tokens). `shares` are as many as processes. Memory each, on the device: weights, gradient in f32, what is kept for the backward pass, the
largest chunk of logits. Of the host, each: weights and gradient again, of state and masters a part (ZeRO-1), and what is on its way:
the optimiser's step is made there. Times: 0.4 of the data sheet's dense bf16 peak (assumed); `host` is the way of gradients and
weights by PCI Express and the step in 200 GB/s of the host's memory (assumed), which the processes of a node share; messages are
written and read in the same memory inside a node of 8, and go at 400 Gbit/s a GPU between nodes. Nothing is overlapped today, and
`overlapped` is what hiding it behind the last backward pass could make of it. `round` is the first round of 50,000 pairs.

END
for gpu in h100 h200; do
    for model in llama-1b llama-7b llama-13b llama-70b; do
        printf '## %s on %s\n\n' "$model" "${gpu^^}"
        plan --gpu "$gpu" --model "$model" --set fit.recompute_every=1
        printf '\nWithout recomputation, on 8: '
        plan --gpu "$gpu" --model "$model" --set fit.recompute_every=0 --world 8 | awk -F'|' 'NR == 4 {
            gsub(/ +/, " "); print "activations" $7 "instead, memory each" $10 ", an update" $18 }' | sed 's/ ,/,/g; s/ $/./'
        printf '\n'
    done
done
cat <<'END'
## Against what the code asks for

`spin-fit plan --dry-run` runs the passes of an update with operations that compute nothing and count the bytes of every
buffer that they are given, and likewise with `--generate 256` the prompts and a token of 256 sequences. Masters and
state are not in it. Llama 7B, bf16, 512 + 512 tokens, prompts read one at a time; training on one process, then on 8:

END
for world in 1 8; do
    plan --gpu h100 --model llama-7b --set fit.recompute_every=1 --world "$world" --dry-run | awk '/^$/ { rest = 1; next } rest'
    printf '\n'
done
plan --gpu h100 --model llama-7b --set fit.recompute_every=1 --world 1 --dry-run --generate 256 | awk '/^$/ { tables++; next } tables == 2'
cat <<'END'

So a full fine-tune of 7B fits a card of 80 GB, with 88 GiB of the host's memory, and 8 cards with ZeRO-1, with 44 GiB each. The host's part
costs little where an update computes for long, and more than the computing on 8 cards: there gradients that are added up between the
GPUs (NCCL) and a step on them, whose kernels are there, would make an update three times as fast. Neither is done. 256 sequences of
1,024 tokens do not fit one at this shape, which has as many keys as queries, and f32 keys and values.

## Against what can be measured here

A Llama of the shape of SmolLM2-135M (134.5M weights, f32, AdamW, no recomputation, 16 rows of 277 tokens, 4 in a pass,
`shards = 2`), on 2 cores of an AMD EPYC (family 26, model 2), `mpirun`, one thread each; the largest resident memory of a process
as the system has it:

| processes | reckoned | measured, first process | measured, second |
|---|---|---|---|
| 1 | 3441 MiB | 3426 MiB | |
| 2 | 2478 MiB | 2463 MiB | 2460 MiB |

END
