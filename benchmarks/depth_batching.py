#!/usr/bin/env python3
"""Tokens a second of a recursive model by way of batching: static, sequence, depth; with and without early exits.

    python benchmarks/depth_batching.py --model DIR [--exit margin --threshold 0.7] [--requests 96] [--batch 16]
                                        [--rounds 3] [--bin build/bin] [--prompts FILE.jsonl]

Answers one stream of requests, prompts of 4 to 40 tokens' worth of text and answers of 8 to 160 tokens, drawn once,
in every way in turns; prints medians, and what tokens/s are made of: batch x filled / (mean loops x seconds a pass),
where `filled` is the share of places of all passes in which a token of its own was on its way (the rest are texts that
have ended, or tokens that have left, and are waited for). Last a fit over all ways of what time depends on: passes,
rows and rows judged. From it follows how much batching by depth can gain over batching by sequence: where a pass costs
(weights that come from memory), as much as there are fewer passes; where rows cost (products), nothing, as all ways run
the same rows. --prompts: texts to begin from, {"text": ...} rows. Standard library only.
"""
import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))


def make_requests(args, file):
    rng = random.Random(5)
    if args.prompts:
        with open(args.prompts) as rows:
            texts = [json.loads(row)["text"] for row in rows]
    else:
        texts = ["the river runs past the old mill and its keeper counts the boats of the day " * 4]
    for i in range(args.requests):
        words = rng.choice(texts).split()
        file.write(json.dumps({"prompt": " ".join(words[:rng.randint(4, 40)]),
                               "max_tokens": int(8 * 20 ** rng.random()), "id": i}) + "\n")
    file.flush()


def answer(args, requests, batching, exits, backfill):
    command = [os.path.join(args.bin, "liger-generate"), "--model", args.model, "--requests", requests, "--batch",
               str(args.batch), "--batching", batching, "--ignore-eos", "--json", "--quiet", "--threads", str(args.threads)]
    if exits:
        command += ["--exit", args.exit, "--exit-threshold", str(args.threshold), "--backfill", backfill]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"{' '.join(command)}\n{run.stderr}")
    texts = {row["id"]: row["text"] for row in map(json.loads, run.stdout.splitlines())}
    return json.loads(run.stderr.splitlines()[-1]), texts


def fit(points):
    """Least squares of z = a x + b y."""
    xx, xy, yy = (sum(p[i] * p[j] for p in points) for i, j in ((0, 0), (0, 1), (1, 1)))
    xz, yz = (sum(p[i] * p[2] for p in points) for i in (0, 1))
    whole = xx * yy - xy * xy
    if not whole > 1e-9 * xx * yy:  # as many rows in every pass: nothing tells the two apart
        return float("nan"), float("nan")
    return (xz * yy - yz * xy) / whole, (yz * xx - xz * xy) / whole


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--bin", default=os.path.join(HERE, "..", "build", "bin"))
    parser.add_argument("--prompts")
    parser.add_argument("--exit", default="margin")
    parser.add_argument("--threshold", type=float, default=0.7)
    parser.add_argument("--requests", type=int, default=96)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    ways = [(b, None) for b in ("static", "sequence", "depth")]
    ways += [(b, f) for f in ("exact", "propagate") for b in ("static", "sequence", "depth")]
    seen, texts = {way: [] for way in ways}, {}
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        make_requests(args, file)
        for _ in range(args.rounds):
            for way in ways:
                stats, texts[way] = answer(args, file.name, way[0], way[1] is not None, way[1])
                decoding = stats["seconds"] - stats["prefill_seconds"]
                stats["rate"], stats["pass"] = stats["tokens"] / decoding, 1e3 * decoding / stats["passes"]
                seen[way].append(stats)
    print("| batching | exits | tokens/s | over static | passes | tokens a pass | of them made up | filled | mean loops |"
          " ms a pass | in layers | judging |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    median = lambda way, value: statistics.median(value(s) for s in seen[way])
    for way in ways:
        rate = median(way, lambda s: s["rate"])
        base, none = (median(w, lambda s: s["rate"]) for w in ((ways[0][0], way[1]), ways[0]))
        s = seen[way][0]
        ran = sum((i + 1) * n for i, n in enumerate(s["left"]))
        print(f"| {way[0]} | {way[1] or 'none'} | {rate:.0f} | {rate / base:.2f} ({rate / none:.2f}) | {s['passes']} | "
              f"{s['rows'] / s['passes']:.1f} | {100 * s['backfill'] / s['rows']:.0f} % | "
              f"{100 * ran / (s['passes'] * args.batch):.0f} % | {ran / sum(s['left']):.2f} | "
              f"{median(way, lambda s: s['pass']):.3f} | "
              f"{median(way, lambda s: 1e3 * s['layer_seconds'] / s['passes']):.3f} | "
              f"{median(way, lambda s: 1e3 * s['judge_seconds'] / s['passes']):.3f} |")
    a_pass, a_row = fit([(s["passes"], s["rows"], s["layer_seconds"]) for way in ways if way[1] != "propagate"
                         for s in seen[way]])
    print(f"\nThe layers take {1e3 * max(0, a_pass):.3f} ms a pass and {1e3 * max(0, a_row):.4f} ms a row.")
    same = sum(texts[("depth", None)][i] == texts[("static", None)][i] for i in texts[("depth", None)])
    print(f"\nIn brackets: over static without exits. Texts of depth equal to those of static: {same} of {args.requests}; "
          + "with exits " + str(sum(texts[("depth", "exact")][i] == texts[("static", "exact")][i]
                                    for i in texts[("depth", "exact")])) + ".")


if __name__ == "__main__":
    main()
