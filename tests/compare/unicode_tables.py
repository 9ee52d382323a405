#!/usr/bin/env python3
"""Writes src/io/unicode_tables.cpp: which characters are letters, numbers, white space and word characters.

The classes are those of the `tokenizers` package, found by asking it about every code point, because they differ from
any one version of the Unicode standard: its splitting patterns and its word boundaries come from two regex engines.

    python tests/compare/unicode_tables.py            # rewrite the file
    python tests/compare/unicode_tables.py --check    # exit 1 if the file is not what would be written
"""
import json
import pathlib
import sys

try:
    import tokenizers
    from tokenizers import AddedToken, Regex, Tokenizer, pre_tokenizers
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


def render(bits):
    starts = [c for c in range(0x110000) if c == 0 or bits[c] != bits[c - 1]]
    out = [
        "// Written by tests/compare/unicode_tables.py; do not edit.",
        f"// The classes are those of tokenizers {tokenizers.__version__}.",
        '#include "io/unicode_tables.h"',
        "",
        "namespace liger::detail {",
        "",
        "// First code point << 4 | classes of it and all that follow up to the next entry.",
        "const uint32_t kCharClassRuns[] = {",
    ]
    line = "   "
    for start in starts:
        item = f" {start << 4 | bits[start]:#x},"
        if len(line) + len(item) > 120:
            out.append(line)
            line = "   "
        line += item
    out += [line, "};", "const size_t kCharClassRunCount = sizeof(kCharClassRuns) / sizeof(kCharClassRuns[0]);", ""]
    out += ["}  // namespace liger::detail", ""]
    return "\n".join(out)


def main():
    text = render(classes())
    if "--check" in sys.argv:
        same = OUTPUT.exists() and OUTPUT.read_text() == text
        print("same" if same else f"{OUTPUT} is not what tokenizers {tokenizers.__version__} gives")
        sys.exit(not same)
    OUTPUT.write_text(text)
    print(f"{OUTPUT}: {text.count('0x')} runs")


main()
