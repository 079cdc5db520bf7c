"""Train an agent of TF-Agents: a deep Q-network that acts, or a bandit that learns from what it chose.

Examples:
    python -m recipes.train_agent --run-dir runs/cartpole                  (balances a pole; about a minute)
    python -m recipes.train_agent --environment CartPole-v0 --steps 10000 --seed 1
    python -m recipes.train_agent --agent linucb --run-dir runs/bandit
"""

from __future__ import annotations

import logging
import warnings

from tfkit import cli
from tfkit.run import POLICY, Run
from tfkit.settings.jobs import AgentConfig

Config = AgentConfig


def run(config: Config) -> Run:
    """Train, measure and export the agent's policy.

    Args:
      config: what to do it with.

    Returns:
      The finished run: its folder holds the policy as SavedModel and as TFLite, the numbers, the logs and the report.

    Raises:
      TfkitError: see `tfkit.errors`.
    """
    from tfkit.agents import train_agent

    return train_agent(config)


def closing_lines(run: Run) -> list[str]:
    """Return what the policy is worth, and where it is."""
    metrics = {name: value for name, value in run.metrics.items() if name.startswith("agent/")}
    metrics["time/total_seconds"] = run.metrics["time/total_seconds"]
    lines = [f"{name.removeprefix('agent/'):<26} {value:.6g}" for name, value in metrics.items()]
    return ["", *lines, "", f"policy       {run.path / POLICY}", *cli.where_to_look(run)]


if __name__ == "__main__":
    logging.disable(logging.WARNING)  # TF-Agents, gym and TensorFlow speak of each other's age
    warnings.simplefilter("ignore")
    cli.main(Config, run, closing=closing_lines)
