"""How long a user waits before anything happens: the package, the command line's help, beside what lies beneath.

python benchmarks/start.py      # five runs of each in turns; medians
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

STARTS = {
    "import nasa_interp": ["-c", "import nasa_interp"],
    "nasa-interp --help": ["-m", "nasa_interp", "--help"],
    "nasa-interp decide --bogus": ["-m", "nasa_interp", "decide", "--bogus"],
    "import numpy": ["-c", "import numpy"],
    "import torch": ["-c", "import torch"],
    "from nasa_interp import decide": ["-c", "from nasa_interp import decide"],
}
# Runs one command in a process of its own and prints the most memory that it took, in KiB.
MEASURED = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], capture_output=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def memory(command: list[str]) -> float:
    """The most memory that a command took, in MB."""
    done = subprocess.run([sys.executable, "-c", MEASURED, *command], capture_output=True, text=True)
    return int(done.stdout) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in STARTS}
    for _ in range(options.runs):
        for name, arguments in STARTS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], capture_output=True)
            seconds[name].append(time.perf_counter() - start)
    found = {}
    for name, arguments in STARTS.items():
        command = [sys.executable, *arguments]
        found[name] = {"seconds": statistics.median(seconds[name]), "megabytes": memory(command)}
        print(f"{name:32} {found[name]['seconds']:6.2f} s {found[name]['megabytes']:6.0f} MB")
    options.out.write_text(json.dumps({"runs": options.runs, "starts": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
