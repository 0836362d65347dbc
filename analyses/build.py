"""Converts the analyses to notebooks, executes them from top to bottom, and writes the .ipynb files beside them.

python analyses/build.py                     # all of them
python analyses/build.py --limit 8 02 03     # two of them, on a few questions
python analyses/build.py --figures           # and draw figures/ anew
python analyses/build.py --model m.gguf 01   # of another model: 01_negative_bias.m.ipynb
"""

import argparse
import os
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

HERE = Path(__file__).resolve().parent
SOURCES = sorted(HERE.glob("[0-9][0-9]_*.py"))


def execute(source: Path, timeout: int, ending: str = ".ipynb") -> Path:
    """Runs one analysis in a kernel of its own and writes its notebook, whole or not at all.

    Raises:
        CellExecutionError: naming the cell that failed, with its code and its error.
    """
    notebook = jupytext.read(source)
    place = {"metadata": {"path": str(HERE)}}
    # Without it the kernel warns that it talks over TCP, which nbclient chose.
    quiet = ["--log-level=ERROR"]
    client = NotebookClient(notebook, timeout=timeout, kernel_name="python3", extra_arguments=quiet, resources=place)
    client.execute()
    out, part = source.with_suffix(ending), source.with_suffix(".part")
    nbformat.write(notebook, part)
    return part.replace(out)


def chosen(names: list[str]) -> list[Path]:
    """The analyses whose file names begin with these; all where none is named."""
    unknown = [name for name in names if not any(source.name.startswith(name) for source in SOURCES)]
    if unknown:
        known = ", ".join(source.stem for source in SOURCES)
        sys.exit(f"there is no analysis {unknown[0]!r}; there are {known}")
    return [s for s in SOURCES if not names or any(s.name.startswith(name) for name in names)]


def set_environment(limit: int | None, figures: bool, model: str | None = None) -> None:
    """What the kernels find in their environment."""
    if model is not None:
        # Kernels run beside the analyses; what is no file is a hub id.
        path = Path(model)
        os.environ["NASA_INTERP_MODEL"] = str(path.resolve()) if path.exists() else model
    if limit is not None:
        os.environ["NASA_INTERP_LIMIT"] = str(limit)
    os.environ["NASA_INTERP_FIGURES"] = "1" if figures else "0"
    # Figures as data, without plotly's script of 4.8 MB in every notebook.
    os.environ.setdefault("PLOTLY_RENDERER", "plotly_mimetype")
    # A warning prints the path of the file it comes from; results carry their warnings and notes themselves.
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="beginnings of file names, such as 02; all by default")
    parser.add_argument("--limit", type=int, help="questions, in place of each analysis's own number")
    parser.add_argument("--model", help="another model than the embedded one, as `load_model` takes it")
    parser.add_argument("--figures", action="store_true", help="also draw figures/ anew")
    parser.add_argument("--timeout", type=int, default=3600, help="seconds that one cell may take")
    return parser.parse_args()


def main() -> None:
    options = parse()
    set_environment(options.limit, options.figures, options.model)
    ending = ".ipynb" if options.model is None else f".{Path(options.model).stem}.ipynb"
    for source in chosen(options.names):
        start = time.perf_counter()
        try:
            out = execute(source, options.timeout, ending)
        except CellExecutionError as error:
            sys.exit(f"{source.name} failed in this cell:\n{error}")
        print(f"{out.name}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
