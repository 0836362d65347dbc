"""The explorer in a real JupyterLab in headless Chromium: first paint, a click, and an intervention, in milliseconds.

python benchmarks/explorer.py --out benchmarks/explorer.json    # needs jupyterlab and a Chromium

Scores are computed before; a click is on a head of the shown prompt, whose heads are kept. Times are the page's own,
from the click (or the cell's start) to the frame after the page has changed, through server, kernel and back.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import lab
from browser import Browser, Page, find_chromium

CELLS = [
    "import nasa_interp as ni\nmodel = ni.load_model('demo')\n"
    "questions = ni.load_questions('builtin:verify#val', limit=16)\n"
    "scores = ni.score_heads(model, questions, progress=False)\nprint('scored')",
    "explorer = ni.explore(model, questions, scores=scores)\nexplorer",
]
# Resolves with the milliseconds from an act until a frame is drawn after what it selects has changed.
TIMED = """
new Promise(done => {
  const ready = () => %(ready)s;
  let start;
  const watch = new MutationObserver(() => {
    if (!ready()) return;
    watch.disconnect();
    requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));
  });
  watch.observe(document.body, {childList: true, subtree: true, characterData: true});
  start = performance.now();
  %(act)s;
})
"""


def timed(page: Page, act: str, ready: str) -> float:
    """Milliseconds from the act until the page is ready and drawn."""
    return page.evaluate(TIMED % {"act": act, "ready": ready})


def settled(page: Page) -> None:
    page.wait_for("document.querySelector('.ni-token') && document.querySelector('.ni-task').hidden")


def first_paints(page: Page, runs: int) -> list[float]:
    """From the start of the cell until all cells of the heat map are there; the cell is run anew each time."""
    found = []
    for _ in range(runs):
        page.evaluate("void jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
        page.wait_for("!document.querySelector('.ni-cell')")
        act = "jupyterapp.commands.execute('notebook:run-cell')"
        found.append(timed(page, act, "document.querySelectorAll('.ni-cell').length === 270"))
        settled(page)
    return found


def clicks(page: Page, n: int) -> list[float]:
    """From a click on another head until its tokens are there."""
    found = []
    for number in range(n):
        head = f"{(7 * number + 3) % 30}.{number % 9}"
        page.evaluate("document.querySelector('.ni-order').dataset.old = 1")
        act = f"document.querySelector('[data-head=\"{head}\"]').click()"
        ready = "document.querySelector('.ni-order') && !document.querySelector('.ni-order').dataset.old"
        found.append(timed(page, act, ready))
    return found


def interventions(page: Page, runs: int) -> dict[str, list[float]]:
    """From a press of "zero" until d of the shown question is there, and until all questions are."""
    rows = "document.querySelectorAll('.ni-effect tbody tr').length"
    found: dict[str, list[float]] = {"shown_question": [], "all_questions": []}
    for _ in range(runs):
        page.evaluate("document.querySelector('.ni-effect').replaceChildren()")
        act = "window.pressed = performance.now(); document.querySelector('[data-do=zero]').click()"
        found["shown_question"].append(timed(page, act, f"{rows} >= 2"))
        page.wait_for(f"{rows} === 5")
        found["all_questions"].append(page.evaluate("performance.now() - window.pressed"))
        settled(page)
    return found


def summary(values: list[float]) -> dict[str, Any]:
    return {"median": round(statistics.median(values), 1), "all": [round(value, 1) for value in values]}


def measure(folder: Path) -> dict[str, Any]:
    (folder / "notebooks").mkdir()
    lab.write_notebook(folder / "notebooks" / "explorer.ipynb", CELLS)
    path = find_chromium() or sys.exit("no Chromium here; install chromium, or set BROWSER_PATH")
    with lab.lab_server(folder) as address, Browser(path, folder / "profile", loopback=True) as browser:
        page = lab.open_notebook(browser, address, "explorer.ipynb")
        lab.run_cells(page)
        settled(page)
        load = [round(value, 2) for value in os.getloadavg()]
        found = {"first_paint": summary(first_paints(page, 5)), "click": summary(clicks(page, 20))}
        done = {f"zero_{name}": summary(values) for name, values in interventions(page, 5).items()}
        return {**found, **done, "load_average": load, "errors": page.errors}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/explorer.json"))
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder:
        result = {"kind": "explorer_benchmark", "unit": "ms", **measure(Path(folder))}
    result |= {"cores": os.cpu_count(), "python": platform.python_version(), "questions": 16}
    out.write_text(json.dumps(result, indent=1) + "\n")
    print({name: value["median"] for name, value in result.items() if isinstance(value, dict)}, result["load_average"])
