#!/usr/bin/env python3
"""Makes the benchmark tasks: countdown, sorting, chain sums, spelling; as many of each, the same for the same seed.

usage: benches/make_tasks.py [--seed N] [--each N] > tasks.jsonl
Each line: id, category, question, answer, verifier (see src/grade.rs), and `check`, what benches/verify.py needs to judge
an answer without knowing it. A question says how to answer; the prompt of benches/strategies.infer shows one answer of each kind.
Each family goes from easy to hard, so that a small model solves some and not all.
"""
import argparse
import itertools
import json
import random

WORDS = """apple bridge candle dragon engine forest garden hammer island jacket kitten ladder market needle orange pencil
rabbit silver tunnel umbrella violin window yellow zebra anchor basket camera desert eleven falcon guitar helmet insect
jungle kettle lemon magnet number ocean planet quarter rocket school temple uncle valley winter pillow bottle sun map cat
tree lamp fish bird hand door milk rain""".split()
NAMES = ["", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth"]


def countdown(rng):
    """Two or three small numbers; sums, differences and products of them. Many expressions are right."""
    while True:
        numbers = [rng.randint(2, 12) for _ in range(rng.choice([2, 3]))]
        order = rng.sample(numbers, len(numbers))
        signs = [rng.choice("+-*") for _ in order[1:]]
        text = str(order[0])
        for sign, number in zip(signs, order[1:]):
            text = f"({text}){sign}{number}"
        target = eval(text)  # noqa: S307 - our own small numbers
        if 2 <= target <= 99 and target not in numbers:
            question = (
                f"Use the numbers {', '.join(map(str, numbers))}, each at most once, and + - * to make {target}. Reply with "
                f"one equation only."
            )
            return question, str(target), "countdown", {"numbers": numbers, "target": target}


def sorting(rng):
    """Four to nine numbers below 100."""
    numbers = rng.sample(range(1, 100), rng.randint(4, 9))
    question = f"Sort these numbers from smallest to largest: {', '.join(map(str, numbers))}. Reply with the sorted list only."
    return question, ", ".join(map(str, sorted(numbers))), "intlist", {"numbers": numbers}


def chain_sum(rng):
    """Two to four numbers of one or two digits, added and subtracted."""
    digits = rng.choice([9, 99])
    terms = [rng.randint(1, digits) for _ in range(rng.randint(2, 4))]
    text, total = str(terms[0]), terms[0]
    for term in terms[1:]:
        sign = rng.choice("+-")
        text += f" {sign} {term}"
        total += term if sign == "+" else -term
    return f"What is {text}? Reply with the number only.", str(total), "int", {"expression": text}


def spelling(rng):
    """A letter of a word by its place, or the word backwards."""
    word = rng.choice(WORDS)
    if rng.choice(["reverse", "letter"]) == "reverse":
        question = f"Write the word '{word}' backwards. Reply with one word only."
        return question, word[::-1], "word", {"reverse": word}
    i = rng.randint(1, len(word))
    question = f"What is the {NAMES[i]} letter of the word '{word}'? Reply with one letter only."
    return question, word[i - 1], "word", {"letter": word, "index": i}


def tasks(seed, each):
    rng = random.Random(seed)
    kinds = [("countdown", countdown), ("sorting", sorting), ("chain_sum", chain_sum), ("spelling", spelling)]
    for i, (name, make) in itertools.product(range(each), kinds):
        question, answer, verifier, check = make(rng)
        task = {"id": f"{name}-{i:03}", "category": name, "question": question, "answer": answer, "verifier": verifier}
        if name == "countdown":
            task["numbers"] = check["numbers"]
        task["check"] = json.dumps({"kind": name, **check})
        yield task


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--each", type=int, default=100)
    args = parser.parse_args()
    for task in tasks(args.seed, args.each):
        print(json.dumps(task))


if __name__ == "__main__":
    main()
