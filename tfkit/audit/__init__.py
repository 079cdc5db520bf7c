"""The audit: what an attacker can tell about who was in the training data, and whether that contradicts a claim.

python -m recipes.audit_privacy --run-dir runs/private
"""

from tfkit.audit.attacks import ATTACKS, attack
from tfkit.audit.audit import audit
from tfkit.audit.bound import LowerBound, lower_bound
from tfkit.audit.recipe import audit_recipe
from tfkit.audit.result import Audit
from tfkit.audit.scores import Attack, Scores
from tfkit.audit.secrets import Exposure, exposure

__all__ = [
    "ATTACKS",
    "Attack",
    "Audit",
    "Exposure",
    "LowerBound",
    "Scores",
    "attack",
    "audit",
    "audit_recipe",
    "exposure",
    "lower_bound",
]
