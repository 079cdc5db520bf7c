"""Train agents of TF-Agents and export their policies: a deep Q-network in an environment of gym, and a bandit.

Training is done in rounds, and a checkpoint follows each. What a round does is a function of the seed, its number and
the state before it (weights, optimizer, replay buffer, counters): it begins with an environment and random numbers of
its own. So a run that is killed and started again ends with the weights of an unbroken one.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from tfkit import litert, reporting, run_files
from tfkit.environment import files, heartbeat, packages, stack
from tfkit.environment.process import quiet
from tfkit.errors import CheckError, ConfigError
from tfkit.reporting.tensorboard import event_writer
from tfkit.run import POLICY, TFLITE, Run
from tfkit.settings.options import AgentConfig
from tfkit.settings.parse import as_dict, run_dir

FILE = f"{TFLITE}/policy.tflite"
EPISODES = 100
"""By which a deep Q-network is measured; they begin as no other episode does."""

STATES = 500
"""Drawn from those that the policy met: what was exported must act in each of them as the policy does."""

_STATE, _VARIABLES = "state.json", "variables"


@contextlib.contextmanager
def _without_notices() -> Iterator[None]:
    """Drop what TF-Agents, gym and TensorFlow say of each other's age, which a user cannot change."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


class _Learner(Protocol):
    """An agent in training: what differs between the two."""

    rounds: int
    policy: Any
    checkpoint: Any
    states: np.ndarray
    """float32 [n, d]: those that the policy met as it was measured."""

    def learn(self, number: int) -> dict[str, float]:
        """Do a round, and return what was measured in it."""

    def measure(self, rows: Sequence[dict[str, Any]]) -> dict[str, float]:
        """Return what the policy is worth, after all rounds."""

    def values(self, states: Any) -> Any:
        """Return what the policy expects of each action: float32 [n, actions]."""


def train_agent(config: AgentConfig) -> Run:
    """Train an agent, or go on with the training that was interrupted in the folder; measure and export its policy.

    Args:
      config: which agent, where it acts, for how long.

    Returns:
      The finished run: policy/ (a SavedModel whose `action` takes a TimeStep), tflite/policy.tflite (float32 [1, d] to
      the action's number), and in metrics.json `agent/mean_return` (dqn) or `agent/regret` (linucb).

    Raises:
      StackError: TF-Agents, or what it needs, is missing.
      ConfigError: there is no such environment, or none of vectors and numbered actions.
      RunError: see `Run.create`; or a checkpoint is damaged.
      CheckError: an exported policy does not act as the one that was measured.
    """
    began = time.monotonic()
    with _without_notices():
        learner: _Learner = {"dqn": _DeepQ, "linucb": _LinUCB}[config.agent](config)
    folder = run_dir(config, recipe="train_agent")
    with Run.create(folder, config=as_dict(config), overwrite=config.overwrite) as run:
        if run.finished:
            run.say(f"{run.path} holds the finished run of this very config; --overwrite would do it again.")
            return run
        run.versions, run.provenance = packages.versions(), {"recipe": {"name": "train_agent"}}
        heartbeat.phase("training")
        rows = _restore(run, learner)
        while len(rows) < learner.rounds:
            with _without_notices():
                row = learner.learn(len(rows))
            rows.append({"stage": config.agent, "epoch": len(rows), **row})
            _save(run, learner, rows)
            text = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in row.items())
            run.say(f"Round {len(rows)} of {learner.rounds}: {text}")
            heartbeat.progress(len(rows), learner.rounds, text)
        heartbeat.phase("working")
        run.record(learner.measure(rows))
        run.record(_export(run, learner))
        run.record({"time/total_seconds": time.monotonic() - began})
        reporting.write_report(run)
    return run


def verdict(run: Run) -> list[str]:
    """Return what the policy of a finished run is worth, and where it is, in lines for a person."""
    found = {name.removeprefix("agent/"): value for name, value in run.metrics.items()}
    if "mean_return" in found:
        low, high = found["mean_return_low"], found["mean_return_high"]
        worth = [
            f"return       {found['mean_return']:.1f} in the mean of {found['episodes']} new episodes (95 % interval"
            f" {low:.1f} to {high:.1f}); {found['random_return']:.1f} by actions at random"
        ]
    else:
        low, high = found["test_accuracy_low"], found["test_accuracy_high"]
        worth = [
            f"regret       {found['regret']:.0f} wrong choices of {found['decisions']} while it learned;"
            f" {found['random_regret']:.0f} at random",
            f"accuracy     {found['test_accuracy']:.4f} on test digits (95 % interval {low:.4f} to {high:.4f});"
            f" {found['full_information_accuracy']:.4f} by ridge regression that was told every class",
        ]
    loaded = f'tf.saved_model.load("{run.path / POLICY}").action(time_step)'
    return [
        *worth,
        f"policy       {loaded}   # import tensorflow_probability.python.distributions first",
        f"TFLite       {run.path / FILE}   # observation to action",
    ]


def _save(run: Run, learner: _Learner, rows: list[dict[str, Any]]) -> None:
    """Write the checkpoint of a round, and what was measured so far for people and TensorBoard."""
    folder = run.backup / "agent"
    with files.new_folder(folder / f"{len(rows):08d}") as new:
        learner.checkpoint.write(str(new / _VARIABLES))
        files.write_json(new / _STATE, {"rows": rows})
    for old in sorted(folder.glob("[0-9]*"))[:-1]:
        shutil.rmtree(old)
    run.write_history(rows)
    with event_writer(run.logdir, kind="agent") as tf:
        for row in rows:
            for name in row.keys() - {"stage", "epoch", "steps"}:
                tf.summary.scalar(f"agent/{name}", row[name], step=row["steps"])


def _restore(run: Run, learner: _Learner) -> list[dict[str, Any]]:
    """Put the learner where its last checkpoint was, and return the rows until then."""
    for folder in sorted((run.backup / "agent").glob("[0-9]*"))[-1:]:
        try:
            rows: list[dict[str, Any]] = run_files.read_json(folder, _STATE, {"rows": [dict]})["rows"]
            learner.checkpoint.read(str(folder / _VARIABLES)).assert_existing_objects_matched()
        except (OSError, LookupError, ValueError, AssertionError, stack.tf.errors.OpError) as error:
            raise run_files.damaged(folder, packages.first_line(error)) from error
        run.say(f"Going on after round {len(rows)} of {learner.rounds}.")
        return rows
    return []


def _export(run: Run, learner: _Learner) -> dict[str, float]:
    """Write the policy as SavedModel and as TFLite, once both have acted as it does in states that it met."""
    policy, restart = learner.policy, stack.tf_agents.trajectories.time_step.restart
    drawn = np.random.default_rng(run.config["seed"]).permutation(len(learner.states))[:STATES]
    states = learner.states[drawn]
    step = restart(states, batch_size=len(states))
    act = lambda observation: policy.action(restart(observation, batch_size=1)).action  # noqa: E731
    content = litert.to_tflite(act, input_shape=[1, *states.shape[1:]])
    with files.new_folder(run.path / POLICY) as new:
        with _without_notices():
            stack.tf_agents.policies.policy_saver.PolicySaver(policy).save(str(new))
        loaded = stack.tf.saved_model.load(str(new))
        with litert.ParallelInterpreter(content) as interpreter:
            actions = {"saved_model": loaded.action(step).action.numpy(), "tflite": interpreter(states)}
        values, expected = np.asarray(learner.values(states)), policy.action(step).action.numpy()
        tie = 1e-5 * np.abs(values).max()  # what the order of summation may change
        for name, found in actions.items():
            lost = np.take_along_axis(values, np.stack([expected, found.astype(int)], 1), 1)
            differ = int((np.abs(np.diff(lost)) > tie).sum() if np.isfinite(values).all() else len(states))
            if differ:
                raise CheckError(
                    f"The exported {name} acts otherwise than the policy in {differ} of {len(states)} states; it is not"
                    " kept.\n  Train with another --seed or a smaller --learning-rate."
                )
    files.write_bytes(run.path / FILE, content)
    agreed = {f"agent/{name}_agreement": float((found == expected).mean()) for name, found in actions.items()}
    return {**agreed, "agent/states": len(states), "agent/tflite_bytes": len(content)}


def _interval(name: str, values: np.ndarray, seed: int) -> dict[str, float]:
    """Return the mean of values [n] and the ends of its 95 % interval, by the percentiles of 9,999 bootstrap means."""
    from scipy.stats import bootstrap

    found = bootstrap([values], np.mean, method="percentile", rng=np.random.default_rng(seed))
    low, high = found.confidence_interval
    return {f"agent/{name}": values.mean(), f"agent/{name}_low": low, f"agent/{name}_high": high}


def _seeds(*place: int, count: int) -> list[int]:
    """Return seeds that belong to one place in a run and to no other."""
    return [int(seed) for seed in np.random.SeedSequence(place).generate_state(count)]


_DRAWS, _TRAINING, _VALIDATION, _TEST, _RANDOM = range(5)
_ROUND = 1000
_VALIDATION_EPISODES = 10


class _DeepQ:
    """A double deep Q-network, which keeps the weights that did best in the validation episodes after a round."""

    def __init__(self, config: AgentConfig) -> None:
        self._library = library = stack.tf_agents
        tf, self._seed, self._environment = stack.tf, config.seed, config.environment
        self._steps = config.steps or 15_000
        self.rounds = -(-self._steps // _ROUND)
        first = self._begun(_TRAINING, count=1)
        observation, action = first.observation_spec(), first.action_spec()
        limit = library.environments.suite_gym.gym.spec(config.environment).max_episode_steps
        kinds = [getattr(spec, "dtype", tf.variant).name for spec in (observation, action)]
        ranks = [getattr(spec, "shape", tf.TensorShape(None)).rank for spec in (observation, action)]
        if not limit or kinds != ["float32", "int64"] or ranks != [1, 0]:
            raise ConfigError(
                f"--environment {config.environment} has observations of {kinds[0]} and rank {ranks[0]}, actions of"
                f" {kinds[1]} and rank {ranks[1]}, and episodes of {limit or 'any number of'} steps.\n  A deep"
                " Q-network needs vectors of float32, numbered actions, and episodes that end, as those of CartPole-v1,"
                " Acrobot-v1 and MountainCar-v0."
            )
        stack.keras.utils.set_random_seed(*_seeds(self._seed, _DRAWS, count=1))
        self._counter = tf.Variable(0, dtype=tf.int64)
        schedule = stack.keras.optimizers.schedules.CosineDecay
        self._network = library.networks.q_network.QNetwork(observation, action, fc_layer_params=(100, 50))
        self._agent = library.agents.dqn.dqn_agent.DdqnAgent(
            first.time_step_spec(),
            action,
            q_network=self._network,
            optimizer=stack.keras.optimizers.Adam(schedule(config.learning_rate, self._steps)),
            epsilon_greedy=lambda: tf.maximum(
                0.05, 1 - tf.cast(self._counter, tf.float32) / (0.1 * self._steps)
            ),
            td_errors_loss_fn=library.utils.common.element_wise_huber_loss,
            target_update_period=200,
            gamma=0.99,
            reward_scale_factor=0.1,  # values near one, which a fresh network and the loss are made for
            train_step_counter=self._counter,
        )
        self._agent.initialize()
        self.policy = self._agent.policy
        buffers = library.replay_buffers.tf_uniform_replay_buffer
        self._buffer = buffers.TFUniformReplayBuffer(self._agent.collect_data_spec, 1, max_length=20_000)
        self._best, self._best_return = (
            self._network.copy(name="Best"),
            tf.Variable(-np.inf, dtype=tf.float32),
        )
        self._best.create_variables()
        self.checkpoint = tf.train.Checkpoint(
            agent=self._agent, buffer=self._buffer, best=self._best, best_return=self._best_return
        )

        def train(batches: Any, count: Any) -> Any:
            def step(done: Any, total: Any) -> Any:
                return done + 1, total + self._agent.train(batches.get_next()[0]).loss

            return tf.while_loop(lambda done, total: done < count, step, (0, 0.0))[1]

        self._train = tf.function(train, autograph=False)

    def learn(self, number: int) -> dict[str, float]:
        """Play episodes, and after each let the optimizer do as many steps as the episode had."""
        tf, library = stack.tf, self._library
        stack.keras.utils.set_random_seed(*_seeds(self._seed, _DRAWS, number + 1, count=1))
        played = library.metrics.tf_metrics.EnvironmentSteps()
        returned = library.metrics.tf_metrics.AverageReturnMetric(buffer_size=_ROUND)
        driver = library.drivers.dynamic_episode_driver.DynamicEpisodeDriver(
            self._begun(_TRAINING, number, count=1),
            self._agent.collect_policy,
            observers=[self._buffer.add_batch, played, returned],
            num_episodes=1,
        )
        play = tf.function(driver.run, autograph=False)
        options = tf.data.Options()
        options.autotune.enabled = (
            False  # it would draw ahead, from a buffer that an episode is being written to
        )
        options.experimental_optimization.inject_prefetch = False
        batches = iter(self._buffer.as_dataset(sample_batch_size=128, num_steps=2).with_options(options))
        loss, start = 0.0, int(self._counter)
        while int(self._counter) < min(_ROUND * (number + 1), self._steps):
            play()
            loss += float(self._train(batches, tf.cast(played.result() - self._counter + start, tf.int32)))
        validated, _ = self._play(self.policy, _VALIDATION, count=_VALIDATION_EPISODES)
        if validated.mean() > self._best_return:
            self._best_return.assign(validated.mean())
            _assign(self._best, self._network)
        steps = int(self._counter)
        measured = {"loss": loss / (steps - start), "return": float(returned.result())}
        return {"steps": steps, **measured, "val_return": float(validated.mean())}

    def measure(self, rows: Sequence[dict[str, Any]]) -> dict[str, float]:
        """Return the mean return of the best weights, and of actions at random, in episodes that training never saw."""
        _assign(self._network, self._best)
        returns, self.states = self._play(self.policy, _TEST, count=EPISODES)
        specs = self.policy.time_step_spec, self.policy.action_spec
        stack.keras.utils.set_random_seed(*_seeds(self._seed, _RANDOM, count=1))
        by_chance, _ = self._play(
            self._library.policies.random_tf_policy.RandomTFPolicy(*specs), _TEST, count=EPISODES
        )
        best = {"agent/episodes": EPISODES, "agent/best_val_return": float(self._best_return)}
        return {
            **_interval("mean_return", returns, self._seed),
            "agent/random_return": by_chance.mean(),
            **best,
        }

    def values(self, states: Any) -> Any:
        """Return the discounted returns that the network expects."""
        return self._network(states)[0]

    def _begun(self, *place: int, count: int) -> Any:
        """Return a batch of environments, seeded by what they are for."""
        suite = self._library.environments.suite_gym
        try:
            suite.gym.logger.set_level(suite.gym.logger.ERROR)
            environments = [suite.load(self._environment) for _ in range(count)]
        except Exception as error:  # gym's own, of its kinds of environments, or of what a user's one imports
            raise ConfigError(f"--environment {self._environment}: {packages.first_line(error)}") from error
        for environment, seed in zip(environments, _seeds(self._seed, *place, count=count), strict=True):
            environment.seed(seed)
        kinds = self._library.environments
        return kinds.TFPyEnvironment(kinds.BatchedPyEnvironment(environments, multithreading=False))

    def _play(self, policy: Any, *place: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the returns [count] of one episode in each of several environments, and the states [n, d] in them."""
        environments, act = (
            self._begun(*place, count=count),
            self._library.utils.common.function(policy.action),
        )
        step, returns, playing, states = environments.reset(), np.zeros(count), np.ones(count, bool), []
        while playing.any():
            states.append(step.observation.numpy()[playing])
            step = environments.step(act(step).action)
            returns += np.where(playing, step.reward, 0)
            playing &= ~step.is_last().numpy()
        return returns, np.concatenate(states)


def _assign(network: Any, source: Any) -> None:
    for variable, value in zip(network.variables, source.variables, strict=True):
        variable.assign(value)


ALPHA = 0.5
"""How far LinUCB prefers arms of which it knows little."""


class _LinUCB:
    """A contextual bandit: handwritten digits are the contexts, their classes the arms; a right choice is worth 1.

    Li et al., "A Contextual-Bandit Approach to Personalized News Article Recommendation", 2010, with disjoint models.
    """

    def __init__(self, config: AgentConfig) -> None:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        tf, library, self._seed = stack.tf, stack.tf_agents, config.seed
        pixels, classes = load_digits(return_X_y=True)
        parts = train_test_split(
            (pixels / 16).astype(np.float32),
            classes.astype(np.int32),
            test_size=0.2,
            random_state=self._seed,
            stratify=classes,
        )
        self.states, self._test_states, self._classes, self._test_classes = parts
        steps = config.steps or len(self.states)
        if steps > len(self.states):
            raise ConfigError(
                f"--steps is {steps}, and there are {len(self.states)} training digits; each is shown once."
            )
        self.rounds, self._steps = -(-steps // 100), steps
        contexts = tf.TensorSpec(self.states.shape[1:], tf.float32, name="observation")
        step_spec = library.trajectories.time_step.time_step_spec(contexts)
        arms = library.specs.BoundedTensorSpec([], tf.int32, 0, 9, name="action")
        linear = library.bandits.agents.linear_bandit_agent
        self._model = linear.LinearBanditVariableCollection(self.states.shape[1], 10, use_eigendecomp=True)
        agent = library.bandits.agents.lin_ucb_agent.LinearUCBAgent(
            step_spec, arms, variable_collection=self._model, alpha=ALPHA, use_eigendecomp=True
        )
        # Once it has learned, it need not explore: the greedy policy of the same model.
        self.policy = library.bandits.policies.linear_bandit_policy.LinearBanditPolicy(
            arms,
            self._model.cov_matrix_list,
            self._model.data_vector_list,
            self._model.num_samples_list,
            step_spec,
            theta=self._model.theta,
            alpha=0.0,
        )
        self.checkpoint = tf.train.Checkpoint(model=self._model)

        def choose(context: Any, right: Any) -> Any:
            step = library.trajectories.time_step.restart(context, batch_size=1)
            arm = agent.collect_policy.action(step)
            reward = tf.cast(arm.action == right, tf.float32)
            single = library.trajectories.trajectory.single_step
            seen = single(context, arm.action, arm.info, reward, tf.ones_like(reward))
            loss = agent.train(tf.nest.map_structure(lambda value: value[:, None], seen)).loss
            return tf.stack([reward[0], loss])

        self._choose = tf.function(choose, autograph=False)

    def learn(self, number: int) -> dict[str, float]:
        """Choose for the next 100 digits, and learn from each before the next."""
        shown = range(100 * number, min(100 * (number + 1), self._steps))
        found = [self._choose(self.states[[place]], self._classes[[place]]) for place in shown]
        reward, loss = np.mean(found, axis=0)
        return {"steps": shown.stop, "loss": float(loss), "return": float(reward)}

    def measure(self, rows: Sequence[dict[str, Any]]) -> dict[str, float]:
        """Return what was chosen wrongly while it learned, and what the model is worth on the test digits."""
        from sklearn.linear_model import RidgeClassifier

        shown = np.diff([0, *(row["steps"] for row in rows)])
        regret = sum(count * (1 - row["return"]) for count, row in zip(shown, rows, strict=True))
        at_random = np.random.default_rng(self._seed).integers(10, size=self._steps)
        told = RidgeClassifier(alpha=1.0, fit_intercept=False)
        told.fit(self.states[: self._steps], self._classes[: self._steps])
        right = np.argmax(self.values(self._test_states), axis=1) == self._test_classes
        return {
            "agent/decisions": self._steps,
            "agent/regret": regret,
            "agent/random_regret": float((at_random != self._classes[: self._steps]).sum()),
            **_interval("test_accuracy", right.astype(float), self._seed),
            "agent/full_information_accuracy": told.score(self._test_states, self._test_classes),
        }

    def values(self, states: Any) -> Any:
        """Return the rewards that the model expects."""
        return stack.tf.matmul(states, self._model.theta, transpose_b=True)
