#!/usr/bin/env python3
"""Compares the texts, tokens and masks of liger's chat templates with transformers' apply_chat_template.

    python tests/compare/chat_parity.py check [-n 2000] [--seed 0] [--tool build/tests/tokenize_rows]
    python tests/compare/chat_parity.py make          # write tests/data/chat_goldens.json

`check` makes n random conversations for each template and prints how many rows differ; exit code 1 if any does.
Without the packages it says so and ends with 0. The Jinja templates here say what the formats are: no model's own
template is read.
"""
import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile

try:
    import jinja2  # noqa: F401: transformers needs it for templates
    from transformers import PreTrainedTokenizerFast
except ImportError as e:
    print(f"skipped: the package {e.name} is not installed")
    sys.exit(0)

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = ROOT / "tests/data"

TURN = "{% set learned = m.role == 'assistant' %}{% set text = m.content | trim %}"
LLAMA3 = ("{{ bos_token }}{% for m in messages %}" + TURN +
          "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' }}"
          "{% if learned %}{% generation %}{{ text + '<|eot_id|>' }}{% endgeneration %}"
          "{% else %}{{ text + '<|eot_id|>' }}{% endif %}{% endfor %}")
WITHOUT_SYSTEM = ("{% set system = messages[0].content if messages[0].role == 'system' else none %}"
                  "{% for m in (messages if system is none else messages[1:]) %}")
GEMMA = ("{{ bos_token }}" + WITHOUT_SYSTEM + TURN +
         "{{ '<start_of_turn>' + ('model' if learned else 'user') + '\\n' }}"
         "{% if learned %}{% generation %}{{ text + '<end_of_turn>' }}{% endgeneration %}{{ '\\n' }}"
         "{% else %}{{ (system + '\\n\\n' if loop.first and system is not none else '') + text + '<end_of_turn>\\n' }}"
         "{% endif %}{% endfor %}")
LLAMA2 = (WITHOUT_SYSTEM + TURN +
          "{% if learned %}{% generation %}{{ ' ' + text + ' ' + eos_token }}{% endgeneration %}{% else %}"
          "{% set first = loop.first and system is not none %}"
          "{% set said = ('<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + m.content) if first else m.content %}"
          "{{ bos_token + '[INST] ' + said.strip() + ' [/INST]' }}{% endif %}{% endfor %}")


def learned(text, end="eos_token"):
    return "{% generation %}{{ " + text + " + " + end + " }}{% endgeneration %}"


LLAMA31 = ("{{ bos_token }}" + WITHOUT_SYSTEM.split("{% for")[0] +
           "{{ '<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: ' + "
           "'26 Jul 2024\n\n' + (system | trim if system is not none else '') + '<|eot_id|>' }}"
           "{% for" + WITHOUT_SYSTEM.split("{% for")[1] + LLAMA3.split("{% for m in messages %}")[1])
# Whether the system text stands before the first or the last user text is what tells the two apart, and the spaces.
MISTRAL = ("{{ bos_token }}" + WITHOUT_SYSTEM + "{% if m.role == 'user' %}"
           "{{ ' [INST] ' + (system + '\n\n' if loop.first and system is not none else '') + m.content + ' [/INST]' }}"
           "{% else %}" + learned("' ' + m.content") + "{% endif %}{% endfor %}")
MISTRAL3 = ("{{ bos_token }}{% set asked = messages | selectattr('role', 'equalto', 'user') | list %}" + WITHOUT_SYSTEM +
            "{% if m.role == 'user' %}{{ '[INST] ' + (system + '\n\n' if system is not none and "
            "loop.index0 == 2 * (asked | length - 1) else '') + m.content + '[/INST]' }}"
            "{% else %}" + learned("' ' + m.content | trim") + "{% endif %}{% endfor %}")
TURN_OPEN = "{{ '<|im_start|>' + m.role + '\n' }}"
TURN = "{% if m.role == 'assistant' %}" + learned("text", "'<|im_end|>'") + "{% else %}{{ text + '<|im_end|>' }}{% endif %}"
CHATML = "{% for m in messages %}{% set text = m.content %}" + TURN_OPEN + TURN + "{{ '\n' }}{% endfor %}"
OPEN_CHATML = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"


def with_default(system):
    return ("{% if messages[0].role != 'system' %}{{ '<|im_start|>system\n" + system + "<|im_end|>\n' }}{% endif %}" +
            CHATML + OPEN_CHATML)


# The last user message that no tool wrote; thoughts are kept behind it only.
QWEN3 = ("{% set ns = namespace(last_query_index=messages | length - 1, found=false) %}{% for m in messages[::-1] %}"
         "{% if not ns.found and m.role == 'user' and not (m.content.startswith('<tool_response>') and "
         "m.content.endswith('</tool_response>')) %}{% set ns.found = true %}"
         "{% set ns.last_query_index = messages | length - loop.index %}{% endif %}{% endfor %}"
         "{% for m in messages %}{% set text = m.content %}{% set thought = '' %}"
         "{% if m.role == 'assistant' and '</think>' in text %}"
         "{% set thought = text.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
         "{% set text = text.split('</think>')[-1].lstrip('\n') %}{% endif %}"
         "{% if m.role == 'assistant' and loop.index0 > ns.last_query_index and (loop.last or thought) %}"
         "{% set text = '<think>\n' + thought.strip('\n') + '\n</think>\n\n' + text.lstrip('\n') %}{% endif %}" +
         TURN_OPEN + TURN + "{{ '\n' }}{% endfor %}" + OPEN_CHATML)
ZEPHYR = ("{% for m in messages %}{{ '<|' + m.role + '|>\n' }}{% if m.role == 'assistant' %}" + learned("m.content") +
          "{% else %}{{ m.content + eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}")
OPEN_LLAMA3 = ("{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}")
OPEN_GEMMA = "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"

# Name -> (template, folder of tests/data/tokenizers, tokens it lacks). Of a tokenizer.json whose post_processor trims
# offsets, as GPT-NeoX's does, transformers has no masks of what begins with a space: none of those here does.
CHATML_TOKENS = ["<|im_start|>", "<|im_end|>"]
TEMPLATES = {
    "llama2": (LLAMA2, "llama2", []),
    "llama3": (LLAMA3 + OPEN_LLAMA3, "llama3", []),
    "llama3.1": (LLAMA31 + OPEN_LLAMA3, "llama3", []),
    "gemma": (GEMMA + OPEN_GEMMA, "gemma", []),
    "mistral": (MISTRAL, "llama2", []),
    "mistral-v3": (MISTRAL3, "llama2", ["[INST]", "[/INST]"]),
    "chatml": (CHATML + OPEN_CHATML, "llama3", CHATML_TOKENS),
    "qwen2": (with_default("You are a helpful assistant."), "llama3", CHATML_TOKENS),
    "qwen2.5": (with_default("You are Qwen, created by Alibaba Cloud. You are a helpful assistant."), "llama3",
                CHATML_TOKENS),
    "qwen3": (QWEN3, "llama3", CHATML_TOKENS),
    "zephyr": (ZEPHYR, "llama2", []),
}
TAKING_TURNS = {"llama2", "gemma", "mistral", "mistral-v3"}

WORDS = ("the tiger met a heron near the old mill on day 12 ; it wasn't afraid . Ada Bruno zebra café 虎 [INST] [/INST] "
         "<<SYS>> <think> </think> naïve 3.14 don't x=1 🙂 ### - * \\n").split(" ")
SPACES = ["", "", "", " ", "\n", "\t ", "\u00a0", "\u3000\n"]


def random_text(rng):
    words = [rng.choice(WORDS) for _ in range(rng.randint(0, 12))]
    inner = "".join(word + rng.choice([" ", " ", " ", "\n", "  ", "\n\n"]) for word in words)
    return rng.choice(SPACES) + inner + rng.choice(WORDS) + rng.choice(SPACES)


def random_conversation(rng, strict):
    messages = [{"role": "system", "content": random_text(rng)}] if rng.random() < 0.4 else []
    for turn in range(rng.randint(1, 5)):
        role = "assistant" if (turn % 2 if strict else rng.random() < 0.5) else "user"
        messages.append({"role": role, "content": random_text(rng)})
    return messages


def patch_of(base, tokens):
    """What a tokenizer.json lacks that has special tokens more."""
    document = json.loads((DATA / "tokenizers" / base / "tokenizer.json").read_text())
    listed, vocabulary = document["added_tokens"], document["model"]["vocab"]
    first = len(vocabulary) + sum(token["content"] not in vocabulary for token in listed)
    more = [{"id": first + i, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True} for i, token in enumerate(tokens)]
    return {"added_tokens": listed + more} if tokens else {}


def write_folder(base, patch, folder):
    for source in (DATA / "tokenizers" / base).iterdir():
        (folder / source.name).write_bytes(source.read_bytes())
    document = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**document, **patch}, ensure_ascii=False))


def reference(name, folder):
    config = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), bos_token=config["bos_token"],
                                        eos_token=config["eos_token"], chat_template=TEMPLATES[name][0])

    def answer(messages):
        out = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True,
                                            return_assistant_tokens_mask=True)
        texts = {key: tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=value)
                 for key, value in (("text", False), ("prompt", True))}
        return {"ids": out["input_ids"], "learned": out["assistant_masks"], **texts}
    return answer


def ask(tool, name, folder, conversations):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.write("".join(json.dumps({"messages": messages}) + "\n" for messages in conversations))
        file.flush()
        run = subprocess.run([tool, str(folder), file.name, "chat", name], capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"{tool}: exit code {run.returncode}: {run.stderr.strip()}")
    return [json.loads(line) for line in run.stdout.splitlines()]


def spells_a_token(messages, folder):
    """What a message spells stays text here and becomes the token there."""
    document = json.loads((folder / "tokenizer.json").read_text())
    specials = [token["content"] for token in document["added_tokens"] if token["special"]]
    return any(token in message["content"] for token in specials for message in messages)


def check(arguments):
    total = 0
    for name, (_, base, tokens) in TEMPLATES.items():
        rng = random.Random(f"{arguments.seed} {name}")
        conversations = [random_conversation(rng, name in TAKING_TURNS) for _ in range(arguments.n)]
        with tempfile.TemporaryDirectory() as path:
            folder = pathlib.Path(path)
            write_folder(base, patch_of(base, tokens), folder)
            conversations = [c for c in conversations if not spells_a_token(c, folder)]
            answer, found = reference(name, folder), 0
            for messages, ours in zip(conversations, ask(arguments.tool, name, folder, conversations), strict=True):
                theirs = answer(messages)
                if ours != theirs:
                    found += 1
                    if found <= 3:
                        print(f"  {name}: {messages}\n    liger     {ours}\n    reference {theirs}")
        print(f"{name}: {len(conversations)} conversations, {found} differences", flush=True)
        total += found
    return total


def make(_):
    conversations = [
        [("user", "Who met the tiger?"), ("assistant", "Ada met the tiger.")],
        [("system", "Be brief. "), ("user", "  Hi\n"), ("assistant", "\n Hello, Ada 🙂 "), ("user", "Why?"),
         ("assistant", "1 + 1 = 2\n\nThat is why.")],
        [("user", "first\n\nsecond"), ("assistant", "yes"), ("user", "[INST] not answered")],
        [("user", "a"), ("assistant", "<think>\nold\n</think>\n\nb"), ("user", "c"),
         ("assistant", "<think>\n\nnew\n\n</think>\n\nd")],
    ]
    goldens = []
    for name, (_, base, tokens) in TEMPLATES.items():
        patch = patch_of(base, tokens)
        with tempfile.TemporaryDirectory() as folder:
            write_folder(base, patch, pathlib.Path(folder))
            answer = reference(name, pathlib.Path(folder))
            for turns in conversations:
                messages = [{"role": role, "content": text} for role, text in turns]
                if not spells_a_token(messages, pathlib.Path(folder)):
                    goldens.append({"template": name, "base": base, "tokens": tokens, "messages": messages,
                                    **answer(messages)})
    lines = ",\n".join(json.dumps(golden, ensure_ascii=False) for golden in goldens)
    (DATA / "chat_goldens.json").write_text(f"[\n{lines}\n]\n")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["check", "make"])
    parser.add_argument("-n", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tool", default=str(ROOT / "build/tests/tokenize_rows"))
    arguments = parser.parse_args()
    sys.exit(1 if {"check": check, "make": make}[arguments.command](arguments) else 0)


if __name__ == "__main__":
    main()
