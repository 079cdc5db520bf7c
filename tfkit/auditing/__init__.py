"""Audits: what an attacker can tell about who was in the training data, and whether that contradicts a claim.

python -m recipes.audit_privacy --run-dir runs/private
"""

from tfkit.auditing.attacks import ATTACKS, Attack, LowerBound, attack, lower_bound
from tfkit.auditing.audit import Audit, audit
from tfkit.auditing.exposure import exposure

__all__ = ["ATTACKS", "Attack", "Audit", "LowerBound", "attack", "audit", "exposure", "lower_bound"]
