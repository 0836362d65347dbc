"""The documentation's table of errors is the code's, every error says what to do, and real errors are found in it."""

import subprocess
import sys
from pathlib import Path

import pytest
from families import tiny_model, tiny_tokenizer

import nasa_interp as ni
from nasa_interp import PromptStyle, build_prompts, load_model, load_questions
from nasa_interp.errors import NasaInterpError
from nasa_interp.heads import HeadList

DOCS = Path(__file__).parents[1] / "docs"
sys.path.insert(0, str(DOCS))
import build_errors  # noqa: E402


def test_the_table_is_the_codes():
    assert build_errors.table() == build_errors.TABLE.read_text(encoding="utf-8"), "run `make errors`"


def test_the_table_holds_every_error_that_is_raised():
    """Against a plain count of the text, which knows nothing of how the table is made."""
    found = subprocess.run(
        ["grep", "-rhoE", r"raise [A-Z][A-Za-z]*Error\(", str(build_errors.PACKAGE)], capture_output=True, text=True
    )
    kinds = [line.removeprefix("raise ").rstrip("(") for line in found.stdout.splitlines()]
    raised = [kind for kind in kinds if kind in build_errors.kinds()]
    listed = [entry for entry in build_errors.entries() if entry.kind in build_errors.kinds()]
    assert len(listed) >= len(raised) > 200


def test_the_table_holds_every_loaders_errors():
    """Their words stand in the calls of shared frames: each call is a row of its own, and the frames are none."""
    frames = "|".join(build_errors.FRAMES)
    found = subprocess.run(
        ["grep", "-rhoE", rf"({frames})\(", str(build_errors.PACKAGE)], capture_output=True, text=True
    )
    calls = len(found.stdout.splitlines()) - len(build_errors.FRAMES)
    entries = list(build_errors.entries())
    listed = [e for e in entries if " does not hold " in e.cause or e.cause.endswith(" is damaged (<error>)")]
    # Means are no JSON: their loader words its error itself.
    assert len([e for e in listed if not e.place.startswith("interventions.")]) == calls > 20
    assert not [e for e in entries if e.place.rpartition(".")[2] in build_errors.FRAMES]
    assert all(e.remedy and "<again>" not in e.remedy and "<what>" not in e.cause for e in listed)


@pytest.mark.parametrize("entry", list(build_errors.entries()), ids=lambda entry: f"{entry.place}: {entry.cause[:30]}")
def test_every_error_says_what_to_do(entry):
    # Where the reason is another part's, so is the way out.
    assert entry.remedy or entry.cause.endswith(">"), entry


RAISED = {
    "no data": lambda model: load_questions("foo"),
    "no split": lambda model: load_questions("builtin:verify#train"),
    "no model": lambda model: load_model("./nowhere"),
    "no tokenizer": lambda model: load_model(model.hf),
    "no candidates": lambda model: PromptStyle(yes="", no="No"),
    "twice a candidate": lambda model: build_prompts(
        model, load_questions("builtin:verify#val", 2), style=PromptStyle("Yes or No? No!")
    ),
    "no head": lambda model: HeadList.of(["x"]),
    "outside": lambda model: ni.ablation_effect(model, "builtin:verify#val", ["9.9"], limit=2, progress=False),
    "no projection": lambda model: ni.Recipe(heads_at_once=0),
    "seed": lambda model: ni.decide(model, "builtin:verify#val", seed=-1),
    "no file": lambda model: HeadList.load("nowhere.json"),
    "rate": lambda model: ni.Recipe(learning_rate=0.0),
}


@pytest.mark.parametrize("case", RAISED)
def test_what_a_user_reads_stands_in_the_table(case):
    model = load_model(tiny_model("llama"), tokenizer=tiny_tokenizer())
    with pytest.raises(NasaInterpError) as raised:
        RAISED[case](model)
    kinds = {cls.__name__ for cls in type(raised.value).__mro__}
    rows = [entry for entry in build_errors.entries() if entry.kind in kinds or entry.kind == "error"]
    assert any(entry.cause.strip("<>") and entry.pattern.fullmatch(str(raised.value)) for entry in rows), raised.value


def test_warnings_point_at_the_users_line(tmp_path) -> None:
    """In an interpreter without the shape checks of these tests, whose frames lie between."""
    script = tmp_path / "script.py"
    script.write_text(
        "from nasa_interp.errors import warn_user\n"
        "ours = {'__name__': 'nasa_interp.somewhere', 'warn_user': warn_user}\n"
        "exec('def inner(): warn_user(\"watch out\")\\ndef verb(): inner()', ours)\n"
        "ours['verb']()\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert f"{script}:4: UserWarning: watch out" in done.stderr
