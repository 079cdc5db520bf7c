"""`python -m tfkit launch`, and then what Ray has of it as a line of JSON: importing Ray twice would take seconds."""

import json
import sys
from pathlib import Path

from tfkit import __main__


def main(*words):
    code = __main__.main(["launch", *words])
    from ray.train import Result

    found = Result.from_path(Path(words[words.index("--run-dir") + 1]) / "ray")
    print(json.dumps({"metrics": found.metrics, "checkpoint": found.checkpoint.path}), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
