#!/usr/bin/env python3
"""Writes the small world that the demo's teacher lives in: village stories whose later sentences need facts told much
earlier (who lives where, who likes what, who holds what, what lies hidden in which box, who went where).

    make_world.py OUT [--rhymes N] [--verses N] [--train N] [--lora N] [--test N] [--rows N] [--seed S]

OUT/{rhymes,verses,train}.jsonl  {"text"}: three lessons for the teacher; the last one is stories
OUT/lora.jsonl                   {"text"}: stories for recovery
OUT/perplexity.test.jsonl        {"text"}: stories for evaluation
OUT/multiple_choice.test.jsonl   {"query", "choices", "gold"}: a story cut before a word that only memory can tell; the
                                 wrong choices are words of the same story
OUT/recall/W/D/multiple_choice.test.jsonl   with --recall W: the same, the fact last told D to 1.5 D windows of W tokens
                                 before, for D = 1, 2, 4 and 8, as far as stories are so long
OUT/facts/N/multiple_choice.test.jsonl      with --recall W: the same at any distance beyond 2 W tokens, in stories whose
                                 people have N facts to remember, for N = 4, 8, 12 and 15
Python's standard library only; the same seed writes the same bytes.
"""
import argparse
import json
import random
import re
from pathlib import Path

NAMES = """Anna Ben Clara David Emma Felix Greta Hugo Ida Jonas Karin Leo Mira Nils Olga Paul Rosa Simon Tilda Viktor Wanda
Max Nora Tom""".split()
HOMES = "mill bakery harbor church school castle station farm inn tower library market".split()
FOODS = "plums bread cheese soup honey apples nuts cake berries pears beans rice".split()
THINGS = "lamp kite drum book clock ring flute rope cup map mirror bell coat scarf doll ladder".split()
COLORS = "red blue green yellow white black brown silver".split()
BOXES = "chest drawer barrel trunk jar sack bucket cellar attic shed".split()
SMALL = "the a of and at to in was for with from lived liked went lay had".split()
TRIPS = "lake forest hill river meadow beach valley cave bridge island garden field".split()

# How each kind of fact is told, and how the story needs it again, with little but memory to tell the answer {it}. Each
# story has one way of telling and one of asking for a kind: its people repeat themselves, as in fairy tales.
TOLD = {
    "home": ["{who} lived at the {it}.", "The home of {who} was the {it}.", "{who} had a small room at the {it}.",
             "Since spring {who} had lived at the {it}."],
    "food": ["{who} loved {it} more than anything.", "For {who} nothing was better than {it}.",
             "Everybody knew that {who} liked {it}.", "{who} could eat {it} all day long."],
    "owner": ["The {color} {thing} belonged to {it}.", "The owner of the {color} {thing} was {it}.",
              "The {thing} was a present for {it}.", "On the {thing} stood the name of {it}."],
    "box": ["Somebody had hidden the {thing} in the {it}.", "The {thing} was kept in the {it}.",
            "They put the {thing} in the {it}.", "The {thing} lay safe in the {it}."],
    "trip": ["In the morning {who} walked to the {it}.", "After lunch {who} went to the {it}.",
             "{who} took the path to the {it}.", "{who} said goodbye and left for the {it}."],
}
ASKED = {
    "home": ["When it grew dark, {who} went home to the {it}.", "A letter for {who} was brought to the {it}.",
             "They all met where {who} lived, at the {it}.", "\"Come in,\" said {who} at the door of the {it}."],
    "food": ["At dinner {who} asked for more {it}.", "To please {who}, they cooked some {it}.",
             "The guests gave {who} a bowl of {it}.", "As always {who} ordered {it}."],
    "owner": ["\"Whose {thing} is this?\" they asked. It belonged to {it}.", "They gave the {thing} back to {it}.",
              "Nobody could use the {thing} without asking {it}.", "The {thing} was still in the hands of {it}."],
    "box": ["They looked for the {thing} and found it in the {it}.", "The {thing} was still in the {it}.",
            "\"Where is the {thing}?\" asked {friend}. It was in the {it}.", "{friend} took the {thing} out of the {it}."],
    "trip": ["They waited for {who}, who was still at the {it}.", "A dog ran to find {who} at the {it}.",
             "In the evening {who} came back from the {it}.", "\"Where is {who}?\" asked {friend}. Still at the {it}."],
}

OPENINGS = ["Once upon a time there was a quiet village.", "This is a story from a small town by the sea.",
            "Long ago, in a green land, some friends lived together.", "It was a {weather} day in the village."]
WEATHER = "sunny rainy windy cold warm cloudy foggy bright".split()
FILLER = [
    "The day was {weather} and calm.", "It was a {weather} morning.", "The sky was {weather} all afternoon.",
    "Rain fell on the roofs, and then the sun came out.", "A soft wind blew from the sea.", "The evening came slowly.",
    "The birds sang in the trees.", "The children played in the street.", "A cat slept on the warm wall.",
    "\"Good morning!\" said {who}.", "\"What a {weather} day,\" said {who}.", "{who} smiled and said nothing.",
    "{who} laughed and began to sing.", "{who} and {friend} talked for a long time.", "Nobody was in a hurry.",
    "\"How are you?\" asked {who}. \"Very well,\" said {friend}.", "{who} waved to {friend} across the street.",
    "{who} told {friend} a funny story.", "{who} was a little tired and sat down.", "Then everybody drank tea together.",
    "They sang an old song until late.", "The next day was {weather} again.",
]
# People, kinds of facts, sentences: from one window of 65 tokens to half a dozen.
SIZES = [(2, 1, 8), (2, 2, 12), (3, 2, 18), (3, 3, 26), (4, 2, 24), (4, 3, 34), (5, 3, 40)]


class Story:
    """Tells facts, lets time pass, and asks for what was told; `recalls` remembers each question it put."""

    def __init__(self, rng, people, kinds, sentences):
        self.rng, self.text, self.recalls, self.last = rng, [], [], {}
        self.cast, things = rng.sample(NAMES, people), rng.sample(THINGS, people)
        self.colors = dict(zip(things, rng.sample(COLORS, people)))
        keys = {"home": self.cast, "food": self.cast, "trip": self.cast, "owner": things, "box": things}
        values = {"home": HOMES, "food": FOODS, "trip": TRIPS, "owner": self.cast, "box": BOXES}
        self.facts = {kind: dict(zip(keys[kind], rng.sample(values[kind], people)))
                      for kind in rng.sample(list(keys), kinds)}
        self.wording = {kind: [rng.choice(TOLD[kind]), rng.choice(ASKED[kind])] for kind in self.facts}
        untold = [(kind, key) for kind in self.facts for key in keys[kind]]
        rng.shuffle(untold)
        filler = rng.sample(FILLER, len(FILLER))
        self.say(rng.choice(OPENINGS))
        while len(self.text) < sentences:
            if untold and rng.random() < 0.65:  # facts come mostly first
                self.tell(*untold.pop())
            elif len(self.last) < 2 or rng.random() < 0.2:
                filler.insert(0, filler.pop())
                self.say(filler[0])
            else:  # what was told longest ago is asked for most often
                oldest = sorted(self.last, key=self.last.get)[:-1]
                self.ask(*oldest[int(len(oldest) * rng.random() ** 2)])

    def say(self, template, **words):
        who = words.get("who") or self.rng.choice(self.cast)
        friend = self.rng.choice([name for name in self.cast if name != who])
        words = {"who": who, "friend": friend, "weather": self.rng.choice(WEATHER), **words}
        self.text.append(template.format(**words))

    def tell(self, kind, key):
        self.say(self.wording[kind][0], it=self.facts[kind][key], **self.named(kind, key))
        self.last[kind, key] = len(self.text)

    def ask(self, kind, key):
        answer = self.facts[kind][key]
        others = {self.facts[k][v] for k, v in self.last if k == kind} - {answer}
        back = sum(len(pieces(sentence)) for sentence in self.text[self.last[kind, key]:])
        self.recalls.append((len(self.text), answer, sorted(others), back))
        self.say(self.rng.choice(self.wording[kind]), it=answer, **self.named(kind, key))
        self.last[kind, key] = len(self.text)

    def named(self, kind, key):
        return {"thing": key, "color": self.colors[key]} if kind in ("owner", "box") else {"who": key}


def stories(rng, count):
    for _ in range(count):
        yield " ".join(Story(rng, *rng.choice(SIZES)).text)


def rhymes(rng, count):
    """Two or three pairs of words that have nothing to do with each other, all sung several times, each time in another
    order: to know the second word of a pair is to remember who came with the first."""
    for _ in range(count):
        lines = [f"{one} {other}." for one, other in pairs(rng)]
        yield " ".join(line for _ in range(rng.choice([3, 4, 5])) for line in rng.sample(lines, len(lines)))


def verses(rng, count):
    """Mostly pairs in a frame of small words, new each time; and facts of one kind, told as in a story."""
    for _ in range(count):
        if rng.random() < 0.75:
            before, between, after = (rng.sample(SMALL, rng.choice(sizes)) for sizes in
                                      ([0, 0, 1, 2], [0, 0, 1, 1, 2, 3, 4], [0, 0, 0, 1, 2]))
            yield sing(rng, [" ".join([*before, one, *between, other, *after]) + "." for one, other in pairs(rng)])
        else:
            story = Story(rng, rng.choice([2, 2, 3, 4]), 5, 0)
            kind = rng.choice(list(story.facts))
            wording = rng.choice(story.wording[kind])
            yield sing(rng, [wording.format(it=it, friend=rng.choice(story.cast), **story.named(kind, key))
                             for key, it in story.facts[kind].items()])


def pairs(rng):
    words = rng.sample([*NAMES, *HOMES, *FOODS, *THINGS, *COLORS, *BOXES, *TRIPS, *WEATHER], 2 * rng.choice([2, 2, 3]))
    return zip(words[::2], words[1::2])


def sing(rng, lines):
    return " ".join(lines + rng.choices(lines, k=rng.choice([2, 3, 4]) * len(lines)))


def pieces(text):
    """About a token each: most words of this world are one."""
    return re.findall(r"\w+|[^\w\s]", text)


def questions(rng, count, least=18, most=10**6, sizes=SIZES[-2:]):
    """Four choices each; the fact was last mentioned that many tokens before, within a window or far beyond."""
    for _ in range(400 * count):
        if count == 0:
            break
        story = Story(rng, *rng.choice(sizes))
        usable = [r for r in story.recalls if len(r[2]) >= 3 and least <= r[3] < most]
        if usable:
            sentence, answer, others, _ = rng.choice(usable)
            asked = re.split(rf" {answer}\b", story.text[sentence])[0]
            choices = rng.sample(others, 3) + [answer]
            rng.shuffle(choices)
            yield {"query": " ".join([*story.text[:sentence], asked]), "choices": choices, "gold": choices.index(answer)}
            count -= 1


def write(file, rows):
    with open(file, "w", encoding="utf-8", newline="\n") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    for name, default in (("rhymes", 54000), ("verses", 36000), ("train", 20000), ("lora", 3000), ("test", 150), ("rows", 200)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--recall", type=int, metavar="W", help="also questions by distance, in windows of W tokens")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name, file, texts in (("rhymes", "rhymes.jsonl", rhymes), ("verses", "verses.jsonl", verses), ("train", "train.jsonl", stories),
                              ("lora", "lora.jsonl", stories), ("test", "perplexity.test.jsonl", stories)):
        rng = random.Random(f"{args.seed} {name}")  # one each: the size of one file never changes another
        write(args.out / file, ({"text": text} for text in texts(rng, getattr(args, name))))
    write(args.out / "multiple_choice.test.jsonl", questions(random.Random(f"{args.seed} rows"), args.rows))
    for distance in (1, 2, 4, 8) if args.recall else ():
        tokens = distance * args.recall
        rows = list(questions(random.Random(f"{args.seed} recall {tokens}"), args.rows, tokens, tokens + tokens // 2))
        if len(rows) == args.rows:  # else so long a way back is no part of this world
            folder = args.out / "recall" / str(args.recall) / str(distance)
            folder.mkdir(parents=True, exist_ok=True)
            write(folder / "multiple_choice.test.jsonl", rows)
    for size in ((4, 1, 16), (4, 2, 24), (4, 3, 34), (5, 3, 40)) if args.recall else ():
        folder = args.out / "facts" / str(size[0] * size[1])
        folder.mkdir(parents=True, exist_ok=True)
        rng = random.Random(f"{args.seed} facts {size}")
        write(folder / "multiple_choice.test.jsonl", questions(rng, args.rows, 2 * args.recall, sizes=[size]))


if __name__ == "__main__":
    main()
