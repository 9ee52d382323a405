#!/usr/bin/env python3
"""What the demo prints: the final table, one model's line, or the prompt it generates from.

    table.py OUT            table of OUT/{teacher,converted,recovered}.{eval,generate}.json
    table.py OUT NAME       that model's measurements and text
    table.py OUT --prompt   the first question of the multiple-choice suite
"""
import json
import sys
from pathlib import Path

ROWS = ["teacher", "converted", "recovered"]


def load(out, name):
    results = json.loads((out / f"{name}.eval.json").read_text())["results"]
    generated = json.loads((out / f"{name}.generate.json").read_text())
    return {"loss": results["perplexity"]["loss"], "perplexity": results["perplexity"]["perplexity"],
            "accuracy": results["multiple_choice"]["acc,none"], "text": generated["text"],
            "prefill": generated["prefill_tokens_per_second"], "decode": generated["decode_tokens_per_second"],
            "memory": generated["peak_memory_bytes"]}


def closed(rows, name, key):
    """Share of the way from the converted model back to the teacher."""
    lost = rows["converted"][key] - rows["teacher"][key]
    return (rows["converted"][key] - rows[name][key]) / lost if lost else 1.0


def print_table(out):
    rows = {name: load(out, name) for name in ROWS}
    print("             perplexity  gap closed  accuracy  gap closed  prefill tok/s  decode tok/s  memory MB")
    for name, row in rows.items():
        gaps = [f"{closed(rows, name, key):.0%}" if name == "recovered" else "" for key in ("loss", "accuracy")]
        print(f"{name:<12}{row['perplexity']:>11.3f}{gaps[0]:>12}{row['accuracy']:>10.1%}{gaps[1]:>12}"
              f"{row['prefill']:>15.0f}{row['decode']:>14.0f}{row['memory'] / 1e6:>11.0f}")
    print("(gap closed: of the loss and of the accuracy lost by the conversion; chance is 25% accuracy)")


def main():
    out = Path(sys.argv[1])
    if len(sys.argv) < 3:
        print_table(out)
    elif sys.argv[2] == "--prompt":
        with open(out / "data" / "multiple_choice.test.jsonl", encoding="utf-8") as rows:
            print(json.loads(rows.readline())["query"], end="")
    else:
        row = load(out, sys.argv[2])
        print(f"{sys.argv[2]}: perplexity {row['perplexity']:.3f}, accuracy {row['accuracy']:.1%}\n"
              f"it goes on with:{row['text']}")


if __name__ == "__main__":
    main()
