"""Small random models for comparing spin-bench with lm-evaluation-harness.

    python tests/parity/models.py OUT_DIR --text ../shared/benchmarks

writes two Hugging Face directories, always the same for the same text:

    OUT_DIR/llama/   LlamaForCausalLM, grouped-query attention, a BPE tokenizer as
                     sentencepiece makes it (byte fallback, no pre-tokenizer) that puts
                     BOS first, and Llama 2's chat template, which writes BOS itself
    OUT_DIR/qwen2/   Qwen2ForCausalLM with biases, a byte-level BPE tokenizer without
                     BOS, a padding token, and a ChatML template

Both have a context of 4096 tokens and about a million float32 weights. The output
layer is scaled up so that distributions are peaked and greedy decoding meets few near
ties; norms and biases are random too, so that none of them can be left out unnoticed.

Made with tokenizers 0.23, torch 2.15 and transformers 5.23.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

VOCAB = 2048
CONTEXT = 4096
ROWS = 400  # of each file, for training the tokenizers

LLAMA_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}"
    "{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
    "{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/...') }}"
    "{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + content.strip() + ' ' + eos_token }}"
    "{% endif %}{% endfor %}"
)
CHATML_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def strings(value) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key  # TruthfulQA's answers are keys
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


def texts(root: Path) -> list[str]:
    """Text from the first rows of every file, in the order of the files' names."""
    found = []
    for file in sorted(root.rglob("*.jsonl")) + sorted(root.glob("truthfulqa/*.json")):
        text = file.read_text()
        rows = (
            [json.loads(line) for line in text.split("\n")[:ROWS] if line]
            if file.suffix == ".jsonl"
            else json.loads(text)[:ROWS]
        )
        found.extend(strings(rows))
    return found


def sentencepiece_like(texts: list[str]) -> Tokenizer:
    """What `convert_slow_tokenizer` makes of Llama's sentencepiece model."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    reserved = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCAB,
            special_tokens=reserved,
            limit_alphabet=96,  # everything rarer falls back to bytes
            show_progress=False,
        ),
    )
    trained = json.loads(words.to_str())["model"]
    tokenizer = Tokenizer(
        models.BPE(
            vocab=trained["vocab"],
            merges=[tuple(merge) for merge in trained["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in reserved[:3]]
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


def byte_level(texts: list[str]) -> Tokenizer:
    """Qwen2's tokenizer with fewer merges."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(
        add_prefix_space=False, trim_offsets=False, use_regex=False
    )
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCAB,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return tokenizer


def randomise(model: PreTrainedModel) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("norm.weight"):
                parameter.copy_(1 + 0.1 * noise)
            elif name.endswith("bias"):
                parameter.copy_(0.3 * noise)
            elif name == "lm_head.weight":
                parameter.copy_(0.3 * noise)


def save(
    out: Path, model: PreTrainedModel, tokenizer: Tokenizer, config: dict, generation: dict
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    randomise(model)
    model.float().save_pretrained(out)
    GenerationConfig(**generation).save_pretrained(out)
    tokenizer.save(str(out / "tokenizer.json"))
    (out / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "clean_up_tokenization_spaces": False,
                "model_max_length": CONTEXT,
                **config,
            },
            indent=1,
        )
        + "\n"
    )
    print(f"{out}: {model.num_parameters()} parameters, {tokenizer.get_vocab_size()} tokens")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--text", type=Path, default=Path("../shared/benchmarks"))
    arguments = parser.parse_args()

    found = texts(arguments.text)
    shape = {
        "vocab_size": VOCAB,
        "hidden_size": 128,
        "intermediate_size": 352,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.15,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    }

    torch.manual_seed(0)
    save(
        arguments.out / "llama",
        LlamaForCausalLM(LlamaConfig(**shape, bos_token_id=1, eos_token_id=2)),
        sentencepiece_like(found),
        {
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "add_bos_token": True,
            "add_eos_token": False,
            "chat_template": LLAMA_TEMPLATE,
        },
        {"bos_token_id": 1, "eos_token_id": 2, "do_sample": False},
    )

    tokenizer = byte_level(found)
    end, turn_end = map(tokenizer.token_to_id, ("<|endoftext|>", "<|im_end|>"))
    torch.manual_seed(0)
    save(
        arguments.out / "qwen2",
        Qwen2ForCausalLM(
            Qwen2Config(**shape, bos_token_id=None, eos_token_id=end, use_sliding_window=False)
        ),
        tokenizer,
        {
            "bos_token": None,
            "eos_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
            "unk_token": None,
            "chat_template": CHATML_TEMPLATE,
        },
        {"eos_token_id": [turn_end, end], "pad_token_id": end, "do_sample": False},
    )


if __name__ == "__main__":
    main()
