#!/usr/bin/env python3
"""Compares the tokens and masks of liger's chat templates with transformers' apply_chat_template.

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
TEMPLATES = {"llama2": LLAMA2, "llama3": LLAMA3, "gemma": GEMMA}

WORDS = ("the tiger met a heron near the old mill on day 12 ; it wasn't afraid . Ada Bruno zebra café 虎 [INST] [/INST] "
         "<<SYS>> naïve 3.14 don't x=1 🙂 ### - * \\n").split(" ")
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


def reference(name):
    folder = DATA / "tokenizers" / name
    config = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), bos_token=config["bos_token"],
                                        eos_token=config["eos_token"])

    def answer(messages):
        out = tokenizer.apply_chat_template(messages, chat_template=TEMPLATES[name], tokenize=True, return_dict=True,
                                            return_assistant_tokens_mask=True)
        return {"ids": out["input_ids"], "learned": out["assistant_masks"]}
    return answer


def ask(tool, name, conversations):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.write("".join(json.dumps({"messages": messages}) + "\n" for messages in conversations))
        file.flush()
        run = subprocess.run([tool, str(DATA / "tokenizers" / name), file.name, "chat", name], capture_output=True,
                             text=True)
    if run.returncode != 0:
        sys.exit(f"{tool}: exit code {run.returncode}: {run.stderr.strip()}")
    return [json.loads(line) for line in run.stdout.splitlines()]


def check(arguments):
    total = 0
    for name in TEMPLATES:
        rng = random.Random(f"{arguments.seed} {name}")
        conversations = [random_conversation(rng, name != "llama3") for _ in range(arguments.n)]
        answer, found = reference(name), 0
        for messages, ours in zip(conversations, ask(arguments.tool, name, conversations), strict=True):
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
    ]
    goldens = []
    for name in TEMPLATES:
        answer = reference(name)
        for turns in conversations:
            messages = [{"role": role, "content": text} for role, text in turns]
            goldens.append({"template": name, "messages": messages, **answer(messages)})
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
