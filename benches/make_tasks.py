#!/usr/bin/env python3
"""Makes the benchmark tasks: countdown, sorting, chain sums, spelling; 100 of each, the same for the same seed.

usage: benches/make_tasks.py [--seed N] [--each N] > tasks.jsonl
Each line: id, category, question, answer, verifier (see src/grade.rs), and `check`, what benches/verify.py needs to judge
an answer without knowing it.
"""
import argparse
import itertools
import json
import random

WORDS = """apple bridge candle dragon engine forest garden hammer island jacket kitten ladder market needle orange pencil
rabbit silver tunnel umbrella violin window yellow zebra anchor basket camera desert eleven falcon guitar helmet insect
jungle kettle lemon magnet number ocean planet quarter rocket school temple uncle valley winter pillow bottle""".split()


def countdown(rng):
    while True:
        numbers = [rng.randint(2, 12) for _ in range(3)]
        a, b, c = rng.sample(numbers, 3)
        op1, op2 = rng.choice("+-*"), rng.choice("+-*")
        target = eval(f"({a}{op1}{b}){op2}{c}")  # noqa: S307 - our own small numbers
        if 2 <= target <= 99 and target not in numbers:
            question = (
                f"Use the numbers {', '.join(map(str, numbers))}, each at most once, and + - * / to make {target}. "
                f"Reply with one equation only, for example: 2 * 3 + 4 = 10"
            )
            return question, str(target), "countdown", {"numbers": numbers, "target": target}


def sorting(rng):
    numbers = rng.sample(range(1, 100), rng.randint(6, 9))
    question = f"Sort these numbers from smallest to largest: {', '.join(map(str, numbers))}. Reply with the list only."
    return question, ", ".join(map(str, sorted(numbers))), "intlist", {"numbers": numbers}


def chain_sum(rng):
    terms = [rng.randint(10, 99) for _ in range(rng.randint(3, 4))]
    text = str(terms[0])
    total = terms[0]
    for t in terms[1:]:
        sign = rng.choice("+-")
        text += f" {sign} {t}"
        total += t if sign == "+" else -t
    return f"What is {text}? Reply with the number only.", str(total), "int", {"expression": text}


def spelling(rng):
    word = rng.choice(WORDS)
    kind = rng.choice(["reverse", "letter"])
    if kind == "reverse":
        return f"Write the word '{word}' backwards. Reply with one word only.", word[::-1], "word", {"reverse": word}
    i = rng.randint(2, len(word))
    names = ["", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth"]
    return f"What is the {names[i]} letter of the word '{word}'? Reply with one letter only.", word[i - 1], "word", {"letter": word, "index": i}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--each", type=int, default=100)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    kinds = [("countdown", countdown), ("sorting", sorting), ("chain_sum", chain_sum), ("spelling", spelling)]
    for i, (name, make) in itertools.product(range(args.each), kinds):
        question, answer, verifier, check = make(rng)
        task = {"id": f"{name}-{i:03}", "category": name, "question": question, "answer": answer, "verifier": verifier}
        if "numbers" in check and name == "countdown":
            task["numbers"] = check["numbers"]
        task["check"] = json.dumps({"kind": name, **check})
        print(json.dumps(task))


if __name__ == "__main__":
    main()
