#!/usr/bin/env python3
"""Scoring throughput of liger-eval against lm-evaluation-harness (0.4.13, hf model, float32 softmax, batch 8).

    python benchmarks/eval_throughput.py [--model DIR] [--rounds 3] [--workloads 0-shot,5-shot,mmlu,rolling] [--json FILE]

Both read the same folder and the same rows in float32 on the same threads, by turns; figures are medians of the rounds.
Without --model it makes a plain Llama of 68 M random parameters (32,000 tokens, 2,048 positions) and a byte-level BPE
tokenizer. lm-eval's time is taken twice: of its scoring calls alone, the model loaded and the requests built, and with
loading the model beside; liger-eval's is that of the whole process. "bound" is the time that the multiplications of
the distinct tokens would take at the rate at which torch multiplies such matrices on these threads, as a share of our
time. With --linearized the same weights run once more as Liger GLA (liger-convert), on our side only. Accuracies are
compared too: without that a time says nothing. On a machine with other work, --cpu --threads 1 counts seconds of the
processor in place of the clock's.
"""
import argparse
import contextlib
import io
import itertools
import json
import logging
import os
import pathlib
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time

os.environ["HF_HUB_OFFLINE"] = "1"
SCRATCH = tempfile.TemporaryDirectory(prefix="liger-eval-throughput-")
os.environ["HF_DATASETS_CACHE"] = SCRATCH.name + "/datasets"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
logging.disable(logging.WARNING)

try:
    import lm_eval
    import lm_eval.tasks
    import torch
    from lm_eval.models.huggingface import HFLM
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
except ImportError as e:
    print(f"skipped: the package {e.name} is not installed")
    sys.exit(0)

ROOT = pathlib.Path(__file__).resolve().parents[1]
HARNESS = pathlib.Path(lm_eval.__file__).parent / "tasks"

# ---- text ------------------------------------------------------------------------------------------------------------

SYLLABLES = [a + b for a in "b c d f g l m n p r s t v st tr".split() for b in "a e i o u an er in on".split()]
RNG = random.Random(5)
WORDS = list({"".join(RNG.choices(SYLLABLES, k=RNG.randint(1, 4))) for _ in range(60000)})
OFTEN = list(itertools.accumulate(1 / (rank + 3) for rank in range(len(WORDS))))  # as words of a language are


def words(rng, low, high):
    return " ".join(rng.choices(WORDS, cum_weights=OFTEN, k=rng.randint(low, high)))


# Rows as long as those of the tasks they are named after.
def piqa(rng):
    return {"goal": words(rng, 5, 15), "sol1": words(rng, 10, 30), "sol2": words(rng, 10, 30), "label": rng.randint(0, 1)}


def arc(rng):
    choices = {"text": [words(rng, 2, 8) for _ in range(4)], "label": list("ABCD")}
    return {"id": "x", "question": words(rng, 12, 35) + "?", "choices": choices, "answerKey": rng.choice("ABCD")}


def hellaswag(rng):  # as a task of one's own: the original has markup to be taken away
    return {"query": words(rng, 40, 80), "choices": [words(rng, 12, 35) for _ in range(4)], "gold": rng.randrange(4)}


def mmlu(rng):
    return {"question": words(rng, 20, 80) + "?", "subject": "x", "choices": [words(rng, 3, 14) for _ in range(4)],
            "answer": rng.randrange(4)}


def page(rng):
    return {"text": " ".join(words(rng, 40, 120).capitalize() + "." for _ in range(rng.randint(8, 45)))}


OWN_TASK = {"output_type": "multiple_choice", "training_split": "train", "test_split": "test", "doc_to_text": "query",
            "doc_to_choice": "choices", "doc_to_target": "gold", "metadata": {"version": 1.0},
            "metric_list": [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in ("acc", "acc_norm")]}
ROLLING = {"output_type": "loglikelihood_rolling", "test_split": "test", "doc_to_text": "", "doc_to_target": "{{text}}",
           "metadata": {"version": 1.0}, "metric_list": [{"metric": "word_perplexity"}]}
QUESTIONS = {  # name: (row, split of examples, scored split, harness's own definition, share of the rows)
    "piqa": (piqa, "train", "validation", HARNESS / "piqa/piqa.yaml", 1),
    "arc_challenge": (arc, "train", "test", HARNESS / "arc/arc_challenge.yaml", 1),
    "multiple_choice": (hellaswag, "train", "test", None, 1),
}
SUBJECTS = ["anatomy", "astronomy", "virology"]
LETTERS = "ABCD"


def write_rows(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def define(folder, name, definition, files):
    definition |= {"task": f"local_{name}", "tag": None, "dataset_path": "json", "dataset_name": None,
                   "dataset_kwargs": {"data_files": files}}
    (folder / f"{name}.yaml").write_text(json.dumps(definition))  # JSON is YAML


def make_questions(data, definitions, rows):
    for name, (row, pool_split, split, own, share) in QUESTIONS.items():
        rng = random.Random(name)
        files = {s: str(data / f"{name}.{s}.jsonl") for s in (pool_split, split)}
        write_rows(data / f"{name}.{pool_split}.jsonl", [row(rng) for _ in range(100)])
        write_rows(data / f"{name}.{split}.jsonl", [row(rng) for _ in range(rows * share)])
        definition = dict(OWN_TASK) if own is None else {"include": str(own)}
        if own is not None and split == "test":
            definition["validation_split"] = None
        define(definitions, name, definition, files)


def make_mmlu(data, definitions, rows):
    for subject in SUBJECTS:
        rng = random.Random(subject)
        name = f"mmlu_{subject}"
        files = {s: str(data / f"{name}.{s}.jsonl") for s in ("dev", "test")}
        write_rows(data / f"{name}.dev.jsonl", [mmlu(rng) for _ in range(5)])
        write_rows(data / f"{name}.test.jsonl", [mmlu(rng) for _ in range(rows)])
        define(definitions, name, {"include": str(HARNESS / f"mmlu/default/{name}.yaml")}, files)


def make_pages(data, definitions, count):
    rng = random.Random(99)
    write_rows(data / "perplexity.test.jsonl", [page(rng) for _ in range(count)])
    define(definitions, "perplexity", dict(ROLLING), {"test": str(data / "perplexity.test.jsonl")})


def make_model(folder):
    rng = random.Random(1)
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=32000, special_tokens=["<|begin_of_text|>", "<|end_of_text|>"],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator((words(rng, 20, 40) for _ in range(10000)), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|begin_of_text|>",
                            eos_token="<|end_of_text|>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=32000, hidden_size=512, intermediate_size=1408, num_hidden_layers=12,
                         num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=2048, bos_token_id=0,
                         eos_token_id=1, tie_word_embeddings=False)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


# ---- the two programs ------------------------------------------------------------------------------------------------

CPU_TIME = False


def clock():
    """Seconds of the clock; or of the processor, of this process and those it has waited for."""
    if not CPU_TIME:
        return time.time()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


class Timed:
    """Counts the seconds that a model's scoring takes, and keeps the requests that it was asked for last."""

    def __init__(self, model):
        self.model, self.seconds, self.requests = model, 0.0, []
        inner, depth = model._loglikelihood_tokens, [0]

        def tokens(requests, *args, **kwargs):
            self.requests += [(tuple(context), tuple(continuation)) for _, context, continuation in requests]
            return inner(requests, *args, **kwargs)

        def timed(call):
            def run(*args, **kwargs):
                start = clock()
                depth[0] += 1
                result = call(*args, **kwargs)
                depth[0] -= 1
                if depth[0] == 0:
                    self.seconds += clock() - start
                return result
            return run
        model._loglikelihood_tokens = tokens
        model.loglikelihood = timed(model.loglikelihood)
        model.loglikelihood_rolling = timed(model.loglikelihood_rolling)

    def evaluate(self, manager, names, shots):
        self.seconds, self.requests = 0.0, []
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars
            results = lm_eval.simple_evaluate(model=self.model, tasks=[f"local_{n}" for n in names], num_fewshot=shots,
                                              task_manager=manager, bootstrap_iters=0, log_samples=False)
        return results["results"], self.seconds


def run_liger(args, model, data, names, shots):
    start = clock()
    command = [args.tool, "--model", model, "--tasks", ",".join(names), "--data", data, "--num_fewshot", str(shots),
               "--json", "--quiet", "--dtype", "f32"]
    run = subprocess.run(list(map(str, command)), capture_output=True, text=True,
                         env=dict(os.environ, OMP_NUM_THREADS=str(args.threads)))
    if run.returncode != 0:
        sys.exit(f"liger-eval: exit code {run.returncode}: {run.stderr}")
    return json.loads(run.stdout)["results"], clock() - start


def compare(names, ours, theirs):
    for name in names:
        if "acc,none" in ours[name]:
            a, b = ours[name]["acc,none"], theirs[f"local_{name}"]["acc,none"]
            if abs(a - b) > 1e-9:
                sys.exit(f"{name}: accuracy {a}, lm-eval {b}")


# ---- what it would take at least -------------------------------------------------------------------------------------

def product_rate(config):
    """Multiplications and additions a second of torch, of a layer's matrices over 4096 tokens."""
    best = 0.0
    x, w = torch.randn(4096, config.hidden_size), torch.randn(config.intermediate_size, config.hidden_size)
    for _ in range(8):
        start = clock()
        torch.mm(x, w.t())
        best = max(best, 2 * x.shape[0] * w.numel() / (clock() - start))
    return best


def distinct_tokens(requests):
    """Tokens read, each prefix once, and predictions, each once a place: what sharing everything would leave."""
    sequences = sorted(c + t[:-1] for c, t in requests)
    read, before = 0, ()
    for sequence in sequences:
        shared = len(os.path.commonprefix([sequence, before]))
        read, before = read + len(sequence) - shared, sequence
    places = {hash((c + t[:i])) for c, t in requests for i in range(len(t))}
    return read, len(places), sum(map(len, sequences))


def floating_operations(config, read, predicted):
    head_size = config.hidden_size // config.num_attention_heads
    attention = 2 * config.hidden_size * (config.num_attention_heads + config.num_key_value_heads) * head_size
    layer = attention + 3 * config.hidden_size * config.intermediate_size
    return 2 * (read * layer * config.num_hidden_layers + predicted * config.hidden_size * config.vocab_size)


# ---- workloads -------------------------------------------------------------------------------------------------------

WORKLOADS = {  # name: (tasks, shots)
    "0-shot": (list(QUESTIONS), 0),
    "5-shot": (list(QUESTIONS), 5),
    "mmlu": ([f"mmlu_{subject}" for subject in SUBJECTS], 5),
    "rolling": (["perplexity"], 0),
}


def query_of(row, answered):
    letters = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, row["choices"]))
    text = f"{row['question'].strip()}\n{letters}\nAnswer:"
    return text + f" {LETTERS[row['answer']]}\n\n" if answered else text


def as_queries(data, names):
    """Rows of MMLU as rows of liger-eval's multiple_choice, for a tool without the task."""
    folder = data / "as_queries"
    folder.mkdir(exist_ok=True)
    rows = []
    for name in names:
        dev, test = ([json.loads(line) for line in (data / f"{name}.{split}.jsonl").open()] for split in ("dev", "test"))
        head = "The following are multiple choice questions (with answers) about "
        head += name.removeprefix("mmlu_").replace("_", " ") + ".\n\n" + "".join(query_of(row, True) for row in dev)
        rows += [{"query": head + query_of(row, False), "choices": list(LETTERS), "gold": row["answer"]} for row in test]
    write_rows(folder / "multiple_choice.test.jsonl", rows)
    return folder


def knows_mmlu(args):
    run = subprocess.run([args.tool, "--model", SCRATCH.name, "--tasks", "mmlu_anatomy", "--data", SCRATCH.name],
                         capture_output=True, text=True)
    return "mmlu_anatomy.test.jsonl" in run.stderr


def ours(args, workload, model, data):
    names, shots = WORKLOADS[workload]
    if workload != "mmlu" or args.knows_mmlu:
        return run_liger(args, model, data, names, shots)
    result, seconds = run_liger(args, model, as_queries(data, names), ["multiple_choice"], 0)
    return result, seconds


def measure(args, workload, model, loaded, load_seconds, manager, data, linearized):
    names, shots = WORKLOADS[workload]
    times = {"scoring": [], "ours": [], "linearized": []}
    for _ in range(args.rounds):
        if loaded:
            theirs, seconds = loaded.evaluate(manager, names, shots)
            times["scoring"].append(seconds)
        result, seconds = ours(args, workload, model, data)
        times["ours"].append(seconds)
        if loaded and (workload != "mmlu" or args.knows_mmlu):
            compare(names, result, theirs)
        if linearized:
            times["linearized"].append(ours(args, workload, linearized, data)[1])
    row = {"workload": workload, "shots": shots} | {k: statistics.median(v) for k, v in times.items() if v}
    if loaded:
        config = loaded.model.model.config
        read, predicted, plain = distinct_tokens(loaded.requests)
        row |= {"requests": len(loaded.requests), "tokens": plain, "distinct": read, "predicted": predicted,
                "load": load_seconds, "ratio": row["scoring"] / row["ours"],
                "ratio_with_loading": (row["scoring"] + load_seconds) / row["ours"],
                "bound": floating_operations(config, read, predicted) / args.rate / row["ours"]}
    return row


def print_table(rows):
    print("| workload | requests | tokens, distinct | lm-eval, s | liger-eval, s | faster | with loading | bound | "
          "linearized, s |\n|---|---|---|---|---|---|---|---|---|")
    for r in rows:
        linear = f"{r['linearized']:.1f}" if "linearized" in r else "-"
        if "scoring" not in r:
            print(f"| {r['workload']} | | | | {r['ours']:.1f} | | | | {linear} |")
            continue
        print(f"| {r['workload']} | {r['requests']} | {r['tokens']}, {r['distinct']} | {r['scoring']:.1f} | "
              f"{r['ours']:.1f} | {r['ratio']:.1f}x | {r['ratio_with_loading']:.1f}x | {100 * r['bound']:.0f} % | "
              f"{linear} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", default=ROOT / "build/bin/liger-eval", type=pathlib.Path)
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--keep", type=pathlib.Path, help="where the model and the rows are made, and found again")
    parser.add_argument("--linearized", action="store_true")
    parser.add_argument("--ours", action="store_true", help="measure liger-eval alone")
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    parser.add_argument("--rows", default=40, type=int, help="questions of a task or a subject")
    parser.add_argument("--pages", default=10, type=int)
    parser.add_argument("--rounds", default=3, type=int)
    parser.add_argument("--batch_size", default=8, type=int, help="lm-eval's")
    parser.add_argument("--threads", default=len(os.sched_getaffinity(0)), type=int)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--cpu", action="store_true", help="seconds of the processor, not of the clock")
    args = parser.parse_args()
    global CPU_TIME
    CPU_TIME = args.cpu
    torch.set_num_threads(args.threads)
    scratch = args.keep or pathlib.Path(SCRATCH.name)
    data, definitions = scratch / "data", scratch / "definitions"
    if not data.exists():
        data.mkdir(parents=True)
        definitions.mkdir()
        make_questions(data, definitions, args.rows)
        make_mmlu(data, definitions, args.rows)
        make_pages(data, definitions, args.pages)
    model = args.model or scratch / "model"
    if not model.exists():
        make_model(model)
    linearized = None
    if args.linearized:
        linearized = scratch / "linearized"
        if not linearized.exists():
            subprocess.run([args.tool.parent / "liger-convert", "--model", model, "--arch", "gla", "--out", linearized], check=True,
                           stdout=subprocess.DEVNULL)
    args.knows_mmlu = knows_mmlu(args)
    loaded, load_seconds, manager = None, 0.0, None
    if not args.ours:
        start = clock()
        loaded = Timed(HFLM(pretrained=str(model), dtype="float32", softmax_dtype="float32",
                            batch_size=args.batch_size, device="cpu"))
        load_seconds = clock() - start
        manager = lm_eval.tasks.TaskManager(include_path=str(definitions), include_defaults=False)
        args.rate = product_rate(loaded.model.model.config)
        print(f"{args.threads} threads, {args.rate / 1e9:.0f} GFLOP/s, lm-eval loads in {load_seconds:.1f} s", flush=True)
    rows = [measure(args, workload, model, loaded, load_seconds, manager, data, linearized)
            for workload in args.workloads.split(",")]
    print_table(rows)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
