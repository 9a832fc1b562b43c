#!/usr/bin/env python3
"""Makes tests/golden/task/harness.jsonl: what lm-evaluation-harness 0.4.13 (PyPI: lm_eval, torch,
transformers) asks of a model, and what it makes of the answers, for a few rows of each kind of task on
the small model of the quickstart.

    python3 tests/golden/task/make_fixture.py

A line is one problem: the row, the requests as the harness made them (context, continuation), the
model's log-likelihoods or answer, and the harness's results. The rows are made up for this purpose. The
model has 128 positions, of which the harness is told 127: it counts the token that is predicted and not
read apart."""

import importlib.machinery
import importlib.util
import json
import pathlib

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent.parent

ARC = [
    {"id": "a", "question": "Which of these melts first?", "answerKey": "B",
     "choices": {"text": ["iron", "ice", "stone", "glass"], "label": ["A", "B", "C", "D"]}},
    {"id": "b", "question": "What do plants need?", "answerKey": "3",
     "choices": {"text": ["a clock", "moon", "light and water"], "label": ["1", "2", "3"]}},
    {"id": "c", "question": "Wie heißt der größte Planet? ", "answerKey": "A",
     "choices": {"text": ["Jüpiter", "Mars", "Venus ist größer", "é", "the sun"],
                 "label": ["A", "B", "C", "D", "E"]}},
]
WINOGRANDE = [
    {"sentence": "The cup did not fit into the box because the _ was too small.",
     "option1": "cup", "option2": "box", "answer": "2"},
    {"sentence": "Ann called Eve, but _  was not at home.", "option1": "Ann", "option2": "Eve",
     "answer": "2"},
    {"sentence": "The rope held the stone because the _ was strong .", "option1": "rope",
     "option2": "stone", "answer": "1"},
]
HELLASWAG = [
    {"activity_label": "Baking bread", "ctx_a": "A man kneads dough.", "ctx_b": "he then", "label": "1",
     "endings": ["flies away.", "puts it into the oven.", "[substeps] sings  loudly.", "sleeps."]},
    {"activity_label": "Finance", "ctx_a": "[header] How to save [title] Open an account. [step] Go.",
     "ctx_b": "", "label": "0",
     "endings": ["Put money in. [title] Wait.", "Throw it away.", "Eat it.", "Paint it."]},
]
MMLU = [
    {"question": "Which is nearest to the sun? ", "subject": "astronomy",
     "choices": ["Mars", "Venus", "Mercury", "Earth"], "answer": 2},
    {"question": "What is a star?", "subject": "astronomy",
     "choices": ["a rock", "hot gas", "ice", "wood"], "answer": 1},
]
MMLU_DEV = [
    {"question": "One?", "subject": "astronomy", "choices": ["a", "b", "c", "d"], "answer": 3},
    {"question": "Two?", "subject": "astronomy", "choices": ["e", "f", "g", "h"], "answer": 0},
]
TRUTHFULQA = [
    {"question": "Is the moon made of cheese?",
     "mc1_targets": {"choices": ["No.", "Yes.", "Only half of it."], "labels": [1, 0, 0]},
     "mc2_targets": {"choices": ["No.", "It is rock.", "Yes.", "Only half of it."],
                     "labels": [1, 1, 0, 0]}},
    {"question": "Do goldfish remember?",
     "mc1_targets": {"choices": ["They do for months.", "For three seconds."], "labels": [1, 0]},
     "mc2_targets": {"choices": ["They do for months.", "Yes.", "For three seconds.", "Never."],
                     "labels": [1, 1, 0, 0]}},
]
GSM8K = [
    {"question": "Sort: pear apple fig", "answer": "Two and two.\n#### 1,004"},
    {"question": "Sort: b c a", "answer": "#### 7"},
]
# Answers as models write them, with what the harness's filters and metric make of them.
ANSWERS = [
    ("So it is $1,004.\n#### 1,004", "x\n#### 1004"), ("The answer is 18.", "#### 18"),
    ("#### 18.", "#### 18"), ("#### -3 and then 5", "#### -3"), ("nothing", "#### 2"),
    ("He pays $2.50 and 7", "#### 7"), ("1. 2. 3.", "#### 3"), ("#### 12 #### 13", "#### 12"),
    ("costs 5$. $", "#### 5"), ("", "#### 0"), ("Ünï 42 ½", "#### 42"),
]


def load_comparison():
    path = str(HERE / "compare_with_lm_eval")
    loader = importlib.machinery.SourceFileLoader("comparison", path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("comparison", loader))
    loader.exec_module(module)
    return module


def harness(name, rows, model, fewshot=0, dev=None):
    import datasets
    from lm_eval import evaluator

    def splits(*_, **__):
        table = datasets.Dataset.from_list(rows)
        all_splits = {s: table for s in ("train", "validation", "test")}
        if dev:
            all_splits["dev"] = datasets.Dataset.from_list(dev)
        return datasets.DatasetDict(all_splits)

    real, datasets.load_dataset = datasets.load_dataset, splits
    try:
        result = evaluator.simple_evaluate(model=model, tasks=[name], num_fewshot=fewshot,
                                           bootstrap_iters=0, log_samples=True, batch_size=1)
    finally:
        datasets.load_dataset = real
    samples = {}
    for sample in result["samples"][name]:
        samples.setdefault(sample["doc_id"], []).append(sample)
    return [samples[i] for i in sorted(samples)], result["results"][name]


def requests_of(sample):
    arguments = sample["arguments"]
    values = list(arguments.values()) if isinstance(arguments, dict) else arguments
    pairs = [list(v.values()) if isinstance(v, dict) else list(v) for v in values]
    return [[p[0], p[1] if isinstance(p[1], str) else None] for p in pairs]


def main():
    from lm_eval.filters.extraction import RegexFilter
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.models.huggingface import HFLM

    comparison = load_comparison()
    model = HFLM(pretrained=str(ROOT / "deploy/quickstart.d/base"), dtype="float32", device="cpu",
                 batch_size=1, max_length=127)
    lines = []
    for task, name, rows, fewshot, dev in (
            ("arc_challenge", "arc_challenge", ARC, 0, None),
            ("winogrande", "winogrande", WINOGRANDE, 0, None),
            ("hellaswag", "hellaswag", HELLASWAG, 0, None),
            ("mmlu", "mmlu_astronomy", MMLU, 2, MMLU_DEV),
            ("truthfulqa_mc1", "truthfulqa_mc1", TRUTHFULQA, 0, None),
            ("truthfulqa_mc2", "truthfulqa_mc2", TRUTHFULQA, 0, None)):
        samples, result = harness(name, [dict(r) for r in rows], model, fewshot, dev)
        for number, (row, sample) in enumerate(zip(rows, samples, strict=True)):
            metrics = {m: float(sample[0][m]) for m in ("acc", "acc_norm") if m in sample[0]}
            lines.append({"task": task, "number": number, "row": row,
                          "requests": requests_of(sample[0]),
                          "loglikelihoods": comparison.lls_of(sample[0]), "metrics": metrics})
        lines.append({"task": task, "results": {k: v for k, v in result.items()
                                                if isinstance(v, float)}})
    # 128 − 64 new tokens leave room for the prompts.
    model = HFLM(pretrained=str(ROOT / "deploy/quickstart.d/base"), dtype="float32", device="cpu",
                 batch_size=1, max_length=320)
    samples, _ = harness("gsm8k", [dict(r) for r in GSM8K], model)
    for number, (row, pair) in enumerate(zip(GSM8K, samples, strict=True)):
        lines.append({"task": "gsm8k", "number": number, "row": row,
                      "requests": requests_of(pair[0])})
    patterns = (("strict", r"#### (\-?[0-9\.\,]+)", 0), ("flexible", r"(-?[$0-9.,]{2,})|(-?[0-9]+)", -1))
    ignore = [",", "\\$", "(?s).*#### ", "\\.$"]
    for text, target in ANSWERS:
        line = {"task": "answers", "answer": text, "target": target}
        for name, pattern, select in patterns:
            found = RegexFilter(pattern, select).apply([[text]], [{}])
            found = list(found)[0][0]
            score = exact_match_hf_evaluate([found], [target], regexes_to_ignore=ignore,
                                            ignore_case=True, ignore_punctuation=False)
            line[name] = [found, float(score["exact_match"])]
        lines.append(line)
    with open(HERE / "harness.jsonl", "w", encoding="utf-8") as out:
        for line in lines:
            out.write(json.dumps(line, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
