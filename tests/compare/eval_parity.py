#!/usr/bin/env python3
"""Compares liger-eval with lm-evaluation-harness (0.4.13, hf model, float32 softmax) on the same model and rows.

    python tests/compare/eval_parity.py [--tool build/bin/liger-eval] [--model DIR] [--rows 60] [--shots 0,5]
    python tests/compare/eval_parity.py --goldens        # writes tests/data/golden/eval

Without --model it makes a small random Llama and a byte-level BPE tokenizer. The rows are made here (eval_rows.py);
lm-evaluation-harness runs its own task definitions, pointed at them. Compared are, for all tasks, every request's
text, log-likelihood (1e-4) and greedy flag, the hashes of document, prompt and target, every metric and standard error,
means of groups, and the log-likelihood of whole documents. Exit code 1 if anything differs. Without the packages it
says so and ends with 0.
"""
import argparse
import contextlib
import hashlib
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
    from eval_rows import GROUP, TASKS, make_definitions, make_own, make_rows, question, sentence
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
except ImportError as e:
    print(f"skipped: the package {e.name} is not installed")
    sys.exit(0)

ROOT = pathlib.Path(__file__).resolve().parents[2]
HARNESS = pathlib.Path(lm_eval.__file__).parent / "tasks"
TOLERANCE = 1e-4

TURNS = ["<|im_start|>", "<|im_end|>"]
CHATML = ("{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
          "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def make_model(folder, hidden=64, vocab=500, dtype=torch.float32, chat=True):
    rng = random.Random(1)
    lines = [sentence(rng) for _ in range(300)] + [question(rng) for _ in range(300)]
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=["<|begin_of_text|>", "<|end_of_text|>"] + TURNS * chat,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>",
                            **({"chat_template": CHATML} if chat else {})).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=tokenizer.get_vocab_size(), hidden_size=hidden, intermediate_size=2 * hidden,
                         num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
                         bos_token_id=0, eos_token_id=1, initializer_range=0.2, tie_word_embeddings=False)
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
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

def run_harness(model, definitions, shots, **options):
    manager = lm_eval.tasks.TaskManager(include_path=str(definitions), include_defaults=False)
    names = [name for name in TASKS if not name.startswith("mmlu_")] + [GROUP["group"]]
    start = time.time()
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):  # progress bars
        results = lm_eval.simple_evaluate(model=model, tasks=names, num_fewshot=shots, task_manager=manager,
                                          log_samples=True, **options)
    return results, time.time() - start


def run_liger(tool, model, data, own, names, shots, *options):
    out = pathlib.Path(tempfile.mkdtemp(dir=SCRATCH.name))
    start = time.time()
    run = subprocess.run([tool, "--model", model, "--tasks", ",".join(names), "--data", data, "--include_path", own,
                          "--num_fewshot", str(shots), "--json", "--quiet", "--dtype", "f32", "--output_path", out,
                          "--log_samples", *options], capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"liger-eval: exit code {run.returncode}: {run.stderr}")
    document = json.loads(run.stdout)
    samples = {name: [json.loads(line) for line in next(out.rglob(f"samples_{name}_*.jsonl")).open(encoding="utf-8")]
               for name in document["configs"]}
    return document, samples, time.time() - start


# ---- comparison ------------------------------------------------------------------------------------------------------

class Report:
    def __init__(self):
        self.wrong = 0

    def expect(self, ok, text):
        if not ok:
            self.wrong += 1
            if self.wrong <= 20:
                print("  differs:", text)


def scores_of(responses):
    """(log-likelihood, greedy) of each request; whole documents have no greedy flag."""
    return [(float(r[0]), str(r[1])) if isinstance(r, (list, tuple)) else (float(r), None) for r in responses]


def metrics_of(result):
    return {k: v for k, v in result.items() if "," in k or k == "sample_len"}


def compare_metrics(report, name, mine, his):
    mine, his = metrics_of(mine), metrics_of(his)
    report.expect(mine.keys() == his.keys(), f"{name}: metrics {sorted(mine)}, lm-eval {sorted(his)}")
    for key in mine.keys() & his.keys():
        a, b = mine[key], his[key]
        tolerance = 1e-12 if "acc" in key or "exact" in key else 1e-5 * max(1, abs(b) if b != "N/A" else 0)
        same = a == b if isinstance(b, str) else not isinstance(a, str) and abs(a - b) <= tolerance
        report.expect(same, f"{name}: {key} {a}, lm-eval {b}")


def compare(report, name, shots, ours, samples, theirs):
    worst, other = 0.0, theirs["samples"][name]
    report.expect(len(samples) == len(other), f"{name}: {len(samples)} samples, lm-eval has {len(other)}")
    for a, b in zip(samples, sorted(other, key=lambda s: s["doc_id"])):
        where = f"{name} {shots}-shot row {a['doc_id']}"
        for key in ["doc", "doc_hash", "prompt_hash", "target_hash", "metrics"]:
            report.expect(a[key] == b[key], f"{where}: {key} {a[key]}, lm-eval {b[key]}")
        texts = [tuple(arguments.values()) for arguments in a["arguments"].values()]
        report.expect(texts == [tuple(x) for x in b["arguments"]], f"{where}: {texts}, lm-eval {b['arguments']}")
        for (value, greedy), (his, his_greedy) in zip(scores_of(a["filtered_resps"]), scores_of(b["filtered_resps"]),
                                                      strict=True):
            worst = max(worst, abs(value - his))
            tolerance = TOLERANCE * (1 if greedy is not None else max(1, abs(his) / 100))
            report.expect(abs(value - his) <= tolerance, f"{where}: {value}, lm-eval {his}")
            report.expect(greedy == his_greedy, f"{where}: greedy {greedy}, lm-eval {his_greedy}")
        for key in a["metrics"]:
            if "acc" in key or "exact" in key:
                report.expect(a[key] == b[key], f"{where}: {key} {a[key]}, lm-eval {b[key]}")
    compare_metrics(report, name, ours["results"][name], theirs["results"][name])
    report.expect(ours["versions"][name] == theirs["versions"][name], f"{name}: version")
    report.expect(ours["n-shot"][name] == theirs["n-shot"][name], f"{name}: n-shot {ours['n-shot'][name]}, lm-eval {theirs['n-shot'][name]}")
    report.expect(ours["task_hashes"][name] == task_hash(other), f"{name}: task hash")
    shown = "  ".join(f"{k.removesuffix(',none')} {v:.4f}" for k, v in metrics_of(ours["results"][name]).items()
                      if isinstance(v, float) and "stderr" not in k)
    print(f"  {name:22} {shots}-shot  {len(samples):3} rows  {shown}  largest difference {worst:.1e}")


def task_hash(samples):
    text = "".join(s["doc_hash"] + s["prompt_hash"] + s["target_hash"] for s in samples)
    return hashlib.sha256(text.encode()).hexdigest()


def compare_groups(report, ours, theirs):
    for name, his in theirs["groups"].items():
        compare_metrics(report, name, ours["groups"][name], his)
        report.expect(ours["versions"][name] == theirs["versions"][name], f"{name}: version")
        report.expect(sorted(ours["group_subtasks"][name]) == sorted(theirs["group_subtasks"][name]), f"{name}: subtasks")
        report.expect(ours["n-shot"].get(name) == theirs["n-shot"].get(name), f"{name}: n-shot")
        print(f"  group {name}: acc {his['acc,none']:.4f} +- {his['acc_stderr,none']:.4f}")


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


def load_harness(folder, batch_size):
    return HFLM(pretrained=str(folder), dtype="float32", softmax_dtype="float32", batch_size=batch_size, device="cpu")


def write_goldens():
    """A model, rows of every task and what lm-evaluation-harness makes of them, all of it small."""
    folder = ROOT / "tests/data/golden/eval"
    shutil.rmtree(folder, ignore_errors=True)
    model = make_model(folder / "model", hidden=32, vocab=420, dtype=torch.bfloat16, chat=False)
    make_rows(folder / "data", 7)
    make_own(folder / "tasks")
    definitions = pathlib.Path(SCRATCH.name) / "definitions"
    make_definitions(folder / "data", definitions, HARNESS)
    harness, expected = load_harness(model, 8), {}
    for shots in (0, 5):
        results, _ = run_harness(harness, definitions, shots)
        tasks = {}
        for name in TASKS:
            rows = sorted(results["samples"][name], key=lambda s: s["doc_id"])
            tasks[name] = {"metrics": metrics_of(results["results"][name]), "rows": [
                {"hashes": [s["doc_hash"], s["prompt_hash"], s["target_hash"]],
                 "scores": [[round(score, 6), greedy == "True"] for score, greedy in scores_of(s["filtered_resps"])]}
                for s in rows]}
        groups = {name: metrics_of(group) for name, group in results["groups"].items()}
        expected[str(shots)] = {"tasks": tasks, "groups": groups}
    (folder / "expected.json").write_text(json.dumps(expected, indent=None, separators=(",", ":")) + "\n")
    print(f"wrote {folder}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", default=ROOT / "build/bin/liger-eval", type=pathlib.Path)
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--rows", default=60, type=int)
    parser.add_argument("--shots", default="0,5")
    parser.add_argument("--batch_size", default=8, type=int, help="lm-eval's")
    parser.add_argument("--goldens", action="store_true")
    args = parser.parse_args()
    if args.goldens:
        return write_goldens()
    scratch = pathlib.Path(SCRATCH.name)
    folder = with_tokenizer_json(args.model, scratch / "model") if args.model else make_model(scratch / "model")
    data, own = scratch / "data", scratch / "own"
    texts = make_rows(data, args.rows)
    make_definitions(data, scratch / "definitions", HARNESS)
    make_own(own)
    model = load_harness(folder, args.batch_size)
    report = Report()
    names = [name for name in TASKS if not name.startswith("mmlu_")] + [GROUP["group"]]
    for shots in map(int, args.shots.split(",")):
        theirs, seconds = run_harness(model, scratch / "definitions", shots)
        ours, samples, own_seconds = run_liger(args.tool, folder, data, own, names, shots)
        for name in TASKS:
            compare(report, name, shots, ours, samples[name], theirs)
        compare_groups(report, ours, theirs)
        print(f"  {shots}-shot: lm-eval {seconds:.1f} s (model already loaded), liger-eval {own_seconds:.1f} s")
    for multiturn in () if args.model else (False, True):
        print(f"  as conversations, examples {'as turns' if multiturn else 'in one message'}")
        theirs, _ = run_harness(model, scratch / "definitions", 2, apply_chat_template=True, system_instruction="Be brief.",
                                fewshot_as_multiturn=multiturn)
        ours, samples, _ = run_liger(args.tool, folder, data, own, names, 2, "--apply_chat_template", "auto",
                                     "--system_instruction", "Be brief.",
                                     *(["--fewshot_as_multiturn"] if multiturn else []))
        for name in TASKS:
            compare(report, name, 2, ours, samples[name], theirs)
    ours, samples, _ = run_liger(args.tool, folder, data, own, ["perplexity"], 0)
    compare_documents(report, model, texts, ours, samples["perplexity"])
    print(f"{report.wrong} differences" if report.wrong else "equal")
    sys.exit(1 if report.wrong else 0)


if __name__ == "__main__":
    main()
