"""Rows for every task of liger-eval, and definitions of the same tasks for lm-evaluation-harness that read them."""
import json
import random

NAMES = ["Ada", "Bruno", "Chén", "Dora", "Émile", "小明", "Ὀδυσσεύς", "ΣΊΣΥΦΟΣ"]
THINGS = ["rope", "lantern", "map", "drum", "bag of salt", "naïve plan", "kite 🙂"]
PLACES = ["the old mill", "the harbour", "a quiet forest", "the north gate", "São Paulo"]
SUBJECTS = ["abstract_algebra", "us_foreign_policy", "world_religions"]


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
    return {"id": "x", "question_stem": question(rng), "choices": choices, "answerKey": rng.choice(["", " "]) + key}


def hellaswag(rng):
    marks = ["", " [title]", "[step] ", " [title] [substeps] ", "[a\nb]", "[]", "  ", "   "]
    ending = lambda: rng.choice(marks) + sentence(rng).lower() + rng.choice(marks) + rng.choice(["", ".", " "])
    return {"ind": rng.randint(0, 99), "activity_label": rng.choice(["Sailing", "Baking 🍞", " Chess"]),
            "ctx_a": rng.choice(marks) + sentence(rng) + ".", "ctx_b": rng.choice(["", "then", "ǆ ΤΈΛΟΣ Ends", "ßTop"]),
            "endings": [ending() for _ in range(4)], "label": str(rng.randint(0, 3))}


def winogrande(rng):
    one, two = rng.sample(NAMES, 2)
    return {"sentence": f"{one} met {two} at {rng.choice(PLACES)} because _ {rng.choice(['', ' '])}lost the "
                        f"{rng.choice(THINGS)}{rng.choice(['.', '. ', ', _ said.'])}",
            "option1": one, "option2": two, "answer": rng.choice("12")}


def mmlu(rng):
    return {"question": rng.choice(["", " ", "\n"]) + question(rng), "subject": "any", "choices": answers(rng, 4),
            "answer": rng.randint(0, 3)}


def lambada(rng):
    return {"text": f"{sentence(rng)}. {sentence(rng)}", "domain": None}


def wikitext(rng):
    parts = [" \n = Title = \n \n", " It was 1 @,@ 500 @-@ 2 @.@ 5 m ( a b ) long ; \" so \" they said : yes . \n",
             " = = Part = = \n", " He 's [ x ] { y } ' z ' and /' 5/ 5 ° C , N of it ! \n", " = = = Deep = = = \n",
             f" {sentence(rng)} . the dogs ' tails ? \n"]
    return {"page": "".join(rng.choice(parts) for _ in range(rng.choice([1, 4, 12, 60])))}


def multiple_choice(rng):
    count = rng.randint(2, 5)
    return {"query": question(rng), "choices": answers(rng, count), "gold": rng.randrange(count)}


def own(rng):
    count = rng.randint(2, 4)
    return {"story": sentence(rng), "hints": [rng.choice(THINGS) for _ in range(rng.randint(0, 3))],
            "options": {"a": answers(rng, count)}, "best": rng.choice(["ABCD"[:count]][0]), "hard": rng.random() < 0.5}


# One file that both programs read: templates with conditions and loops, a description, choices that are made.
OWN_TASK = {
    "output_type": "multiple_choice", "training_split": "train", "test_split": "test",
    "description": "Choose{% if hard %} with care{% endif %}.\n\n",
    "doc_to_text": "{# shown #}{{ story|trim }}.{% for hint in hints -%}\n {{ loop.index }}) {{ hint|upper }}"
                   "{%- else %} none{%- endfor %}\n{{ 'Hard' if hard else 'Easy' }} {{ hints|length + 1 }}{{ story[-3:] }}:",
    "doc_to_choice": "{{ options.a }}", "doc_to_target": "{{ 'ABCD'.index(best) }}",
    "target_delimiter": "\n", "fewshot_delimiter": "\n--\n",
    "metric_list": [{"metric": m, "aggregation": "mean", "higher_is_better": True}
                    for m in ("acc", "acc_norm", "acc_bytes", "exact_match")],
    "metadata": {"version": 3}}
OWN_TASK["doc_to_text"] = OWN_TASK["doc_to_text"].replace("{%- else %} none{%- endfor %}", "{%- endfor %}")
PLAIN_TASK = {"output_type": "multiple_choice", "training_split": "train", "test_split": "test", "doc_to_text": "query",
              "doc_to_choice": "choices", "doc_to_target": "gold", "metadata": {"version": 1.0},
              "metric_list": [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in ("acc", "acc_norm")]}

TASKS = {  # name: (row, scored split, split of examples, lm-evaluation-harness's own file or a definition)
    "piqa": (piqa, "validation", "train", "piqa/piqa.yaml"),
    "arc_easy": (arc, "test", "train", "arc/arc_easy.yaml"),
    "arc_challenge": (arc, "test", "train", "arc/arc_challenge.yaml"),
    "openbookqa": (openbookqa, "test", "train", "openbookqa/openbookqa.yaml"),
    "hellaswag": (hellaswag, "validation", "train", "hellaswag/hellaswag.yaml"),
    "winogrande": (winogrande, "validation", "train", "winogrande/default.yaml"),
    **{f"mmlu_{s}": (mmlu, "test", "dev", f"mmlu/default/mmlu_{s}.yaml") for s in SUBJECTS},
    "lambada_openai": (lambada, "test", "test", "lambada/lambada_openai.yaml"),
    "wikitext": (wikitext, "test", "test", "wikitext/wikitext.yaml"),
    "multiple_choice": (multiple_choice, "test", "train", PLAIN_TASK),
    "own": (own, "test", "train", OWN_TASK),
}
GROUP = {"group": "subjects", "task": [f"mmlu_{s}" for s in SUBJECTS],
         "aggregate_metric_list": [{"metric": "acc", "aggregation": "mean", "weight_by_size": True}],
         "metadata": {"version": 2}}


def write_rows(file, rows):
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def make_rows(folder, count):
    """DIR/{task}.{split}.jsonl of every task; sizes differ from task to task."""
    folder.mkdir(parents=True)
    for seed, (name, (row, split, examples, _)) in enumerate(TASKS.items()):
        rng = random.Random(seed)
        pool = [row(rng) for _ in range(max(count, 9))]
        scored = [row(rng) for _ in range(count + seed % 3)]
        if name != "wikitext":
            scored[1] = pool[3]  # a document that is one of the examples, and several times
            pool[5] = pool[7] = pool[3]
        if examples != split:
            write_rows(folder / f"{name}.{examples}.jsonl", pool)
        write_rows(folder / f"{name}.{split}.jsonl", scored)
    rng = random.Random(99)
    texts = [". ".join(sentence(rng) for _ in range(rng.choice([1, 3, 40]))) + "." for _ in range(max(3, count // 4))]
    write_rows(folder / "perplexity.test.jsonl", [{"text": text} for text in texts])
    return texts


def make_definitions(data, folder, harness):
    """lm-evaluation-harness's definitions under the same names, pointed at the rows. JSON is YAML."""
    folder.mkdir()
    for name, (_, split, examples, source) in TASKS.items():
        definition = {"include": str(harness / source)} if isinstance(source, str) else dict(source)
        files = {s: str(data / f"{name}.{s}.jsonl") for s in {split, examples}}
        if isinstance(source, str) and split == "test":
            definition["validation_split"] = None
        definition |= {"task": name, "tag": None, "dataset_path": "json", "dataset_name": None,
                       "dataset_kwargs": {"data_files": files}}
        if name == "wikitext":
            definition["training_split"] = None
        (folder / f"{name}.yaml").write_text(json.dumps(definition))
    (folder / "subjects.yaml").write_text(json.dumps(GROUP))


def make_own(folder):
    """What liger-eval needs beside its built-in tasks."""
    folder.mkdir(parents=True)
    (folder / "own.yaml").write_text(json.dumps({"task": "own", **OWN_TASK}, indent=1))
    (folder / "subjects.yaml").write_text(json.dumps(GROUP, indent=1))
