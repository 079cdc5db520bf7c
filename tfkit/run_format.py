"""What the JSON files of a run folder hold, as far as tfkit reads it back: see `tfkit.run_files.Shape`."""

from __future__ import annotations

from typing import Any

from tfkit.claim import AUDIT, METRICS, PRIVACY, PROVENANCE, VARIANTS, VERSIONS

NUMBER = (int, float)
NOTHING = type(None)
MAYBE = (*NUMBER, NOTHING)
TEXT = (str, NOTHING)

LISTS = (PROVENANCE, METRICS)
"""They have an entry for each class, or for each file that was left out."""

SHAPES: dict[str, dict[str, Any]] = {
    METRICS: {"*": NUMBER},
    VERSIONS: {"packages?": {"*": TEXT}, "problems?": [str]},
    PROVENANCE: {
        "data?": {
            "origin?": TEXT, "counts?": {"*": {"*": int}}, "skipped?": [[str]], "shape?": [(int, NOTHING)],
            "classes?": int, "documents?": int,
        },
        "model?": {"handle?": TEXT, "licence?": TEXT},
        "recipe?": {"name?": TEXT},
    },
    PRIVACY: {
        "private?": bool, "epsilon?": MAYBE, "delta?": NUMBER, "neighbouring_relation?": str, "in_words?": str,
        "covered?": [str], "not_covered?": [str],
    },
    AUDIT: {
        "verdict": str, "members?": int, "others?": int,
        "attacks?": {"*": {"auc": NUMBER, "auc_interval": [NUMBER], "advantage": NUMBER}},
        "exposure?": (
            {"verdict": str, "insertions": {"*": {"codes": NUMBER, "mean_bits": MAYBE, "largest_bits": MAYBE}}},
            NOTHING,
        ),
    },
    VARIANTS: {
        "verdict": str, "examples": int, "source": {"accuracy": MAYBE}, "chosen": TEXT,
        "failed": [{"name": str, "reason": str}],
        "variants": [
            {
                "name": str, "size_bytes": int, "gzipped_bytes": int, "accuracy": MAYBE, "accuracy_drop": MAYBE,
                "agreement": NUMBER, "latency_ms": {"*": {"*": NUMBER}}, "macs": {"*": NUMBER}, "sparsity": NUMBER,
                "pareto": bool,
            }
        ],
    },
}  # fmt: skip
