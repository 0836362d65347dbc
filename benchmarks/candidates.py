"""Wrong answers that the data sets' rules make, for a human to read, with counts and times.

    python benchmarks/candidates.py path/to/data     # writes benchmarks/candidates.txt

The folder holds the five sets as their authors publish them: gsm8k/test.jsonl, math/test500.jsonl,
musique/dev_sample.jsonl, ar_lsat/AR_DevelopmentData.json, strategyqa/dev.json (which proposes no answers).
"""

import argparse
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import nasa_interp as ni
from nasa_interp.questions import QuestionList
from nasa_interp.run import write_text

FILES = {
    "gsm8k": "gsm8k/test.jsonl",
    "math": "math/test500.jsonl",
    "musique": "musique/dev_sample.jsonl",
    "ar_lsat": "ar_lsat/AR_DevelopmentData.json",
}
SHOWN, WIDTH = 50, 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("candidates.txt"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    parts = [section(name, options.folder / file, options.seed) for name, file in FILES.items()]
    write_text(options.out, "\n\n".join(parts) + "\n")


def section(name: str, path: Path, seed: int) -> str:
    """One data set: how many, how long, by which rules, what was left out, and some candidates."""
    start = time.perf_counter()
    questions = ni.load_questions(f"{name}:{path}#seed={seed}")
    seconds = time.perf_counter() - start
    wrong = [q for q in questions if q.label is False]
    rules = ", ".join(f"{rule} {n}" for rule, n in Counter(q.made for q in wrong).most_common())
    head = f"{name}: {len(wrong)} rows in {seconds:.1f} s, {len(questions.skipped)} left out; made by {rules}"
    print(head)
    left = [f"  left out: {skipped.reason}" for skipped in questions.skipped]
    return "\n".join([f"# {head}", *left, *lines(questions)])


def lines(questions: QuestionList) -> Iterator[str]:
    """Some questions, evenly from the whole set: the end of each, the right answer, the wrong one and its rule."""
    right = {q.pair: proposed(q.question)[1] for q in questions if q.label}
    wrong = [q for q in questions if q.label is False]
    for q in wrong[:: max(1, len(wrong) // SHOWN)][:SHOWN]:
        question, answer = proposed(q.question)
        short = " ".join(question.split())
        yield f"{'...' * (len(short) > WIDTH)}{short[-WIDTH:]}\n    {right[q.pair]}  |  {answer}  ({q.made})"


def proposed(question: str) -> tuple[str, str]:
    """Question and proposed answer."""
    head, _, tail = question.rpartition("\nProposed answer: ")
    return head, tail.rpartition("\n")[0]


if __name__ == "__main__":
    main()
