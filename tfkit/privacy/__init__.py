"""Differentially private training: clipping, sampling, accounting, and a statement of what holds.

privacy = tfkit.privacy.DPSGD(target_epsilon=3, delta=1e-5, l2_norm_clip=1.0)
run = tfkit.fit(build_model, splits, run_dir="runs/private", epochs=30, privacy=privacy)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tfkit.privacy.plan import DPSGD, Plan, calibrate, compute_epsilon, noise_for_share, noisy_mean, paragraph

if TYPE_CHECKING:
    from tfkit.privacy.validation import check, make_private_safe, problems

__all__ = [
    "DPSGD", "Plan", "calibrate", "check", "compute_epsilon", "make_private_safe", "noise_for_share", "noisy_mean",
    "paragraph", "problems",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("tfkit.privacy.validation"), name)
