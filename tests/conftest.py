"""Shapes and types of the whole package are checked at run time in every test run."""

from jaxtyping import install_import_hook

# Before any test module imports the package.
install_import_hook("nasa_interp", "beartype.beartype")

import os  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

# Processes side by side share the cores: each takes its part, and so does what it starts.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

import pytest  # noqa: E402

# Some tests use what others made; each folder's files have names of their own.
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), *(str(folder) for folder in HERE.iterdir() if folder.is_dir())]
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(autouse=True, scope="session")
def results_keep_to_their_schemas():
    """Every result that a test's code writes is held to the schema of its kind in docs/schemas."""
    import schemas

    with schemas.held():
        yield


@pytest.fixture(scope="session")
def demo():
    """The embedded model; part of the installation, so never skipped."""
    from nasa_interp import load_model

    return load_model("demo")


@pytest.fixture(scope="session")
def tiny():
    """A tiny random Llama with grouped heads and a chat template, ready to be scored."""
    from families import tiny_model, tiny_tokenizer

    from nasa_interp import load_model

    return load_model(tiny_model("llama"), tokenizer=tiny_tokenizer())


@pytest.fixture(scope="session")
def questions():
    """Six questions in two groups, one of them a pair."""
    from nasa_interp import BinaryQuestion

    return [
        BinaryQuestion("Is Tom's ball red?", True, "a", "facts", "p"),
        BinaryQuestion("Is Tom's ball blue, or is it not?", False, "b", "facts", "p"),
        BinaryQuestion("Is 12 + 7 = 19?", True, "c", "sums"),
        BinaryQuestion("Is 34 + 8 = 45? None of this is easy, No?", False, "d", "sums"),
        BinaryQuestion("Is the moon a planet?", False, "e", "sums"),
        BinaryQuestion("Does Anna have a car?", True, "f", "facts"),
    ]


@pytest.fixture
def one_batch(monkeypatch):
    """A batch costs more than any pads, so that few prompts are one, whatever their lengths."""
    from nasa_interp import batches

    monkeypatch.setitem(batches.A_BATCH, "cpu", 10**6)


@pytest.fixture
def shared_data():
    """The public question sets, where they lie beside the checkout."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.exists():
        pytest.skip("the public data sets are not here; the fixture files cover the loader")
    return folder
