"""Streams: does time grow with the questions and memory not, and what does a second process bring?

python benchmarks/streams.py MODEL            # some twenty minutes on two idle cores

Questions are those of `builtin:verify`, numbered anew as often as needed. Every run is a process of its own (two, under
torchrun); the time is that between the beginning of its first part and the end of its last, so without the start-up.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import nasa_interp as ni

ALONE = [sys.executable, "-m", "nasa_interp"]
TOGETHER = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "nasa_interp"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--dtype", default="mixed", help="of decisions; scores are exact")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--prompts", type=int, nargs="+", default=[1024, 10240, 16384])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    few, *more = options.prompts
    with tempfile.TemporaryDirectory() as place:
        decide = ["decide", options.model, "--dtype", options.dtype]
        sizes = [run(ALONE, decide, n, options.threads, Path(place) / f"size{n}") for n in options.prompts]
        shares: dict[str, list[dict[str, Any]]] = {"one process": [], "two processes": []}
        for turn in range(options.runs):
            for name, command in zip(shares, (ALONE, TOGETHER), strict=True):
                folder = Path(place) / f"{name} {turn}"
                shares[name].append(run(command, ["score", options.model], few, 1, folder))
        same = scores_of(Path(place) / "one process 0") == scores_of(Path(place) / "two processes 0")
    took = {name: statistics.median(each["seconds"] for each in runs) for name, runs in shares.items()}
    ratios = {
        f"time, {n} / {few} prompts": found["seconds"] / sizes[0]["seconds"]
        for n, found in zip(more, sizes[1:], strict=True)
    }
    ratios |= {
        f"peak memory, {n} / {few} prompts": f["mb"] / sizes[0]["mb"] for n, f in zip(more, sizes[1:], strict=True)
    }
    ratios[f"time, two processes / one, a thread each, {few} prompts"] = took["two processes"] / took["one process"]
    result = {"model": Path(options.model).stem, "threads": options.threads, "dtype": options.dtype, "ratios": ratios}
    result |= {"same scores": same, "sizes": sizes, **shares}
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({"ratios": ratios, "same scores": same}, indent=1))


def run(command: list[str], verb: list[str], prompts: int, threads: int, folder: Path) -> dict[str, Any]:
    """One run in parts: seconds of its parts, and the peak of its processes' memory."""
    data = questions(folder.with_suffix(".jsonl"), prompts // 2)
    arguments = [*command, *verb, "--data", str(data), "--parts", str(folder), "--json"]
    threaded = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    code = f"import resource, subprocess, sys; done = subprocess.run({arguments!r}, stdout=subprocess.DEVNULL, "
    code += "stderr=subprocess.DEVNULL); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); "
    code += "sys.exit(done.returncode)"
    done = subprocess.run([sys.executable, "-c", code], env=threaded, capture_output=True, text=True, check=True)
    ends = [(path.stat().st_mtime, json.loads(path.read_text())) for path in folder.glob("part-*.json")]
    assert sum(about["rows"] for _, about in ends) == prompts // 2
    begun = min(end - about["seconds"] for end, about in ends)
    # The part's seconds end before it is written; its file's time is after that.
    return {"prompts": prompts, "seconds": max(end for end, _ in ends) - begun, "mb": int(done.stdout) / 1024}


def questions(path: Path, n: int) -> Path:
    """A file of so many questions, each with an id of its own."""
    some = [q for split in ("probe", "val", "test") for q in ni.load_questions(f"builtin:verify#{split}")]
    with path.open("w") as file:
        for i in range(n):
            q = some[i % len(some)]
            row = {"question": q.question, "label": q.label, "id": str(i), "group": q.group}
            file.write(json.dumps({**row, "pair": f"{q.pair}-{i // len(some)}"}) + "\n")
    return path


def scores_of(folder: Path) -> dict[str, Any]:
    """The numbers of a run's scores."""
    content = json.loads((folder / "scores.json").read_text())
    return {name: value for name, value in content.items() if name != "run"}


if __name__ == "__main__":
    main()
