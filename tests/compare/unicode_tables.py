#!/usr/bin/env python3
"""Writes src/io/unicode_tables.cpp: which characters are letters, numbers, white space and word characters, what they
are made of, in which order marks stand, and what is lower case of what.

All of it is that of the `tokenizers` package, found by asking it about every code point, because it differs from any
one version of the Unicode standard: its splitting patterns and its word boundaries come from two regex engines, its
normal forms and its lower case from two more sources.

    python tests/compare/unicode_tables.py            # rewrite the file
    python tests/compare/unicode_tables.py --check    # exit 1 if the file is not what would be written
"""
import json
import pathlib
import sys
import unicodedata

try:
    import tokenizers
    from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
except ImportError:
    print("skipped: the package tokenizers is not installed")
    sys.exit(0)

OUTPUT = pathlib.Path(__file__).resolve().parents[2] / "src/io/unicode_tables.cpp"
LETTER, NUMBER, SPACE, WORD = 1, 2, 4, 8
CODES = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]


def matching(pattern):
    """Characters that a splitting pattern matches."""
    split = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    found = set()
    for piece, _ in split.pre_tokenize_str("".join(map(chr, CODES))):
        found.update(map(ord, piece))
    return found


def token_starts(**options):
    """Where an added token "Q" that follows a character begins: 1 = after it, less = with it, None = nowhere."""
    empty = {"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {"x": 0}, "merges": []}}
    tokenizer = Tokenizer.from_str(json.dumps(empty))
    tokenizer.add_tokens([AddedToken("Q", normalized=False, **options)])
    codes = [c for c in CODES if chr(c) not in "Q\n"]
    found = tokenizer.encode("".join(chr(c) + "Q\n" for c in codes)).offsets
    starts = {end: start for start, end in found}
    return {c: starts[3 * i + 2] - 3 * i if 3 * i + 2 in starts else None for i, c in enumerate(codes)}


def classes():
    letters, numbers, spaces = matching(r"\p{L}"), matching(r"\p{N}"), matching(r"\s")
    words = {c for c, start in token_starts(single_word=True).items() if start is None} | {ord("Q")}
    stripped = {c for c, start in token_starts(lstrip=True).items() if start < 1} | {ord("\n")}
    assert stripped == spaces, "added tokens and patterns disagree about white space"
    bits = [0] * 0x110000
    for found, bit in ((letters, LETTER), (numbers, NUMBER), (spaces, SPACE), (words, WORD)):
        for c in found:
            bits[c] |= bit
    return bits


NFC, NFD, NFKD = (form().normalize_str for form in (normalizers.NFC, normalizers.NFD, normalizers.NFKD))
HANGUL = range(0xAC00, 0xD7A4)  # composed and decomposed by arithmetic


def each(convert, make):
    """What a normalizer makes of `make(character)`, for every character: a dictionary of those that it changes."""
    codes = [c for c in CODES if chr(c) != "\n"]
    texts = convert("\n".join(make(chr(c)) for c in codes)).split("\n")
    return {c: text for c, text in zip(codes, texts, strict=True) if text != make(chr(c))}


def combining_classes():
    """The classes as numbers of the standard. A mark goes before another exactly if its class is lower and not 0."""
    last = "\u0345"  # 240, the highest
    marks = {ord(last)} | {c for c, text in each(NFD, lambda char: last + char).items() if text == chr(c) + last}
    pivots = {}
    for c in sorted(marks):
        pivots.setdefault(unicodedata.combining(chr(c)), chr(c))
    pivots.pop(0, None)
    found = {}
    for c in marks:
        found[c] = max(value for value, pivot in pivots.items() if NFD(pivot + chr(c)) == pivot + chr(c))
    return [found.get(c, 0) for c in range(0x110000)]


def compositions(canonical):
    """(first, second, both as one) for every pair that is composed."""
    found = []
    for c, parts in canonical.items():
        if len(parts) > 1 and NFC(parts) == chr(c):
            first = NFC(parts[:-1])
            assert len(first) == 1 and NFC(first + parts[-1]) == chr(c), hex(c)
            found.append((ord(first), ord(parts[-1]), c))
    return sorted(found)


def mapping(changes):
    """Each character with the number of those it becomes in the bits from 21, then these."""
    return [item for c, text in sorted(changes.items()) for item in (c | len(text) << 21, *map(ord, text))]


def runs(values, bits):
    return [c << bits | values[c] for c in range(0x110000) if c == 0 or values[c] != values[c - 1]]


def table(name, comment, items):
    out = [f"// {comment}", f"const uint32_t {name}[] = {{"]
    line = "   "
    for item in items:
        text = f" {item:#x},"
        if len(line) + len(text) > 120:
            out.append(line)
            line = "   "
        line += text
    count = name.removesuffix("s") + "Count"
    return out + [line, "};", f"const size_t {count} = sizeof({name}) / sizeof({name}[0]);", ""]


def render():
    canonical = {c: text for c, text in each(NFD, str).items() if c not in HANGUL}
    compatible = {c: text for c, text in each(NFKD, str).items() if c not in HANGUL and canonical.get(c) != text}
    out = [
        "// Written by tests/compare/unicode_tables.py; do not edit.",
        f"// All is as in tokenizers {tokenizers.__version__}.",
        '#include "io/unicode_tables.h"',
        "",
        "// clang-format off",
        "namespace liger::detail {",
        "",
        *table("kCharClassRuns", "First code point << 4 | classes of it and all that follow up to the next entry.",
               runs(classes(), 4)),
        *table("kCombiningClassRuns", "First code point << 8 | combining class, up to the next entry.",
               runs(combining_classes(), 8)),
        *table("kCanonicals", "Code point | number of those it becomes << 21, then these: NFD.", mapping(canonical)),
        *table("kCompatibles", "The same for NFKD, where it differs.", mapping(compatible)),
        *table("kCompositions", "First, second and what they become together, in order.",
               [item for row in compositions(canonical) for item in row]),
        *table("kLowercases", "As kCanonicals: lower case.", mapping(each(normalizers.Lowercase().normalize_str, str))),
        "// clang-format on",
        "}  // namespace liger::detail",
        "",
    ]
    return "\n".join(out)


def main():
    text = render()
    if "--check" in sys.argv:
        same = OUTPUT.exists() and OUTPUT.read_text() == text
        print("same" if same else f"{OUTPUT} is not what tokenizers {tokenizers.__version__} gives")
        sys.exit(not same)
    OUTPUT.write_text(text)
    print(f"{OUTPUT}: {text.count('0x')} numbers")


main()
