#!/usr/bin/env python3
"""Compares liger's tokenizers with the reference libraries, and makes the small tokenizers its tests use.

    python tests/compare/tokenizer_parity.py make                    # write tests/data/tokenizers
    python tests/compare/tokenizer_parity.py check [-n 100000] [--seed 0] [--tool build/tests/tokenize_lines] [FORM ...]
    python tests/compare/tokenizer_parity.py check --total 10000000  # the nightly comparison (cmake -DLIGER_NIGHTLY=ON)
    python tests/compare/tokenizer_parity.py check --chars [FORM ...] # every code point instead of random strings
    python tests/compare/tokenizer_parity.py check --dir FOLDER      # a tokenizer of your own

`check` encodes and decodes n random strings, and decodes n / 10 random lists of ids, with each form of tokenizer and
prints how many answers differ; exit code 1 if any does. Without the packages it says so and ends with 0.
A form is a folder of tests/data/tokenizers, perhaps with a JSON merge patch applied to its tokenizer.json.
"""
import argparse
import contextlib
import io
import json
import pathlib
import random
import re
import subprocess
import sys
import tempfile

try:
    import sentencepiece
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers, Regex
except ImportError as e:
    print(f"skipped: the package {e.name} is not installed")
    sys.exit(0)

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = ROOT / "tests/data/tokenizers"
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3_REGEX = CONTRACTIONS + r"\p{N}{1,3}" + REST
QWEN2_REGEX = CONTRACTIONS + r"\p{N}" + REST


# ---- text ------------------------------------------------------------------------------------------------------------

SENTENCES = [
    "The ligers crossed the river at dawn; nobody followed them.", "It's 7:45, and they're late - we'll wait, I'd say.",
    "for (int i = 0; i < 128; ++i) {\n\tsum += values[i] * 0.5;\n}",
    "def area(radius):\n    return 3.14159 * radius ** 2\n",
    "Naïve café owners paid €12.50 for crème brûlée.", "Über den Wolken fährt ein müder Schäfer.",
    "Η νύχτα έπεσε ήσυχα πάνω από το χωριό.", "Старый кот спит на тёплой крыше.", "小老虎在河边喝水,月亮很亮。",
    "虎は川を渡って、森へ帰りました。", "नदी के किनारे एक शेर सो रहा है।", "عبر الأسد النهر عند الفجر.", "강가에서 호랑이가 물을 마신다.",
    "🙂🐯 two tigers, 👩‍👩‍👧 three cubs, 🏳️‍🌈 one flag",
    "x² + y³ = ½ · ∑ aᵢ ≤ ∞", "WHO SAID 'LL AND 'VE? You'Re right, he'S not.",
    "a\u00a0b\u2003c\u3000d\u200be\ufeff", "Tabs\tand  runs   of    spaces \n\n\n and \r\n line ends \r",
    "1234567 items, 89 boxes, ٣٤٥ ৭৮ Ⅷ ①", "e\u0301 vs \u00e9, \u1100\u1161 vs 가",
    "<html><body>A &amp; B</body></html>",
]


def corpus(rng):
    names, animals = ["Ada", "Bruno", "Chen", "Dora", "Emil"], ["tiger", "lion", "otter", "heron", "badger"]
    places = ["the old mill", "the harbour", "a quiet forest", "the north gate"]
    things = ["rope", "lantern", "map", "drum"]
    lines = []
    for _ in range(400):
        lines.append(f"{rng.choice(names)} met the {rng.choice(animals)} near {rng.choice(places)} and gave it "
                     f"{rng.choice(['a', 'the', 'another'])} {rng.choice(things)}.")
        lines.append(f"On day {rng.randint(1, 365)} the {rng.choice(animals)} walked to {rng.choice(places)}; "
                     f"it wasn't {rng.choice(['afraid', 'alone', 'hungry', 'tired'])}.")
    return lines + SENTENCES * 8


SPELLINGS = ["<s>", "</s>", "<unk>", "<bos>", "<eos>", "<pad>", "<|eot_id|>", "<|begin_of_text|>", "<|eot_id|",
             "eot_id|>", "<start_of_turn>", "<end_of_turn>", "<start_of_", "\n\n", "  ", "   ", "▁", "▁▁",
             "<0x41>", "<0x0A>",
             "[X]", "[[X]]", "left", "right", "word", "a word b", "wordy", "Norm x", "Norm  x", "ab", "abab", "Q", "né",
             "énéa", "Ġ", "Ċ", "Ã©"]
SPACES = " \t\n\r\x0b\x0c\x85\u00a0\u1680\u2000\u2003\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
NOT_SPACES = "\u180e\u200b\u200c\u200d\u2060\ufeff\u00ad\x1c\x1f\x00"
MARKS = [chr(c) for c in [*range(0x300, 0x350), *range(0x591, 0x5C8), 0x64B, 0x651, 0x654, 0x93C, 0x9BE, 0xF71, 0xF72,
                          0xF73, 0x1161, 0x11A8, 0x11BB, 0x3099, 0x302A, 0x1D165, 0x1D16E, 0x110BA, 0x1E000]]
ENDINGS = ["'s", "'S", "'\u017f", "'t", "'re", "'Re", "'VE", "'ll", "'lL", "'d", "'m", "'x", "’s", "'", "''", "'l"]


def any_char(rng):
    """A code point from somewhere; often from a place where tables differ."""
    kind = rng.random()
    if kind < 0.3:
        return chr(rng.randrange(0x20, 0x7F))
    if kind < 0.5:
        return chr(rng.randrange(0x80, 0x800))
    while True:
        low, high = (0, 0x110000) if kind < 0.6 else (0, 0x10000) if kind < 0.9 else (0x10000, 0x32000)
        c = rng.randrange(low, high)
        if not 0xD800 <= c <= 0xDFFF:
            return chr(c)


def text_maker(rng, words):
    """A function that gives random texts: words, white space, control characters, spelt-out tokens, all of Unicode."""
    pick = rng.choice

    def some(make, most):
        return "".join(make() for _ in range(rng.randint(1, most)))

    makers = [
        lambda: pick(words), lambda: " " + pick(words), lambda: pick(words) + pick(ENDINGS),
        lambda: some(lambda: any_char(rng), 8), lambda: some(lambda: pick(SPACES), 6),
        lambda: " " * rng.randint(1, 9), lambda: pick("\n\r\t") * rng.randint(1, 4),
        lambda: pick(NOT_SPACES), lambda: chr(rng.randrange(0x20)),
        lambda: pick(SPELLINGS), lambda: pick(SPELLINGS) + pick(SPELLINGS),
        lambda: some(lambda: pick("0123456789٣৭Ⅷ①½"), 7),
        lambda: some(lambda: pick("!?.,;:-_()[]{}<>|/\\@#$%^&*+='\"`~"), 5),
        lambda: pick(SENTENCES)[: rng.randint(0, 40)],
        lambda: pick("aeouAEnṩ\u0344가ᄀ각ǖ") + some(lambda: pick(MARKS), 5),
        lambda: some(lambda: chr(rng.randrange(0x1100, 0x1200)), 4), lambda: chr(rng.randrange(0xAC00, 0xD7A4)),
    ]
    return lambda: "".join(pick(makers)() for _ in range(rng.randint(0, 10)))


# ---- forms -----------------------------------------------------------------------------------------------------------

def added(vocabulary, tokens, next_id=None):
    """Entries of added_tokens: with the id that the vocabulary has, else with the next that is free."""
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    next_id = len(vocabulary) if next_id is None else next_id
    entries = []
    for content, which in tokens:
        entries.append({"id": vocabulary.get(content, next_id), "content": content})
        entries[-1].update({flag: flag in which for flag in flags})
        next_id += content not in vocabulary
    return entries


ODD_TOKENS = [("[X]", ["special"]), ("[[X]]", []), ("left", ["lstrip"]), ("right", ["rstrip"]),
              ("word", ["single_word"]), ("   ", []), ("Norm x", ["normalized"]), ("né", ["normalized", "single_word"]),
              ("虎", ["lstrip", "rstrip"]),
              ("abab", ["normalized", "lstrip"]), ("Q", ["special", "lstrip", "rstrip"])]


def merge_patch(target, patch):
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    out = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            out.pop(key, None)
        else:
            out[key] = merge_patch(out.get(key), value)
    return out


def byte_level(**options):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True, **options}


def split_words(regex):
    return {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False},
        byte_level(use_regex=False)]}


def metaspace(**options):
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False, **options}


def normalized(*steps):
    return {"normalizer": {"type": "Sequence", "normalizers": list(steps)}}


QWEN2 = {"normalizer": {"type": "NFC"}, "post_processor": None,
         "pre_tokenizer": {"pretokenizers": split_words(QWEN2_REGEX)["pretokenizers"]}}


def forms():
    """Name -> (folder, patch of its tokenizer.json)."""
    def with_odd_tokens(base):
        document = json.loads((DATA / base / "tokenizer.json").read_text())
        vocabulary, listed = document["model"]["vocab"], document["added_tokens"]
        fresh = sum(token["content"] not in vocabulary for token in listed)
        odd = [(text, flags) for text, flags in ODD_TOKENS if text not in {token["content"] for token in listed}]
        return {"added_tokens": listed + added(vocabulary, odd, len(vocabulary) + fresh)}

    return {
        "llama3": ("llama3", {}),
        "gpt2": ("llama3", {"pre_tokenizer": byte_level(pretokenizers=None), "post_processor": None,
                            "model": {"ignore_merges": False}}),
        "gpt2_prefix_space": ("llama3", {"pre_tokenizer": byte_level(add_prefix_space=True, pretokenizers=None)}),
        "qwen2": ("llama3", QWEN2),
        "qwen2_added": ("llama3", {**QWEN2, **with_odd_tokens("llama3")}),
        "neox": ("neox", {}),
        "neox_added": ("neox", with_odd_tokens("neox")),
        "nfd": ("llama3", normalized({"type": "NFD"})),
        "nfkc_lower": ("llama3", normalized({"type": "NFKC"}, {"type": "Lowercase"})),
        "nfkd_strip": ("llama3", normalized({"type": "NFKD"}, {"type": "Strip", "strip_left": True,
                                                               "strip_right": True})),
        "strip_left": ("llama2", normalized({"type": "Strip", "strip_left": True, "strip_right": False},
                                            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"})),
        "strip_right": ("llama3", normalized({"type": "Lowercase"}, {"type": "Strip", "strip_left": False,
                                                                     "strip_right": True})),
        "llama3_added": ("llama3", with_odd_tokens("llama3")),
        "llama2": ("llama2", {}),
        "llama2_v5": ("llama2", {"normalizer": None, "pre_tokenizer": metaspace(), "model": {"unk_token": None}}),
        "llama2_metaspace": ("llama2", {"normalizer": None,
                                        "pre_tokenizer": metaspace(prepend_scheme="always", split=True),
                                        "decoder": metaspace(prepend_scheme="always", decoders=None, split=True)}),
        "llama2_added": ("llama2", with_odd_tokens("llama2")),
        "llama2_v5_added": ("llama2", {**with_odd_tokens("llama2"), "normalizer": None, "pre_tokenizer": metaspace()}),
        "llama2_unknown": ("llama2", {"model": {"byte_fallback": False}}),
        "llama2_unknown_each": ("llama2", {"model": {"byte_fallback": False, "fuse_unk": False}}),
        "gemma": ("gemma", {}),
        "sp_llama": ("sp_llama", None),
        "sp_gemma": ("sp_gemma", None),
        "sp_unigram": ("sp_unigram", None),
    }


class HuggingFace:
    """What the package tokenizers makes of a tokenizer.json."""

    def __init__(self, folder):
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.size = max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, texts):
        self.tokenizer.encode_special_tokens = True
        literal = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        self.tokenizer.encode_special_tokens = False
        parsed = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        whole = self.tokenizer.encode_batch_fast(texts, add_special_tokens=True)
        decoded = self.tokenizer.decode_batch([e.ids for e in parsed], skip_special_tokens=True)
        return [{"ids": a.ids, "parsed": b.ids, "whole": c.ids, "text": d}
                for a, b, c, d in zip(literal, parsed, whole, decoded)]

    def decode(self, lists):
        texts = self.tokenizer.decode_batch(lists, skip_special_tokens=True)
        kept = self.tokenizer.decode_batch(lists, skip_special_tokens=False)
        return [{"text": t, "kept": k, "streamed": t} for t, k in zip(texts, kept)]


class SentencePiece:
    """What sentencepiece makes of a tokenizer.model, between the special tokens that it leaves to its callers."""

    def __init__(self, folder):
        self.model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        self.size = self.model.get_piece_size()
        self.controls = {self.model.id_to_piece(i): i for i in range(self.size)
                         if self.model.is_control(i) or self.model.is_unknown(i)}
        config = folder / "tokenizer_config.json"
        listed = json.loads(config.read_text()).get("added_tokens_decoder", {}) if config.exists() else {}
        # Special pieces that the library always finds in text; liger finds them only when told to.
        self.guarded = {token["content"]: int(i) for i, token in listed.items() if token["special"]}
        self.split = re.compile("(" + "|".join(map(re.escape, self.controls)) + ")")

    def parse(self, text):
        ids = []
        for part in filter(None, self.split.split(text)):
            ids += [self.controls[part]] if part in self.controls else self.model.encode(part)
        return ids

    def encode(self, texts):
        out = []
        for text, ids in zip(texts, self.model.encode(texts)):
            parsed = self.parse(text)
            out.append({"parsed": parsed, "whole": [self.model.bos_id()] + parsed})
            if not any(token in text for token in self.guarded):
                out[-1]["ids"] = ids
        return out

    def decode(self, lists):
        out = []
        for ids in lists:
            text = self.model.decode(ids)
            out.append({} if set(ids) & set(self.guarded.values()) else {"text": text, "streamed": text})
            if not any(self.model.is_control(i) for i in ids):
                out[-1]["kept"] = text
        return out


def reference_of(folder):
    folder = pathlib.Path(folder)
    return (HuggingFace if (folder / "tokenizer.json").exists() else SentencePiece)(folder)


def write_form(base, patch, folder):
    folder = pathlib.Path(folder)
    for source in (DATA / base).iterdir():
        (folder / source.name).write_bytes(source.read_bytes())
    if patch:
        text = (DATA / base / "tokenizer.json").read_text()
        (folder / "tokenizer.json").write_text(json.dumps(merge_patch(json.loads(text), patch), ensure_ascii=False))
    return folder


# ---- check -----------------------------------------------------------------------------------------------------------

def ask(tool, folder, lines):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    run = subprocess.run([tool, str(folder)], input=text, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"{tool} {folder}: exit code {run.returncode}: {run.stderr.strip()}")
    return [json.loads(line) for line in run.stdout.split("\n") if line]


def differences(inputs, ours, theirs):
    for given, mine, reference in zip(inputs, ours, theirs):
        for key, value in reference.items():
            if mine[key] != value:
                yield given, key, mine[key], value


def inputs_of(rng, count, size):
    """Batches of random texts, and of lists of ids below `size`."""
    make = text_maker(rng, sorted({word for line in corpus(random.Random(0)) for word in line.split()}))
    for start in range(0, count, BATCH):
        texts = [make() for _ in range(min(BATCH, count - start))]
        yield texts, [[rng.randrange(size) for _ in range(rng.randint(0, 12))] for _ in range(len(texts) // 10)]


def every_char():
    """Each code point between letters, before and behind marks of a low and a high class, and inside Hangul."""
    chars = [chr(c) for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
    texts = ["".join(f"a{c}b {c}\u0334\u0301 e\u0345{c} \u1100{c}\u11a8\n" for c in chars[start:start + 8])
             for start in range(0, len(chars), 8)]
    for start in range(0, len(texts), BATCH):
        yield texts[start:start + BATCH], []


BATCH = 20000


def check_folder(name, folder, count, seed, tool, chars=False):
    reference = reference_of(folder)
    rng = random.Random(f"{seed} {name}")
    found = asked = 0
    for texts, lists in every_char() if chars else inputs_of(rng, count, reference.size):
        for inputs, answers in ((texts, reference.encode(texts)), (lists, reference.decode(lists))):
            asked += len(inputs)
            for given, key, mine, theirs in differences(inputs, ask(tool, folder, inputs), answers):
                found += 1
                if found <= 5:
                    print(f"  {name}: {key} of {given!r}\n    liger     {mine!r}\n    reference {theirs!r}")
    print(f"{name}: {asked} inputs, {found} differences", flush=True)
    return found


def check(arguments):
    if arguments.dir:
        return check_folder(arguments.dir, arguments.dir, arguments.n, arguments.seed, arguments.tool, arguments.chars)
    total = 0
    chosen = {name: form for name, form in forms().items() if not arguments.forms or name in arguments.forms}
    if arguments.total:
        arguments.n = -(-arguments.total // len(chosen))
    for name, (base, patch) in chosen.items():
        with tempfile.TemporaryDirectory() as folder:
            total += check_folder(name, write_form(base, patch, folder), arguments.n, arguments.seed, arguments.tool,
                                  arguments.chars)
    return total


# ---- make ------------------------------------------------------------------------------------------------------------

def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")


def make_llama3(lines):
    """Byte-level BPE in the form of Llama 3, with words that no merge makes: only ignore_merges finds them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3_REGEX), "isolated"), pre_tokenizers.ByteLevel(False, True, False)])
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
                                  show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    document = json.loads(tokenizer.to_str())
    vocabulary = document["model"]["vocab"]
    for word in ("Liger", "ĠLiger", "Ġzebra", "café", "虎"):
        piece = word if word.isascii() or word.startswith("Ġ") else "".join(
            p for p, _ in pre_tokenizers.ByteLevel(False, True, False).pre_tokenize_str(word))
        vocabulary.setdefault(piece, len(vocabulary))
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    first = len(vocabulary)
    bos = {"id": specials[0], "ids": [first], "tokens": [specials[0]]}
    document.update({
        "added_tokens": added(vocabulary, [(s, ["special"]) for s in specials]),
        "pre_tokenizer": split_words(LLAMA3_REGEX),
        "post_processor": {"type": "Sequence", "processors": [byte_level(trim_offsets=False), {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": specials[0], "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {specials[0]: bos}}]},
        "decoder": byte_level(add_prefix_space=True)})
    document["model"]["ignore_merges"] = True
    write_json(DATA / "llama3/tokenizer.json", document)
    write_json(DATA / "llama3/tokenizer_config.json",
               {"bos_token": specials[0], "eos_token": specials[4], "tokenizer_class": "PreTrainedTokenizerFast"})


def make_neox(lines):
    """Byte-level BPE in the form of GPT-NeoX: normalized, and runs of spaces as added tokens that are not special."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(False, True, True)
    trainer = trainers.BpeTrainer(vocab_size=640, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
                                  special_tokens=["<|endoftext|>", "<|padding|>"], show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    document = json.loads(tokenizer.to_str())
    vocabulary = document["model"]["vocab"]
    listed = [(t, ["special"]) for t in ("<|endoftext|>", "<|padding|>")]
    listed += [(" " * n, ["normalized"]) for n in range(24, 1, -1)]
    document.update({"added_tokens": added(vocabulary, listed), "post_processor": byte_level(add_prefix_space=True),
                     "decoder": byte_level(add_prefix_space=True)})
    write_json(DATA / "neox/tokenizer.json", document)
    write_json(DATA / "neox/tokenizer_config.json", {"add_prefix_space": False, "bos_token": "<|endoftext|>",
                                                     "eos_token": "<|endoftext|>", "tokenizer_class": "GPTNeoXTokenizer"})


def train_sentencepiece(lines, **options):
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=out, num_threads=1, hard_vocab_limit=False, minloglevel=2,
        **options)
    return out.getvalue()


def pieces_of(model):
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [processor.id_to_piece(i) for i in range(processor.get_piece_size())]


def merges_of(vocabulary):
    """Every way to make a piece of two others, in the order of the pieces: ids fall with the score."""
    return [[piece[:cut], piece[cut:]] for piece in vocabulary for cut in range(1, len(piece))
            if piece[:cut] in vocabulary and piece[cut:] in vocabulary]


DECODE = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]


def hf_bpe(pieces, unknown):
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    return {"type": "BPE", "dropout": None, "unk_token": unknown, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
            "vocab": vocabulary, "merges": merges_of(vocabulary)}


def bos_template(bos, bos_id):
    special, text = {"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    return {"type": "TemplateProcessing", "single": [special, text],
            "pair": [special, text, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {bos: {"id": bos, "ids": [bos_id], "tokens": [bos]}}}


def make_llama2(lines):
    model = train_sentencepiece(
        lines, model_type="bpe", vocab_size=620, byte_fallback=True, character_coverage=0.995,
        normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=True, split_digits=True,
        allow_whitespace_only_pieces=True)
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True,
              "add_eos_token": False, "tokenizer_class": "LlamaTokenizer"}
    write_json(DATA / "sp_llama/tokenizer_config.json", config)
    (DATA / "sp_llama/tokenizer.model").write_bytes(model)
    decode = [*DECODE, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    normalize = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    write_json(DATA / "llama2/tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": added({}, [("<unk>", ["special"]), ("<s>", ["special"]), ("</s>", ["special"])]),
        "normalizer": {"type": "Sequence", "normalizers": normalize}, "pre_tokenizer": None,
        "post_processor": bos_template("<s>", 1), "decoder": {"type": "Sequence", "decoders": decode},
        "model": hf_bpe(pieces_of(model), "<unk>")})
    write_json(DATA / "llama2/tokenizer_config.json", config)


def make_gemma(lines):
    turns, spaces = ["<start_of_turn>", "<end_of_turn>"], ["\n", "\n\n", "▁▁", "▁▁▁", "▁▁▁▁"]
    model = train_sentencepiece(
        [line.replace("\t", " ") for line in lines], model_type="bpe", vocab_size=620, byte_fallback=True,
        character_coverage=0.995, normalization_rule_name="identity", remove_extra_whitespaces=False,
        add_dummy_prefix=False, split_digits=True, allow_whitespace_only_pieces=True,
        pad_id=0, eos_id=1, bos_id=2, unk_id=3, bos_piece="<bos>", eos_piece="<eos>",
        user_defined_symbols=turns + spaces)
    pieces = pieces_of(model)
    listed = {str(pieces.index(turn)): {"content": turn, "special": True, "normalized": False} for turn in turns}
    config = {"bos_token": {"content": "<bos>", "special": True}, "eos_token": "<eos>",
              "tokenizer_class": "GemmaTokenizer", "added_tokens_decoder": listed}
    write_json(DATA / "sp_gemma/tokenizer_config.json", config)
    (DATA / "sp_gemma/tokenizer.model").write_bytes(model)
    listed = [("<pad>", ["special"]), ("<eos>", ["special"]), ("<bos>", ["special"]), ("<unk>", ["special"])]
    listed += [(t, ["special"]) for t in turns] + [(s, []) for s in spaces]
    tokens = added({piece: i for i, piece in enumerate(pieces)}, listed)
    pieces[pieces.index("<0x09>")] = "\t"  # as in the files of the first Gemma
    write_json(DATA / "gemma/tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": sorted(tokens, key=lambda t: t["id"]),
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious",
                          "invert": False},
        "post_processor": bos_template("<bos>", 2), "decoder": {"type": "Sequence", "decoders": DECODE},
        "model": hf_bpe(pieces, "<unk>")})
    write_json(DATA / "gemma/tokenizer_config.json", {"bos_token": "<bos>", "eos_token": "<eos>"})


def make_unigram(lines):
    """A model with normalization rules of its own, unknown characters and collapsed spaces."""
    rules = (("é", "e"), ("É", "E"), ("ﬁ", "fi"), ("\u3000", " "), ("\t", " "), ("\n", " "), ("e\u0301", "e"))
    codes = lambda text: " ".join(f"{ord(c):X}" for c in text)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # the model keeps the name of the file
        pathlib.Path("rules.tsv").write_text("".join(f"{codes(a)}\t{codes(b)}\n" for a, b in rules))
        model = train_sentencepiece(lines, model_type="unigram", vocab_size=400, character_coverage=0.98,
                                    normalization_rule_tsv="rules.tsv", user_defined_symbols=["<sep>"])
    path = DATA / "sp_unigram/tokenizer.model"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model)


GOLDEN_TEXTS = SENTENCES + [
    "", " ", "  ", "a", " a", "a ", "\n", "\r\n", "\t", "▁", "<s>", "<s> a</s>", "a<s>b", "<|eot_id|>",
    "x<|eot_id|>y<|eot_id", "<start_of_turn>user\nHi<end_of_turn>\n", "Liger", " Liger zebra",
    "'ſ ’s 'S", "12345678", "left  x  left", "right   y",
    "word wordy a-word", "Norm x Norm  x", "   [[X]] [X]  Q  né 虎 ",
    "abababab", "<0x41> A", "\x00\x01\x7f", "ＡＢＣ", "ﬁné ﬁ\u3000x",
    "\U0001F9FF\U0010FFFF\ue000", "don't  stop\n\n\nnow   ", " \u180e \u2028 ", "<sep>a <sep>",
]


def without_repeats(answer):
    """What is not told means: parsed as ids, and nothing but the text around it."""
    whole, parsed = answer["whole"], answer["parsed"]
    start = len(whole) - len(parsed)
    out = {"parsed": parsed, "before": whole[:start]}
    assert whole == out["before"] + parsed
    if answer.get("ids") != parsed:
        out["ids"] = answer.get("ids")
    if "text" in answer:
        out["text"] = answer["text"]
    return out


def make_goldens():
    out = []
    for name, (base, patch) in forms().items():
        with tempfile.TemporaryDirectory() as folder:
            reference = reference_of(write_form(base, patch, folder))
            answers = [without_repeats(answer) for answer in reference.encode(GOLDEN_TEXTS)]
            rng = random.Random(name)
            lists = [[rng.randrange(reference.size) for _ in range(rng.randint(1, 12))] for _ in range(20)]
            out.append({"name": name, "base": base, "patch": patch or {}, "answers": answers,
                        "decoded": [[ids, answer] for ids, answer in zip(lists, reference.decode(lists))]})
    write_json(DATA / "goldens.json", {"texts": GOLDEN_TEXTS, "forms": out})


def make(_):
    lines = corpus(random.Random(0))
    make_llama3(lines)
    make_neox(lines)
    make_llama2(lines)
    make_gemma(lines)
    make_unigram(lines)
    make_goldens()
    for path in sorted(DATA.rglob("*")):
        if path.is_file():
            print(f"{path.relative_to(ROOT)}: {path.stat().st_size} bytes")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    commands.add_parser("make").set_defaults(run=make)
    checker = commands.add_parser("check")
    checker.add_argument("forms", nargs="*")
    checker.add_argument("-n", type=int, default=100000)
    checker.add_argument("--total", type=int, help="strings for all forms together, instead of -n for each")
    checker.add_argument("--seed", type=int, default=0)
    checker.add_argument("--tool", default=str(ROOT / "build/tests/tokenize_lines"))
    checker.add_argument("--dir")
    checker.add_argument("--chars", action="store_true", help="every code point in four places instead")
    checker.set_defaults(run=check)
    arguments = parser.parse_args()
    sys.exit(1 if arguments.run(arguments) else 0)


main()
