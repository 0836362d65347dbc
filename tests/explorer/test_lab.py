"""The explorer in a real JupyterLab and a real Notebook 7, in a real browser, on the embedded model."""

import os
from pathlib import Path

import lab
import pytest
from browser import Browser, require_chromium

HEAD = "17.7"
CELLS = [
    "import nasa_interp as ni\nexplorer = ni.explore(ni.load_model('demo'), 'builtin:verify#val', limit=2)\nexplorer",
    "print('heads:', ', '.join(map(str, explorer.heads)) or 'none')",
]


@pytest.fixture(scope="module", params=lab.PROGRAMS)
def page(request, tmp_path_factory):
    """The explorer in a notebook, its first prompt on the page."""
    path, folder = require_chromium(), tmp_path_factory.mktemp("lab")
    (folder / "notebooks").mkdir()
    lab.write_notebook(folder / "notebooks" / "explorer.ipynb", CELLS)
    with lab.lab_server(folder, request.param) as address, Browser(path, folder / "profile", loopback=True) as found:
        opened = lab.open_notebook(found, address, "explorer.ipynb")
        lab.run_cells(opened)
        opened.wait_for("document.querySelector('.ni-token')")
        opened.wait_for("document.querySelector('.ni-task')?.hidden")
        yield opened


def text(page, selector: str) -> str:
    return page.evaluate(f"document.querySelector({selector!r}).textContent")


def test_heads_are_explored_in_a_notebook(page) -> None:
    """Clicks reach Python and its numbers the page; nothing leaves the machine, and the console stays empty."""
    page.click(f'[data-head="{HEAD}"]')
    page.wait_for(f"document.querySelector('.ni-detail h3').textContent === 'Head {HEAD}'")
    page.wait_for("document.querySelectorAll('.ni-order').length === 2")
    assert " Yes" in page.evaluate("[...document.querySelectorAll('.ni-role-yes')].map(e => e.textContent)")
    assert "heads: none" in lab.run_last_cell(page)
    page.click(".ni-add")
    page.wait_for("document.querySelector('.ni-chosen li button')")
    lab.run_until(page, f"heads: {HEAD}")
    page.click("[data-do=zero]")
    page.wait_for("document.querySelectorAll('.ni-effect tbody tr').length === 5")
    changes = page.evaluate("[...document.querySelectorAll('[data-cell=change]')].map(e => e.textContent)")
    assert all(change not in ("+0.000", "not measured") for change in changes[:4])
    assert {url.split("/")[2].partition(":")[0] for url in page.requests} == {"127.0.0.1"}
    # What Notebook itself says on an empty folder of settings isn't ours.
    assert [error for error in page.errors if "/static/notebook/" not in error] == []
    assert text(page, ".ni-note") == ""


def test_keys_move_and_choose_without_the_notebooks_own_commands(page) -> None:
    """In a notebook the letter a inserts a cell; here it chooses a head."""
    cells = page.evaluate("document.querySelectorAll('.jp-CodeCell').length")
    page.evaluate("document.querySelector('[data-head=\"3.3\"]').focus()")
    for key, code in (("ArrowDown", 40), ("ArrowRight", 39), ("a", 65)):
        for kind in ("keyDown", "keyUp"):
            more = {"text": "a"} if key == "a" and kind == "keyDown" else {}
            page.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **more)
    page.wait_for("document.querySelector('[data-head=\"4.4\"]').hasAttribute('data-chosen')")
    assert page.evaluate("document.activeElement.dataset.head") == "4.4"
    assert page.evaluate("document.querySelectorAll('.jp-CodeCell').length") == cells
    assert "head 4.4: polarity" in text(page, ".ni-line")


def test_it_follows_the_notebooks_theme(page) -> None:
    """Also where the browser prefers the other colours; NASA_INTERP_PICTURES=FOLDER keeps pictures."""
    background = "getComputedStyle(document.querySelector('.ni-explorer')).backgroundColor"
    folder = os.environ.get("NASA_INTERP_PICTURES")
    for theme, colour in (("Light", "rgb(255, 255, 255)"), ("Dark", "rgb(22, 24, 29)")):
        page.evaluate(f"jupyterapp.commands.execute('apputils:change-theme', {{theme: 'JupyterLab {theme}'}})")
        page.wait_for(f"{background} === '{colour}'")
        # The notebook's own styles must not get in between.
        boxes = (
            "[...document.querySelectorAll('.ni-numbers > div')]"
            ".map(e => [...e.children].map(c => c.getBoundingClientRect()))"
        )
        assert page.evaluate(
            f"{boxes}.every(([name, number]) => name.bottom <= number.top + 1 && name.left === number.left)"
        )
        if folder:
            program = page.evaluate("jupyterapp.name.toLowerCase().replaceAll(' ', '_')")
            page.look(1280, height=1100)
            page.photograph(Path(folder) / f"explorer_{program}_{theme.lower()}.png")
