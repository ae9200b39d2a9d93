"""The store at size: append rate, resume time, time and memory of the report.

    python benchmarks/store.py [--records 1000000] [--folder DIR]

Records are synthetic: ten classes, accuracy 0.8, probabilities that mean what they say.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from diffzero.evaluate.store import RunStore

CLASSES = [f"class {i}" for i in range(10)]


def config(n):
    return {
        "format": 1,
        "data": {"name": "synthetic", "source": "nowhere", "split": "", "images": n,
                 "fingerprint": "none", "corrupt": None, "image_column": None,
                 "label_column": None},
        "model": {"name": "synthetic", "source": "none", "revision": "none", "dtype": "float32"},
        "method": "elbo", "settings": {"draws": 32, "temperature": 1.0}, "classes": CLASSES,
        "seed": 0, "keep_draws": False, "evaluations_per_image": 320, "warnings": [],
        "command": "none", "directory": ".", "created": "now", "versions": {},
        "machine": {"gpu": None, "cpu": "none", "threads": 1},
    }  # fmt: skip


def records(n):
    rng = np.random.default_rng(0)
    for start in range(0, n, 10_000):
        size = min(10_000, n - start)
        labels = rng.integers(0, 10, size)
        logits = rng.normal(size=(size, 10))
        logits[np.arange(size), labels] += 2.0
        proba = np.exp(2 * logits)
        proba /= proba.sum(1, keepdims=True)
        for i in range(size):
            yield {
                "id": f"folder/image-{start + i:07d}.png", "label": CLASSES[labels[i]],
                "prediction": CLASSES[int(proba[i].argmax())],
                "probabilities": proba[i].tolist(), "logits": logits[i].tolist(),
                "evals": 320, "seconds": 0.25,
            }  # fmt: skip


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    n = arguments.records
    folder = arguments.folder or Path(tempfile.mkdtemp()) / "run"
    made = list(records(min(n, 20_000)))  # making records is not the store's time
    spent = 0.0
    with RunStore(folder, config(n)) as store:
        for start in range(0, n, len(made)):
            group = [{**r, "id": f"{start}/{r['id']}"} for r in made[: n - start]]
            began = time.perf_counter()
            for record in group:
                store.append(record)
            store.sync()
            spent += time.perf_counter() - began
    size = (folder / "records.jsonl").stat().st_size
    print(f"append: {n / spent:,.0f} records a second, {size / n:.0f} bytes a record")
    began = time.perf_counter()
    with RunStore(folder, config(n)) as store:
        assert len(store.done) == n
    print(f"resume: {time.perf_counter() - began:.1f} s")
    report = [sys.executable, "-m", "diffzero", "report", str(folder), "--json"]
    began = time.perf_counter()
    done = subprocess.run(
        [*report, "--out", str(folder / "report.html")], capture_output=True, text=True, check=True
    )
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"report: {seconds:.1f} s, {peak:.2f} GiB at most")
    print(json.dumps(json.loads(done.stdout)["runs"][0]["metrics"]))
    if arguments.folder is None:
        shutil.rmtree(folder.parent)


if __name__ == "__main__":
    main()
