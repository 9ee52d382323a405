#!/usr/bin/env python3
"""Who opens what: prints one table of all that liger exchanges with transformers, PEFT and the published Liger code.

    python tests/compare/interop.py [--bin build/bin] [--keep DIR]
        [--reference LINEARIZATION --reference-python PYTHON]    # a checkout of OpenSparseLLMs/Linearization

Every row is run: logits (float32, relative to the largest logit), bytes, or a refusal that says why. The rows of the
published code need an interpreter with what it was written for, transformers 4.47, einops, torch and PEFT 0.14; see
published_code.py. Progress is told on stderr. Exit code 1 if a row is wrong. Without the packages it says so and ends
with 0.
"""
import hashlib
import json
import shutil
import subprocess
import sys

from parity import ROOT, ROPE, SHAPE, Check, open_in_transformers, run, write_model  # says what is missing

import export_parity
import peft
import peft_parity
import recursive_parity
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import (AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM, MistralConfig,
                          MistralForCausalLM, PreTrainedTokenizerFast)

PUBLISHED = ["gla", "hgrn2", "gsa"]
STRUCTURES = PUBLISHED + ["rwkv6", "gated-retention", "mamba2", "mlstm", "retnet", "lightning", "linear", "deltanet",
                          "gated-deltanet", "kda", "swa"]
# transformers 4.47 has no Qwen 3 and Gemma 3, and its Qwen 2 takes all layers or none for windowed.
KNOWN_TO_4 = ["llama, tied", "llama 3 rope, untied", "gemma", "gemma2", "gpt-neox", "mistral"]
THEM = f"transformers {transformers.__version__}"
PEFT = f"PEFT {peft.__version__}"
BOTH = f"{THEM}, {PEFT}"
DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
WEIGHTS = ["model.safetensors"]
# What PEFT can save and liger does not compute, and the key its message must name.
REFUSED = {
    "modules_to_save": dict(target_modules=["q_proj"], modules_to_save=["lm_head"]),
    "embed_tokens": dict(target_modules=["q_proj", "embed_tokens"]),
    "lm_head": dict(target_modules=["q_proj", "lm_head"]),
    "lora_bias": dict(target_modules=["q_proj"], lora_bias=True),
    "trainable_token_indices": dict(target_modules=["q_proj"], trainable_token_indices=[3, 4]),
    "init_lora_weights": dict(target_modules=["q_proj"], init_lora_weights="pissa"),
}


class Table(Check):
    """A Check that keeps what the comparisons say for the rows of a table."""

    def __init__(self, bin, folder):
        super().__init__(bin, folder)
        self.rows, self.results, self.said = [], [], None

    def compared(self, what, error, bad):
        self.results.append((what, error, bad))
        if bad:
            print(f"  {what}: {error:.1e}: DIFFERENT", file=sys.stderr)

    def row(self, what, opened_by, work, pick=lambda what: True):
        """A row of what work() compares, or, without, another one of what was compared last; `pick` says which of it.

        What work() returns stands in place of the largest difference."""
        self.said = self.said if work is None else self.run(what, work)
        picked = [(error, bad) for name, error, bad in self.results if pick(name)]
        wrong = self.failed or any(bad for _, bad in picked) or not (self.said or picked)
        largest = max((error for error, _ in picked), default=float("nan"))
        text = self.said or (f"{largest:.0e}" if largest else "0")
        self.rows.append((what, opened_by, text, "WRONG" if wrong else "yes"))
        print("  ".join(self.rows[-1]), file=sys.stderr, flush=True)

    def run(self, what, work):
        self.results, self.failed = [], False
        try:
            return work()
        except (Exception, SystemExit) as e:
            self.failed = True
            print(f"{what}: {type(e).__name__}: {e}", file=sys.stderr)
            return str(e).splitlines()[0] if str(e) else type(e).__name__

    def wrong(self):
        return any(row[-1] == "WRONG" for row in self.rows)

    def print(self):
        print("| what | opened by | difference, of the largest logit | ok |\n|---|---|---|---|")
        for row in self.rows:
            print("| " + " | ".join(text.replace("|", "\\|") for text in row) + " |")

    def convert(self, model, out, *options):
        self.tool("liger-convert", "--model", model, *options, "--out", out)
        return out


def require(good, what):
    if not good:
        sys.exit(what)


def edit_config(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def hashes(folder, names):
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


# ---- the published code


class Jobs:
    """Folders that published_code.py opens, all in one start, and the logits of liger-eval for each."""

    def __init__(self, table, args):
        self.table, self.args, self.jobs, self.expected = table, args, {}, {}

    def add(self, key, model, ours, published=False, **more):
        self.jobs[key] = dict(model=str(model), published=published, ids=str(self.table.folder / "ids.safetensors"),
                              out=str(self.table.folder / f"published-{key}.safetensors")) | more
        self.expected[key] = ours

    def run(self):
        path = self.table.folder / "jobs.json"
        path.write_text(json.dumps({"published_code": str(self.args.reference), "jobs": list(self.jobs.values())}))
        command = [str(self.args.reference_python), str(ROOT / "tests" / "compare" / "published_code.py"), str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command)}\nexit code {done.returncode}\n{done.stderr}")
        said = json.loads(done.stdout.splitlines()[-1])
        self.results = dict(zip(self.jobs, said["results"]))
        return f"transformers {said['transformers']}", f"PEFT {said['peft']}"

    def look(self, *keys):
        for key in keys:
            require("error" not in self.results[key], f"{key}: {self.results[key].get('error')}")
            self.table.equal(key, load_file(self.jobs[key]["out"])["logits"], self.expected[key]())


def ours_of_published(table, folder):
    edit_config(folder, lambda config: config.pop("liger"))  # which the published code does not write
    return table.ours(folder)


def published_mistral(table):
    """Of one that saw all tokens: where there is a window, the published code makes a mask that it cannot use."""
    base = table.folder / "mistral"
    write_model(lambda: MistralForCausalLM(MistralConfig(**SHAPE, head_dim=16, sliding_window=None)), base)
    folder = table.convert(base, table.folder / "mistral-gla", "--arch", "gla")
    logits = table.ours(folder)
    edit_config(folder, lambda config: config.update(model_type="liger_mistral_gla"))
    return folder, logits


def published_rows(table, base, adapter, args):
    jobs = Jobs(table, args)
    rows = {f"{arch} folder of liger-convert; as it saves it again, in liger-eval": [arch, f"{arch} saved"]
            for arch in PUBLISHED}
    rows["gla folder of a Mistral, model_type changed to liger_mistral_gla"] = ["mistral"]
    rows["gla folder with the adapter of liger-finetune"] = ["adapted"]
    older = {f"gla folders of {'; '.join(KNOWN_TO_4)}: model_type changed back; adapters to PEFT and from it":
                 ["back", "made", *KNOWN_TO_4],
             "recursive folder with its adapter, untied, and merged, of a checkpoint of transformers 5":
                 ["tied", "untied", "merged"]}
    if not (args.reference and args.reference_python):
        for what in [*rows, *older]:
            table.rows.append((what, "the published code" if what in rows else "transformers 4",
                               "skipped: no reference given", ""))
        return
    for arch in PUBLISHED:
        saved = table.folder / f"saved-{arch}"
        jobs.add(arch, structure(table, arch), lambda arch=arch: table.ours(structure(table, arch)), published=True,
                 save=str(saved))
        jobs.add(f"{arch} saved", structure(table, arch), lambda saved=saved: ours_of_published(table, saved),
                 published=True)
    mistral, expected = published_mistral(table)
    jobs.add("mistral", mistral, lambda: expected, published=True, attention="sdpa")  # it takes no masks
    ours = lambda: table.ours(structure(table, "gla"), "--adapter", adapter)  # noqa: E731
    jobs.add("adapted", structure(table, "gla"), ours, published=True, adapter=str(adapter))
    back, made = structure(table, "gla", "-back"), str(table.folder / "made")
    jobs.add("back", back, lambda: table.ours(base, "--adapter", adapter), adapter=str(adapter))
    jobs.add("made", back, lambda: table.ours(base, "--adapter", made), make_adapter=made)
    for name in KNOWN_TO_4:
        jobs.add(name, family_folder(table, name) / "reopened",
                 lambda name=name: table.ours(family_folder(table, name) / "original"))
    tied = table.convert(base, table.folder / "tied", "--arch", "recursive", "--loops", 3, "--lora-rank", 4,
                         "--probe", "")
    jobs.add("tied", tied, lambda: table.ours(tied), adapter=str(tied / "adapter"))
    untied = table.convert(tied, table.folder / "untied", "--untie", "--probe", "")
    jobs.add("untied", untied, lambda: table.ours(tied))
    merged = table.convert(base, table.folder / "merged", "--merge", adapter, "--probe", "")
    jobs.add("merged", merged, lambda: table.ours(base, "--adapter", adapter))
    them, their_peft = jobs.run()
    for what, keys in rows.items():
        peft_too = f", {their_peft}" if "adapter" in what else ""
        table.row(what, f"the published code, {them}{peft_too}", lambda: jobs.look(*keys))
    for what, keys in older.items():
        table.row(what, f"{them}, {their_peft}", lambda: jobs.look(*keys))


# ---- structures, families, adapters


def structure(table, arch, suffix=""):
    return table.folder / f"structure-{arch}{suffix}"


def structures(table, base, logits):
    for arch in STRUCTURES:
        folder = table.convert(base, structure(table, arch), "--arch", arch)
        export_parity.change_model_type_back(folder, structure(table, arch, "-back"))
        table.equal(arch, table.theirs(open_in_transformers(structure(table, arch, "-back"))), logits)


def family_folder(table, name):
    return table.folder / f"family-{name.replace(', ', '-').replace(' ', '-')}"


def family(table, *names):
    for name in names:
        export_parity.compare(table, export_parity.MODELS[name], family_folder(table, name))


def adapters(table, base, kinds):
    for number, kind in enumerate(kinds):
        folder = table.folder / f"adapter-{kind.replace(' ', '-')}"
        peft_parity.compare(table, kind, peft_parity.KINDS[kind], base, folder)


def refusals(table, base):
    heard = []
    for key, kind in REFUSED.items():
        folder = table.folder / f"refused-{key}"
        peft_parity.make_adapter(open_in_transformers(base), kind, folder)
        out = table.folder / "refused.safetensors"
        done = subprocess.run([str(table.bin / "liger-eval"), "--model", str(base), "--adapter", str(folder), "--quiet",
                               "--input-ids", str(table.folder / "ids.safetensors"), "--logits", str(out)],
                              capture_output=True, text=True)
        print(f"  {key}: exit code {done.returncode}: {done.stderr.strip()}", file=sys.stderr)
        require(done.returncode == 3 and key in done.stderr, f"{key}: exit code {done.returncode}: {done.stderr}")
        heard.append(key)
    return f"{len(heard)} refused by name"


def recursive(table):
    small = table.folder / "ids.safetensors"
    ids, vocab = table.ids, recursive_parity.SIX["vocab_size"]
    table.ids = ids % vocab
    save_file({"input_ids": table.ids}, small)
    try:
        for name in ("llama 3 rope", "gemma", "qwen3"):
            original = table.folder / f"recursive-{name.replace(' ', '-')}"
            write_model(recursive_parity.MODELS[name], original, recursive_parity.disturb)
            for number, kind in enumerate(("cycle, 2 loops", "sequence, norms of depths")):
                recursive_parity.compare(table, f"{name}, {kind}", recursive_parity.KINDS[kind], original,
                                         table.folder / f"{original.name}-{number}")
    finally:
        table.ids = ids
        save_file({"input_ids": ids}, small)


# ---- files


def checkpoints_of_theirs(table, base, logits):
    for number, size in enumerate(("100KB", "10GB")):
        folder = table.folder / f"shards-{number}"
        open_in_transformers(base).save_pretrained(folder, max_shard_size=size)
        files = len(list(folder.glob("*.safetensors")))
        require((files > 3) == (number == 0), f"{size}: {files} files")
        table.equal(size, table.ours(folder), logits)
    for name, dtype in DTYPES.items():
        folder = table.folder / f"dtype-{name}"
        open_in_transformers(base).to(dtype).save_pretrained(folder)
        table.equal(name, table.ours(folder, "--dtype", "f32"), table.theirs(open_in_transformers(folder)))


def shards_of_ours(table, base):
    for name, dtype in DTYPES.items():
        to = ["--arch", "gla", "--dtype", name, "--shard-size"]
        folder = table.convert(base, table.folder / f"written-{name}", *to, "100KB")
        require(len(list(folder.glob("*.safetensors"))) > 3, "not divided")
        whole = table.convert(base, table.folder / f"whole-{name}", *to, "1GB")
        theirs = table.folder / f"theirs-{name}"
        transformers.AutoModelForCausalLM.from_pretrained(base, dtype=dtype).save_pretrained(theirs)
        require(hashes(whole, WEIGHTS) == hashes(theirs, WEIGHTS), f"{name}: not the bytes that save_pretrained writes")
        back = table.folder / f"written-{name}-back"
        export_parity.change_model_type_back(folder, back)
        model = transformers.AutoModelForCausalLM.from_pretrained(back, dtype="auto", attn_implementation="eager")
        require(model.dtype == dtype, f"{name}: opened as {model.dtype}")
        rounded = open_in_transformers(base)
        with torch.no_grad():
            for parameter in rounded.parameters():  # and not the frequencies of the RoPE
                parameter.copy_(parameter.to(dtype))
        table.equal(name, table.theirs(model.float()), table.theirs(rounded))


def only_old_spelling(config):
    """Of transformers 4, which does not know what 5 writes."""
    rope = dict(config.pop("rope_parameters"))
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope if rope["rope_type"] != "default" else None
    config["torch_dtype"] = config.pop("dtype")


def new_spelling(config):
    """What this transformers has written into it."""
    require("rope_theta" not in config and "torch_dtype" not in config, "not the config.json of transformers 5")


def spellings(table, base, logits):
    for change in (only_old_spelling, new_spelling):
        folder = table.folder / change.__name__
        shutil.copytree(base, folder)
        edit_config(folder, change)
        table.equal(f"{folder.name}: the model", table.ours(folder), logits)
        gla = table.convert(folder, table.folder / f"{folder.name}-gla", "--arch", "gla")
        table.equal(f"{folder.name}: converted", table.ours(gla, "--attention", "softmax"), logits)
        back = table.folder / f"{folder.name}-back"
        export_parity.change_model_type_back(gla, back)
        table.equal(f"{folder.name}: model_type changed back", table.theirs(open_in_transformers(back)), logits)


def whole_folder(table, base):
    """A folder with all that a published model has beside its weights."""
    folder = table.folder / "whole"
    shutil.copytree(base, folder)
    for name in ("LICENSE", "NOTICE", "USE_POLICY.md"):
        (folder / name).write_text(f"{name} of the model\n")
    template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    (folder / "chat_template.jinja").write_text(template)
    (folder / "special_tokens_map.json").write_text('{"eos_token": "<|eot_id|>"}\n')
    GenerationConfig(temperature=0.6, do_sample=True, top_p=0.9, eos_token_id=[1, 7]).save_pretrained(folder)
    edit_config(folder, lambda config: config.update(key_of_tomorrow={"a": [1, 2.5, None]}, eos_token_id=[1, 7]))
    return folder


def kept_files(table, base):
    folder = whole_folder(table, base)
    gla = table.convert(folder, table.folder / "whole-gla", "--arch", "gla")
    names = sorted(path.name for path in folder.iterdir() if path.name not in ("config.json", "README.md"))
    require(hashes(folder, names) == hashes(gla, names), "a file is not as it was")
    before, after = (json.loads((where / "config.json").read_text()) for where in (folder, gla))
    lost = [key for key in before if key not in ("architectures", "model_type") and after.get(key) != before[key]]
    require(not lost, f"keys of config.json are not as they were: {lost}")
    chat = [{"role": "user", "content": "hello"}]
    # AutoTokenizer of transformers 5.23 fails at a model_type that it does not know beside Llama 3's rope_scaling.
    for tokenizer in (AutoTokenizer.from_pretrained(folder), PreTrainedTokenizerFast.from_pretrained(gla)):
        require(tokenizer.apply_chat_template(chat, tokenize=False) == "<user>hello", "chat template")
        require(tokenizer("the river")["input_ids"] == tokenizer_ids(folder), "tokens")
    require(GenerationConfig.from_pretrained(gla).eos_token_id == [1, 7], "generation_config.json")
    return f"{len(names)} files the same bytes"


def tokenizer_ids(folder):
    return Tokenizer.from_file(str(folder / "tokenizer.json")).encode("the river").ids


def round_trip(table, base):
    """From a config.json of transformers 4, and of 5."""
    for change in (only_old_spelling, new_spelling):
        folder = table.folder / f"round-{change.__name__}"
        shutil.copytree(base, folder)
        edit_config(folder, change)
        names = sorted(path.name for path in folder.iterdir())
        for arch in PUBLISHED + ["gated-deltanet"]:
            there = table.convert(folder, table.folder / f"{folder.name}-{arch}", "--arch", arch)
            back = table.convert(there, table.folder / f"{folder.name}-{arch}-back", "--arch", "softmax")
            before, after = hashes(folder, names), hashes(back, names)
            differ = [file for file in names if before[file] != after[file]]
            require(not differ, f"{change.__name__}, {arch}: other bytes in {', '.join(differ)}")
    return f"{len(names)} files the same bytes"


def adapter_rows(table, base):
    kinds = list(peft_parity.KINDS)
    table.row(f"adapters of PEFT: {', '.join(kinds)}", "liger-eval", lambda: adapters(table, base, kinds),
              lambda what: "PEFT's adapter" in what)
    table.row("adapters of liger-finetune of these kinds, and merged by liger-convert", BOTH, None,
              lambda what: "PEFT's adapter" not in what)
    table.row(f"adapters of PEFT with {', '.join(REFUSED)}", "liger-eval", lambda: refusals(table, base))


def file_rows(table, base, logits):
    table.row("checkpoint of transformers in shards, in one file; in bf16, f16, f32", "liger-eval",
              lambda: checkpoints_of_theirs(table, base, logits))
    table.row("liger-convert --dtype bf16, f16, f32, in shards; in one file the bytes of save_pretrained", THEM,
              lambda: shards_of_ours(table, base))
    table.row("config.json as transformers 4 spells it, and as 5 does; converted", f"liger-eval, {THEM}",
              lambda: spellings(table, base, logits))
    table.row("the rest of a converted folder: tokenizer, chat template, generation config, licence, unknown keys",
              THEM, lambda: kept_files(table, base))
    table.row("converted and back to softmax, from config.json of transformers 4 and 5", "sha256",
              lambda: round_trip(table, base))


def compare_all(check, args):
    table = Table(check.bin, check.folder)
    base = table.folder / "base"
    logits = table.theirs(write_model(lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, rope_parameters=ROPE)), base))
    table.row(f"folders of {len(STRUCTURES)} structures, model_type changed back", THEM,
              lambda: structures(table, base, logits))
    adapter = export_parity.train(table, structure(table, "gla"), ["q_proj", "k_proj", "v_proj"], table.folder / "run")
    names = list(export_parity.MODELS)
    for group in [names[:2], names[2:4]] + [[name] for name in names[4:]]:
        table.row(f"{'; '.join(group)}: gla folder and back, adapters of both sides", f"{BOTH}, liger-eval",
                  lambda: family(table, *group))
    published_rows(table, base, adapter, args)
    adapter_rows(table, base)
    table.row("recursive folder (Llama, Gemma, Qwen3): plain model and adapter, logits and text", BOTH,
              lambda: recursive(table), lambda what: "PEFT" in what)
    table.row("the same untied", THEM, None, lambda what: "untied" in what)
    file_rows(table, base, logits)
    table.print()
    check.failed = table.wrong()


if __name__ == "__main__":
    run(__doc__, compare_all, **{"reference": "checkout of the published Liger code",
                                 "reference-python": "interpreter with transformers 4.47 for it"})
