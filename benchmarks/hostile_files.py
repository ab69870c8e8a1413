"""Damage small files of every format at random and count how they are received.

    python benchmarks/hostile_files.py --count 2000 --series 300

The damage, and what other programs are asked, is that of tests/fuzz.py; the files that tests/hostile.py makes by hand
are among the seeds. A file that is read otherwise than by the other program, or whose error is a traceback or does not
name it, ends this script. Writes benchmarks/results/hostile_files.json.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path

from samunet.core.codec import write_json

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
import fuzz  # noqa: E402
from hostile import HOSTILE  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "hostile_files.json"
SEED = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="damaged files per format")
    parser.add_argument("--series", type=int, default=10_000, help="damaged DICOM series")
    arguments = parser.parse_args()
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    rows = {}
    for name, format in fuzz.formats().items():
        begin = time.perf_counter()
        found = fuzz.tally(format, arguments.series if name == "DICOM" else arguments.count, SEED)
        rows[name] = {
            "tried": found.total(),
            **{kind: found[kind] for kind in ("refused", "contained", "equal", "alone")},
        }
        print(name, rows[name], f"{time.perf_counter() - begin:.0f} s", flush=True)
    by_hand = {ending: len(changes) for ending, changes in HOSTILE.items()}
    write_json(RESULTS, {"seed": SEED, "made_by_hand": by_hand, "formats": rows})


if __name__ == "__main__":
    main()
