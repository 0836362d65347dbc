"""Rows in the formats of the public data sets, written for these tests, and files of them."""

import json

GSM8K = [
    {
        "question": "Ida has 1,200 beans and eats 300 a day for 2 days. How many are left?",
        "answer": "She eats 300*2=<<300*2=600>>600 beans.\nAnd 600+400=<<600+400=1000>>1000 it is.\n#### 1,000",
    },
    {"question": "Tom has 3 caps and buys 4. How many has he?", "answer": "3+4=<<3+4=7>>7\n#### 7"},
    {"question": "It was 2 degrees and fell by 5. How warm is it?", "answer": "2-5=<<2-5=-3>>-3\n#### -3"},
]

ANSWERS = [
    r"11\sqrt2", "3, 5, 7", r"\frac{14}{3}", r"\frac43", "(3,4]", r"\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix}",
    r"\text{east}", r"90^\circ", r"\left( 3, \frac{\pi}{2} \right)", "x^2 - 3x + 1", r"1 \pm \sqrt{19}",
    r"\{1\pm\sqrt{5},-2\}", "52_8", r"\pi", "p - q", r"10,\!080", r"\$18.90", r"\text{(C)}",
    r"864 \mbox{ inches}^2", r"(-\infty, 2) \cup (3, \infty)", r"\cot x", "0", r"1\frac{4}{5}", ".35625",
    "y = 2x + 3", "2k", "58,500", "-50", "5r^5", r"\text{even}", "1", r"x \in [-2,7]",
]  # fmt: skip
MATH = [
    {
        "problem": f"What is the value in problem {number}?",
        "solution": rf"First \boxed{{0}}, or rather $\boxed{{{answer}}}$.",
        "answer": answer,
        "subject": "Algebra" if number % 2 else "Geometry",
        "level": 1 + number % 5,
        "unique_id": f"test/algebra/{number}.json",
    }
    for number, answer in enumerate(ANSWERS)
]


def _paragraphs(answer):
    texts = {
        "Adam Brook": "Adam Brook (born 4 May 1931) is an Irish actor. He married Ruth Vale in 1962, in Oldham.",
        answer: f"{answer} is the sister of Carl Stone, the singer. She was born on 12 June 1940.",
        "Fennel County": "Fennel County is a county in Ohio. In 1975 it had 4,210 people.",
        "Miles Hart": "Miles Hart was an English painter. He moved to Lund on 3 March 1955, and had 17 pupils.",
        "Ashdown County": "Ashdown County is a county with 5,120 people.",
        "Wet Stones": "Wet Stones is a 1988 album by Carl Stone.",
    }
    return [
        {"idx": i, "title": title, "paragraph_text": text, "is_supporting": i < 2}
        for i, (title, text) in enumerate(texts.items())
    ]


def _musique(number, question, answer, last, aliases=()):
    return {
        "id": f"2hop__{number}_1",
        "paragraphs": _paragraphs("Ruth Vale"),
        "question": question,
        "question_decomposition": [
            {"id": 1, "question": "Who sang Wet Stones?", "answer": "Carl Stone", "paragraph_support_idx": 5},
            {"id": 2, "question": last, "answer": answer, "paragraph_support_idx": 1},
        ],
        "answer": answer,
        "answer_aliases": list(aliases),
        "answerable": True,
    }


MUSIQUE = [
    _musique(1, "Who is the sister of the singer of Wet Stones?", "Ruth Vale", "#1 >> sibling", ["Ruth V.", "R. Vale"]),
    _musique(2, "Where does it lie?", "Fennel County", "#1 >> located in the administrative territorial entity"),
    _musique(3, "When did they marry?", "1962", "When did #1 marry?"),
    _musique(4, "When was she born?", "12 June 1940", "When was #1 born?"),
    _musique(5, "How many live there?", "4,210", "What was the population of #1?"),
    _musique(6, "How often did it rain?", "three times in a week", "How often?"),
]

AR_LSAT = [
    {
        "id": "p1",
        "passage": "Three boats, A, B and C, land one after another. A lands before B.",
        "questions": [
            {
                "id": f"p1_{number}",
                "question": "Which one of the following could be true?",
                "options": [f"{boat} lands {place}." for boat, place in zip("ABCAB", "13321", strict=True)],
                "answer": letter,
            }
            for number, letter in enumerate("AC")
        ],
    }
]


def write_lines(path, rows):
    """A file of JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_sets(folder):
    """All four sets; a dict of data specifications."""
    (folder / "ar.json").write_text(json.dumps(AR_LSAT))
    return {
        "gsm8k": f"gsm8k:{write_lines(folder / 'gsm8k.jsonl', GSM8K)}",
        "math": f"math:{write_lines(folder / 'math.jsonl', MATH)}",
        "musique": f"musique:{write_lines(folder / 'musique.jsonl', MUSIQUE)}",
        "ar_lsat": f"ar_lsat:{folder / 'ar.json'}",
    }
