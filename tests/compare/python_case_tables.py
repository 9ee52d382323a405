#!/usr/bin/env python3
"""Writes src/eval/python_case_tables.cpp: how this Python's str changes the case of characters.

    python tests/compare/python_case_tables.py > src/eval/python_case_tables.cpp
"""
import sys
import unicodedata

EVERY = [chr(c) for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]


def runs(changed):
    """{code point: other code point} as [first, last, step, distance]."""
    out = []
    for c, other in sorted(changed.items()):
        if out:
            last = out[-1]
            gap = c - last[1]
            fits = gap == last[2] if last[1] > last[0] else gap in (1, 2)
            if fits and other - c == last[3]:
                last[1], last[2] = c, gap
                continue
        out.append([c, c, 1, other - c])
    return out


def ranges(characters):
    out = []
    for c in sorted(map(ord, characters)):
        if out and c == out[-1][1] + 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def rows(items, show, per_line):
    lines = []
    for i in range(0, len(items), per_line):
        lines.append("    " + " ".join(show(item) + "," for item in items[i:i + per_line]))
    return "\n".join(lines)


def case_table(name, change):
    single, special = {}, []
    for c in EVERY:
        other = change(c)
        if other != c and len(other) == 1:
            single[ord(c)] = ord(other)
        elif other != c:
            special.append((ord(c), [ord(x) for x in other] + [0] * (3 - len(other))))
    table = runs(single)
    print(f"const CaseRun k{name}Runs[] = {{")
    print(rows(table, lambda r: f"{{{r[0]:#x}, {r[1]:#x}, {r[2]}, {r[3]}}}", 4))
    print(f"}};\nconst size_t k{name}RunCount = {len(table)};\n")
    print(f"const CaseSpecial k{name}Specials[] = {{")
    print(rows(special, lambda s: f"{{{s[0]:#x}, {{{s[1][0]:#x}, {s[1][1]:#x}, {s[1][2]:#x}}}}}", 3))
    print(f"}};\nconst size_t k{name}SpecialCount = {len(special)};\n")


def range_table(name, characters):
    table = ranges(characters)
    print(f"const CharRange k{name}[] = {{")
    print(rows(table, lambda r: f"{{{r[0]:#x}, {r[1]:#x}}}", 6))
    print(f"}};\nconst size_t k{name}Count = {len(table)};\n")


def main():
    print(f"// Written by tests/compare/python_case_tables.py: Python {sys.version_info[0]}.{sys.version_info[1]}, Unicode "
          f"{unicodedata.unidata_version}.\n")
    print('#include "eval/python_case_tables.h"\n\nnamespace liger::eval {\n\n// clang-format off')
    case_table("Lower", str.lower)
    case_table("Upper", str.upper)
    case_table("Title", str.title)
    cased = {c for c in EVERY if (c + "a").title()[-1] == "a"}
    range_table("Cased", cased)
    # A sigma is final after a cased character, those skipped that are ignorable.
    range_table("CaseIgnorable", [c for c in EVERY if (c not in cased and ("A" + c + "\u03a3").lower()[-1] == "\u03c2") or
                                  (c in cased and (c + "\u03a3").lower()[-1] != "\u03c2")])
    print("// clang-format on\n\n}  // namespace liger::eval")


if __name__ == "__main__":
    main()
