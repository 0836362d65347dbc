"""A real JupyterLab or Notebook 7 on this machine for tests: a notebook, its server, and its own commands."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGE_ROOT = Path(__file__).parents[1]
# Each program's module, the class that holds its settings, and where it opens a notebook.
PROGRAMS = {"lab": ("jupyterlab", "LabApp", "lab/tree"), "notebook": ("notebook", "JupyterNotebookApp", "notebooks")}


def write_notebook(path: Path, cells: list[str]) -> Path:
    """A notebook of these code cells."""
    written = [
        {"cell_type": "code", "execution_count": None, "id": f"cell-{i}", "metadata": {}, "outputs": [], "source": text}
        for i, text in enumerate(cells)
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {"cells": written, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(notebook))
    return path


@contextmanager
def lab_server(folder: Path, program: str = "lab") -> Iterator[str]:
    """A program over the notebooks of `folder / "notebooks"`; gives the address of their folder, ends it afterwards."""
    module, app, tree = PROGRAMS[program]
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    # Its settings are its own, whoever runs the test.
    places = {name: str(folder / name.lower()) for name in (
        "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR",
        "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR",
    )}  # fmt: skip
    paths = os.pathsep.join(filter(None, [str(PACKAGE_ROOT), os.environ.get("PYTHONPATH")]))
    command = [
        sys.executable, "-m", module, "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
        "--ServerApp.port_retries=0", "--IdentityProvider.token=", f"--ServerApp.root_dir={folder / 'notebooks'}",
        f"--{app}.expose_app_in_browser=True",
    ]  # fmt: skip
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            command, env={**os.environ, **places, "PYTHONPATH": paths}, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(address, server, folder / "server.log")
        yield f"{address}/{tree}"
    finally:
        server.terminate()
        server.wait(timeout=60)


def _wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    for _ in range(600):
        if server.poll() is not None:
            raise RuntimeError(f"the server ended: {log.read_text()[-2000:]}")
        try:
            urllib.request.urlopen(f"{address}/api", timeout=2).close()
            return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(log.read_text()[-2000:])


def open_notebook(browser, address: str, name: str, dark: bool = False):
    """The notebook at 1280 px, its kernel ready."""
    page = browser.open(f"{address}/{name}", dark=dark)
    page.wait_for("window.jupyterapp && document.querySelector('.jp-CodeCell')")
    page.wait_for("jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'")
    if dark:
        page.evaluate("jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
    return page


def run_cells(page) -> None:
    """Starts all cells; the last one is then the active one."""
    page.evaluate("void jupyterapp.commands.execute('notebook:run-all-cells')")


def run_last_cell(page) -> str:
    """Runs the active cell again and gives what it printed this time."""
    cell = "[...document.querySelectorAll('.jp-CodeCell')].at(-1)"
    number = f"{cell}.querySelector('.jp-InputPrompt').innerText"
    page.wait_for(f"/[0-9]/.test({number})")
    before = page.evaluate(number)
    page.evaluate("void jupyterapp.commands.execute('notebook:run-cell')")
    page.wait_for(f"/[0-9]/.test({number}) && {number} !== {json.dumps(before)}")
    return page.evaluate(f"{cell}.querySelector('.jp-OutputArea')?.innerText ?? ''")


def run_until(page, shows: str) -> None:
    """Runs the active cell until it prints this text; the page sends a click once the one before is taken."""
    printed = []
    for _ in range(20):
        printed.append(run_last_cell(page))
        if shows in printed[-1]:
            return
        page.browser.pause(0.5)
    raise TimeoutError(f"never printed {shows!r}, but {printed}")
