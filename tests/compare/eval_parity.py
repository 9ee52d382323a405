#!/usr/bin/env python3
"""Compares liger-eval with lm-evaluation-harness (0.4.13, hf model, float32 softmax) on the same model and rows.

    python tests/compare/eval_parity.py [--tool build/bin/liger-eval] [--model DIR] [--rows 60] [--shots 0,5]

Without --model it makes a small random Llama and a byte-level BPE tokenizer. The rows are made here; lm-evaluation-
harness runs its own task definitions, pointed at them. Compared are every request's log-likelihood (1e-4) and greedy
flag, the hashes of document, prompt and target, acc, acc_norm and their standard errors, and the log-likelihood of
whole documents. Exit code 1 if anything differs. Without the packages it says so and ends with 0.
"""
import argparse
import contextlib
import io
import json
import logging
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

os.environ["HF_HUB_OFFLINE"] = "1"
SCRATCH = tempfile.TemporaryDirectory(prefix="liger-lm-eval-")
os.environ["HF_DATASETS_CACHE"] = SCRATCH.name + "/datasets"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
logging.disable(logging.WARNING)

try:
    import lm_eval
    import lm_eval.tasks
    import torch
    from lm_eval.models.huggingface import HFLM
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
except ImportError as e:
    print(f"skipped: the package {e.name} is not installed")
    sys.exit(0)

ROOT = pathlib.Path(__file__).resolve().parents[2]
HARNESS = pathlib.Path(lm_eval.__file__).parent / "tasks"
TOLERANCE = 1e-4

# ---- rows ------------------------------------------------------------------------------------------------------------

NAMES = ["Ada", "Bruno", "Chén", "Dora", "Émile", "小明"]
THINGS = ["rope", "lantern", "map", "drum", "bag of salt", "naïve plan", "kite 🙂"]
PLACES = ["the old mill", "the harbour", "a quiet forest", "the north gate", "São Paulo"]


def sentence(rng):
    return f"{rng.choice(NAMES)} took the {rng.choice(THINGS)} to {rng.choice(PLACES)}"


def question(rng):
    ending = rng.choice(["", "", "", " ", "\n", "  \t", "?"])  # white space at the end of a context moves
    return f"{rng.choice(NAMES)} has the {rng.choice(THINGS)}; where is it{ending}"


def answers(rng, count):
    return [rng.choice(["", "in ", "near ", "perhaps at "]) + rng.choice(PLACES) + rng.choice(["", ".", "!"])
            for _ in range(count)]


def labelled(rng):
    count = rng.randint(3, 5)
    labels = rng.choice([list("ABCDE"), list("12345")])[:count]
    return {"text": answers(rng, count), "label": labels}, rng.choice(labels)


def piqa(rng):
    one, two = answers(rng, 2)
    return {"goal": question(rng), "sol1": one, "sol2": two, "label": rng.randint(0, 1)}


def arc(rng):
    choices, key = labelled(rng)
    return {"id": f"Q{rng.randint(0, 10**6)}", "question": question(rng), "choices": choices, "answerKey": key}


def openbookqa(rng):
    choices, key = labelled(rng)
    return {"id": "x", "question_stem": question(rng), "choices": choices, "answerKey": key}


def multiple_choice(rng):
    count = rng.randint(2, 5)
    return {"query": question(rng), "choices": answers(rng, count), "gold": rng.randrange(count)}


TASKS = {  # name: (row, scored split, harness's own definition)
    "piqa": (piqa, "validation", HARNESS / "piqa/piqa.yaml"),
    "arc_easy": (arc, "test", HARNESS / "arc/arc_easy.yaml"),
    "arc_challenge": (arc, "test", HARNESS / "arc/arc_challenge.yaml"),
    "openbookqa": (openbookqa, "test", HARNESS / "openbookqa/openbookqa.yaml"),
    "multiple_choice": (multiple_choice, "test", None),
}
OWN_TASK = {"output_type": "multiple_choice", "training_split": "train", "test_split": "test", "doc_to_text": "query",
            "doc_to_choice": "choices", "doc_to_target": "gold", "metadata": {"version": 1.0},
            "metric_list": [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in ("acc", "acc_norm")]}


def write_rows(file, rows):
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def make_data(folder, rows):
    """Rows of every task, and a definition of it for the harness that reads them."""
    folder.mkdir()
    definitions = folder / "definitions"
    definitions.mkdir()
    for seed, (name, (row, split, own)) in enumerate(TASKS.items()):
        rng = random.Random(seed)
        pool = [row(rng) for _ in range(rows)]
        scored = [row(rng) for _ in range(rows)]
        scored[1] = pool[3]  # a document that is one of the examples, and several times
        pool[5] = pool[7] = pool[3]
        write_rows(folder / f"{name}.train.jsonl", pool)
        write_rows(folder / f"{name}.{split}.jsonl", scored)
        files = {s: str(folder / f"{name}.{s}.jsonl") for s in ("train", split)}
        definition = dict(OWN_TASK) if own is None else {"include": str(own)}
        if own is not None and split == "test":
            definition["validation_split"] = None
        definition |= {"task": f"local_{name}", "tag": None, "dataset_path": "json", "dataset_name": None,
                       "dataset_kwargs": {"data_files": files}}
        (definitions / f"{name}.yaml").write_text(json.dumps(definition))  # JSON is YAML
    rng = random.Random(99)
    texts = [". ".join(sentence(rng) for _ in range(rng.choice([1, 3, 40]))) + "." for _ in range(rows // 4)]
    write_rows(folder / "perplexity.test.jsonl", [{"text": text} for text in texts])
    return definitions, texts


def make_model(folder):
    rng = random.Random(1)
    lines = [sentence(rng) for _ in range(300)] + [question(rng) for _ in range(300)]
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<|begin_of_text|>", "<|end_of_text|>"],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|begin_of_text|>",
                            eos_token="<|end_of_text|>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=tokenizer.get_vocab_size(), hidden_size=64, intermediate_size=128,
                         num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
                         bos_token_id=0, eos_token_id=1, initializer_range=0.2, tie_word_embeddings=False)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def with_tokenizer_json(source, folder):
    """A copy of a Llama 2 folder whose tokenizer is a tokenizer.json, for transformers no longer reads sentencepiece."""
    if (source / "tokenizer.json").exists():
        return source
    folder.mkdir()
    for file in source.iterdir():
        if not file.name.startswith("tokenizer"):
            shutil.copy(file, folder)
    pieces = SentencePieceProcessor(model_file=str(source / "tokenizer.model"))
    vocab = {pieces.id_to_piece(i): i for i in range(pieces.vocab_size())}
    pairs = [(piece[:i], piece[i:]) for piece in vocab for i in range(1, len(piece))]
    merges = [pair for pair in pairs if pair[0] in vocab and pair[1] in vocab]
    merges.sort(key=lambda pair: vocab["".join(pair)])
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocab["<s>"])])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>",
                            unk_token="<unk>").save_pretrained(folder)
    return folder


# ---- the two programs ------------------------------------------------------------------------------------------------

def run_harness(model, definitions, names, shots):
    manager = lm_eval.tasks.TaskManager(include_path=str(definitions), include_defaults=False)
    start = time.time()
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        results = lm_eval.simple_evaluate(model=model, tasks=[f"local_{n}" for n in names], num_fewshot=shots,
                                          task_manager=manager, bootstrap_iters=100, log_samples=True)
    return results, time.time() - start


def run_liger(tool, model, data, names, shots, *options):
    out = pathlib.Path(tempfile.mkdtemp(dir=SCRATCH.name))
    start = time.time()
    run = subprocess.run([tool, "--model", model, "--tasks", ",".join(names), "--data", data, "--num_fewshot",
                          str(shots), "--json", "--quiet", "--dtype", "f32", "--output_path", out, "--log_samples",
                          *options], capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"liger-eval: exit code {run.returncode}: {run.stderr}")
    samples = {name: [json.loads(line) for line in next(out.rglob(f"samples_{name}_*.jsonl")).open(encoding="utf-8")]
               for name in names}
    return json.loads(run.stdout), samples, time.time() - start


# ---- comparison ------------------------------------------------------------------------------------------------------

class Report:
    def __init__(self):
        self.wrong = 0

    def expect(self, ok, text):
        if not ok:
            self.wrong += 1
            if self.wrong <= 20:
                print("  differs:", text)


def compare(report, name, shots, ours, samples, theirs):
    worst = 0.0
    other = theirs["samples"][f"local_{name}"]
    report.expect(len(samples) == len(other), f"{name}: {len(samples)} samples, lm-eval has {len(other)}")
    for a, b in zip(samples, sorted(other, key=lambda s: s["doc_id"])):
        where = f"{name} {shots}-shot row {a['doc_id']}"
        for key in ("doc_hash", "prompt_hash", "target_hash", "acc", "acc_norm"):
            report.expect(a[key] == b[key], f"{where}: {key} {a[key]}, lm-eval {b[key]}")
        for ours_one, theirs_one in zip(a["filtered_resps"], b["filtered_resps"], strict=True):
            difference = abs(float(ours_one[0]) - float(theirs_one[0]))
            worst = max(worst, difference)
            report.expect(difference <= TOLERANCE, f"{where}: {ours_one[0]}, lm-eval {theirs_one[0]}")
            report.expect(ours_one[1] == str(theirs_one[1]), f"{where}: greedy {ours_one[1]}, lm-eval {theirs_one[1]}")
    mine, his = ours["results"][name], theirs["results"][f"local_{name}"]
    for key in ("acc,none", "acc_stderr,none", "acc_norm,none", "acc_norm_stderr,none"):
        report.expect(abs(mine[key] - his[key]) < 1e-12, f"{name}: {key} {mine[key]}, lm-eval {his[key]}")
    report.expect(ours["versions"][name] == theirs["versions"][f"local_{name}"], f"{name}: version")
    print(f"  {name:16} {shots}-shot  {len(samples)} rows  acc {mine['acc,none']:.4f}  acc_norm "
          f"{mine['acc_norm,none']:.4f}  largest difference {worst:.1e}")


def compare_documents(report, model, texts, ours, samples):
    """Each document alone after BOS, in rolling windows where it is longer than the model."""
    tokens, total, worst = 0, 0.0, 0.0
    for text, sample in zip(texts, samples, strict=True):
        ids = model.tokenizer.encode(text, add_special_tokens=False)
        windows = [(None,) + make_disjoint_window(w) for w in
                   get_rolling_token_windows(ids, model.prefix_token_id, model.max_length, 1)]
        expected = sum(score for score, _ in model._loglikelihood_tokens(windows, disable_tqdm=True))
        difference = abs(float(sample["filtered_resps"][0]) - expected) / len(ids)
        worst = max(worst, difference)
        report.expect(sample["tokens"] == len(ids), f"perplexity: {sample['tokens']} tokens, expected {len(ids)}")
        report.expect(difference < TOLERANCE, f"perplexity: {sample['filtered_resps'][0]}, expected {expected}")
        tokens, total = tokens + len(ids), total + expected
    result = ours["results"]["perplexity"]
    report.expect(result["tokens"] == tokens, f"perplexity: {result['tokens']} tokens, expected {tokens}")
    report.expect(abs(result["loss"] + total / tokens) < 1e-5, f"perplexity: loss {result['loss']}, expected {-total / tokens}")
    print(f"  {'perplexity':16} {len(texts)} documents, {tokens} tokens, loss {result['loss']:.5f}  largest difference "
          f"{worst:.1e} a token")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", default=ROOT / "build/bin/liger-eval", type=pathlib.Path)
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--rows", default=60, type=int)
    parser.add_argument("--shots", default="0,5")
    parser.add_argument("--batch_size", default=8, type=int, help="lm-eval's")
    args = parser.parse_args()
    scratch = pathlib.Path(SCRATCH.name)
    folder = with_tokenizer_json(args.model, scratch / "model") if args.model else make_model(scratch / "model")
    definitions, texts = make_data(scratch / "data", args.rows)
    model = HFLM(pretrained=str(folder), dtype="float32", softmax_dtype="float32", batch_size=args.batch_size,
                 device="cpu")
    report, names = Report(), list(TASKS)
    for shots in map(int, args.shots.split(",")):
        theirs, seconds = run_harness(model, definitions, names, shots)
        ours, samples, own_seconds = run_liger(args.tool, folder, scratch / "data", names, shots)
        for name in names:
            compare(report, name, shots, ours, samples[name], theirs)
        print(f"  {shots}-shot: lm-eval {seconds:.1f} s (model already loaded), liger-eval {own_seconds:.1f} s")
    ours, samples, _ = run_liger(args.tool, folder, scratch / "data", ["perplexity"], 0)
    compare_documents(report, model, texts, ours, samples["perplexity"])
    print(f"{report.wrong} differences" if report.wrong else "equal")
    sys.exit(1 if report.wrong else 0)


if __name__ == "__main__":
    main()
