"""The audit: what an attacker can tell about who was in the training data, and whether that contradicts a claim.

python -m recipes.audit_privacy --run-dir runs/private
"""

from tfkit.audit.attacks import ATTACKS, Attack, attack
from tfkit.audit.audit import Audit, audit
from tfkit.audit.bound import LowerBound, lower_bound
from tfkit.audit.recipe import audit_recipe

__all__ = ["ATTACKS", "Attack", "Audit", "LowerBound", "attack", "audit", "audit_recipe", "lower_bound"]
