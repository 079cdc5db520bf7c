"""Train agents of TF-Agents and export their policies: a deep Q-network in an environment of gym, and a bandit.

Training is done in rounds, and a checkpoint follows each. What a round does is a function of the seed, its number and
the state before it (weights, optimizer, replay buffer, counters): it begins with an environment and random numbers of
its own. So a run that is killed and started again ends with the weights of an unbroken one.

An agent in training, as `_build_deep_q` and `_build_lin_ucb` make it, has `steps`, and so many `rounds`; `policy` and
`checkpoint`, of TF-Agents and TensorFlow; `learn(number)`, which does a round and returns what was measured in it;
`measure()`, which returns what the policy is worth and the states float32 [n, d] that it met; and `values(states)`,
what it expects of each action: float32 [n, actions].
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from tfkit import litert, reporting, run_files
from tfkit.environment import files, packages, stack
from tfkit.environment.process import quiet
from tfkit.environment.timeline import stage
from tfkit.errors import CheckError, ConfigError
from tfkit.reporting.tensorboard import event_writer
from tfkit.run import POLICY, TFLITE, Run
from tfkit.settings.jobs import AgentConfig
from tfkit.settings.parse import as_dict, run_dir

EPISODES, VALIDATION_EPISODES, ROUND, STATES = 100, 10, 1000, 500
"""Episodes of the test and after each round; actions of a round of dqn; states in which what was exported is asked."""

_DRAWS, _TRAINING, _VALIDATION, _TEST = range(4)


@quiet()
def train_agent(config: AgentConfig) -> Run:
    """Train an agent, or go on with the training that was interrupted in the folder; measure and export its policy.

    Args:
      config: which agent, where it acts, for how long.

    Returns:
      The finished run: policy/ (a SavedModel whose `action` takes a TimeStep), tflite/policy.tflite (float32 [1, d] to
      the action's number), and in metrics.json `agent/mean_return` (dqn) or `agent/regret` (linucb).

    Raises:
      StackError: TF-Agents, or what it needs, is missing.
      ConfigError: there are not so many digits.
      RunError: see `Run.create`; or a checkpoint is damaged.
      CheckError: an exported policy does not act as the one that was measured.
    """
    agent = (_build_deep_q if config.agent == "dqn" else _build_lin_ucb)(config)
    folder = run_dir(config, recipe="train_agent")
    with Run.create(folder, config=as_dict(config), overwrite=config.overwrite) as run:
        if run.finished:
            run.say(f"{folder} holds the finished run of this very config; --overwrite would do it again.")
            return run
        run.versions, run.provenance = packages.versions(), {"recipe": {"name": "train_agent"}}
        with run.timed() as record_times:
            run.decide(steps=agent.steps)
            # One is kept, under a number, as all backups are.
            manager = stack.tf.train.CheckpointManager(agent.checkpoint, run.backup / "agent", 1, None, "0")
            rows = _restore(run, manager)
            with stage("learn", "Learning"):
                for number in range(len(rows), agent.rounds):
                    rows.append({"stage": config.agent, "epoch": number, **agent.learn(number)})
                    files.write_json(run.backup / f"{len(rows)}.json", {"rows": rows})
                    manager.save(checkpoint_number=len(rows))
                    _show(run, rows, agent.rounds)
            with stage("measure", "Measuring"):
                metrics, states = agent.measure()
            with stage("export", "Exporting the policy"):
                run.record({**metrics, **_export(run, agent, states)})
            record_times()
            reporting.write_report(run)
    return run


def _restore(run: Run, manager: Any) -> list[dict[str, Any]]:
    """Put the agent where its last checkpoint was, and return the rows until then."""
    try:
        if latest := manager.restore_or_initialize():
            number = latest.rpartition("-")[2]
            return list(run_files.read_json(run.backup, f"{number}.json", {"rows": [dict]})["rows"])
    except (LookupError, stack.tf.errors.OpError) as error:
        raise run_files.damaged(run.backup / "agent", packages.first_line(error)) from error
    return []


def _show(run: Run, rows: list[dict[str, Any]], rounds: int) -> None:
    """Tell of the last round on the screen, and of all of them in history.csv and TensorBoard."""
    run.write_history(rows)
    with event_writer(run.logdir, kind="agent") as tf:
        for row in rows:
            for name in row.keys() - {"stage", "epoch", "steps"}:
                tf.summary.scalar(f"agent/{name}", row[name], step=row["steps"])
    text = ", ".join(f"{name.replace('_', ' ')} {value:.6g}" for name, value in [*rows[-1].items()][2:])
    run.say(f"Round {len(rows)} of {rounds}: {text}")


def _export(run: Run, agent: Any, all_states: np.ndarray) -> dict[str, float]:
    """Write the policy as SavedModel and as TFLite, once both have acted as it does in states that it met."""
    tf, library = stack.tf, stack.tf_agents
    states = np.random.default_rng(run.config["seed"]).permutation(all_states)[:STATES]
    step, values = library.trajectories.time_step.restart, np.asarray(agent.values(states))
    act = tf.function(lambda state: agent.policy.action(step(state, batch_size=1)).action, autograph=False)
    content = litert.to_tflite(act, input_shape=[1, *states.shape[1:]])
    with files.new_folder(run.path / POLICY) as temp, litert.ParallelInterpreter(content) as interpreter:
        library.policies.policy_saver.PolicySaver(agent.policy).save(str(temp))
        policy = tf.saved_model.load(str(temp))
        saved_actions = policy.action(step(states, batch_size=len(states))).action.numpy()
        actions = {"saved_model": saved_actions, "tflite": interpreter(states).astype(int)}
        for name, choices in actions.items():
            losses = values.max(axis=1) - np.take_along_axis(values, choices[:, None], axis=1)[:, 0]
            if not (losses <= 1e-5 * np.abs(values).max()).all():  # but for ties, which rounding decides
                raise CheckError(f"The exported {name} acts otherwise than the policy: take another --seed.")
        files.write_bytes(run.path / TFLITE / "policy.tflite", content)
    best = values.argmax(axis=1)
    return {f"agent/{name}_agreement": (choices == best).mean() for name, choices in actions.items()}


def _bootstrap(name: str, values: np.ndarray, seed: int) -> dict[str, float]:
    """Return the mean of values [n] and the ends of its 95 % interval, by the percentiles of 9,999 bootstrap means."""
    from scipy.stats import bootstrap

    ends = bootstrap([values], np.mean, method="percentile", random_state=seed).confidence_interval
    return {f"agent/{name}": values.mean(), f"agent/{name}_low": ends.low, f"agent/{name}_high": ends.high}


def _make_seeds(*place: int, count: int = 1) -> list[int]:
    """Return seeds that belong to one place in a run and to no other."""
    return list(map(int, np.random.SeedSequence(place).generate_state(count)))


def _build_deep_q(config: AgentConfig) -> SimpleNamespace:
    """Return a double deep Q-network, which keeps the weights that did best in validation episodes after a round."""
    tf, keras, library, seed = stack.tf, stack.keras, stack.tf_agents, config.seed
    common, kinds = library.utils.common, library.environments
    steps, counter, best_return = config.steps or 15_000, tf.Variable(0, dtype=tf.int64), tf.Variable(-np.inf)

    def create(*place: int, count: int = 1) -> Any:
        """Return a batch of environments, seeded by what they are for."""
        environments = [kinds.suite_gym.load(config.environment) for _ in range(count)]
        for env, number in zip(environments, _make_seeds(seed, *place, count=count), strict=True):
            env.seed(number)
        return kinds.TFPyEnvironment(kinds.BatchedPyEnvironment(environments, multithreading=False))

    def play(policy: Any, *place: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the returns [count] of one episode in each of several environments, and the states [n, d] in them."""
        environments, act = create(*place, count=count).pyenv.envs, common.function(policy.action)
        steps, returns, states = [env.reset() for env in environments], np.zeros(count), []
        while active := [number for number, step in enumerate(steps) if not step.is_last()]:
            # Of all of them, also where an episode has ended: a policy is traced for each number of states.
            actions = act(library.utils.nest_utils.stack_nested_arrays(steps)).action.numpy()
            for number in active:
                states.append(steps[number].observation)
                steps[number] = environments[number].step(actions[number])
                returns[number] += steps[number].reward
        return returns, np.stack(states)

    keras.utils.set_random_seed(*_make_seeds(seed, _DRAWS))
    env, rate = create(_TRAINING), keras.optimizers.schedules.CosineDecay(config.learning_rate, steps)
    specs = env.observation_spec(), env.action_spec()
    network = library.networks.q_network.QNetwork(*specs, fc_layer_params=(100, 50))
    agent = library.agents.dqn.dqn_agent.DdqnAgent(
        env.time_step_spec(), specs[1], q_network=network, optimizer=keras.optimizers.Adam(rate), gamma=0.99,
        epsilon_greedy=lambda: tf.maximum(0.05, 1 - tf.cast(counter, tf.float32) / (0.1 * steps)),
        td_errors_loss_fn=common.element_wise_huber_loss, target_update_period=200,
        reward_scale_factor=0.1, train_step_counter=counter,  # values near one, which a fresh network is made for
    )  # fmt: skip
    agent.initialize()
    buffers, best = library.replay_buffers.tf_uniform_replay_buffer, [*map(tf.Variable, network.variables)]
    buffer = buffers.TFUniformReplayBuffer(agent.collect_data_spec, 1, max_length=20_000)

    @tf.function(autograph=False)
    def train(batches: Any, count: Any) -> Any:
        def step(number: Any, total: Any) -> Any:
            return number + 1, total + agent.train(batches.get_next()[0]).loss

        return tf.while_loop(lambda number, total: number < count, step, (0, 0.0))[1]

    def learn(number: int) -> dict[str, float]:
        """Play episodes, and after each let the optimizer do as many steps as the episode had."""
        keras.utils.set_random_seed(*_make_seeds(seed, _DRAWS, number + 1))
        options, metrics, loss, start = tf.data.Options(), library.metrics.tf_metrics, 0.0, int(counter)
        options.experimental_optimization.inject_prefetch = False  # from a buffer that is being written to
        batches = iter(buffer.as_dataset(sample_batch_size=128, num_steps=2).with_options(options))
        total, average = metrics.EnvironmentSteps(), metrics.AverageReturnMetric(buffer_size=ROUND)
        drivers, observers = library.drivers.dynamic_episode_driver, [buffer.add_batch, total, average]
        driver = drivers.DynamicEpisodeDriver(create(_TRAINING, number), agent.collect_policy, observers)
        episode = common.function(driver.run)
        while int(counter) < min(ROUND * (number + 1), steps):
            episode()
            loss += float(train(batches, tf.cast(total.result() - counter + start, tf.int32)))
        val_return = play(agent.policy, _VALIDATION, count=VALIDATION_EPISODES)[0].mean()
        if val_return > best_return:
            best_return.assign(val_return)
            common.soft_variables_update(network.variables, best)
        results = {"loss": loss / int(total.result()), "return": float(average.result())}
        return {"steps": int(counter), **results, "val_return": float(val_return)}

    def measure() -> tuple[dict[str, float], np.ndarray]:
        """Return what the best weights, and actions at random, are worth in episodes that training never saw."""
        common.soft_variables_update(best, network.variables)
        returns, states = play(agent.policy, _TEST, count=EPISODES)
        keras.utils.set_random_seed(seed)
        random_policy = library.policies.random_tf_policy.RandomTFPolicy(env.time_step_spec(), specs[1])
        baseline = {"agent/random_return": play(random_policy, _TEST, count=EPISODES)[0].mean()}
        return {"agent/episodes": EPISODES, **_bootstrap("mean_return", returns, seed), **baseline}, states

    functions = {"learn": learn, "measure": measure, "values": lambda states: network(states)[0]}
    checkpoint = tf.train.Checkpoint(agent=agent, buffer=buffer, best=best, best_return=best_return)
    counts = {"steps": steps, "rounds": -(-steps // ROUND)}
    return SimpleNamespace(policy=agent.policy, checkpoint=checkpoint, **counts, **functions)


def _build_lin_ucb(config: AgentConfig) -> SimpleNamespace:
    """Return a contextual bandit: digits are the contexts, their classes the arms, and a right choice is worth one.

    Li et al., "A Contextual-Bandit Approach to Personalized News Article Recommendation", 2010, with disjoint models.
    """
    from sklearn.datasets import load_digits
    from sklearn.linear_model import RidgeClassifier
    from sklearn.model_selection import train_test_split

    tf, library, bandits = stack.tf, stack.tf_agents, stack.tf_agents.bandits
    (pixels, classes), split = load_digits(return_X_y=True), {"test_size": 0.2, "random_state": config.seed}
    parts = train_test_split(np.float32(pixels / 16), np.int32(classes), stratify=classes, **split)
    states, test_states, labels, test_labels = parts
    steps, regret = config.steps or len(states), tf.Variable(0.0)
    if steps > len(states):
        raise ConfigError(f"--steps is {steps}; of the {len(states)} training digits each is shown once.")
    step_spec = library.trajectories.time_step.time_step_spec(tf.TensorSpec([64], tf.float32, "observation"))
    arms = library.specs.BoundedTensorSpec([], tf.int32, 0, 9, name="action")
    model = bandits.agents.linear_bandit_agent.LinearBanditVariableCollection(64, 10, use_eigendecomp=True)
    agents, policies = bandits.agents.lin_ucb_agent, bandits.policies.linear_bandit_policy
    settings = {"variable_collection": model, "use_eigendecomp": True}
    agent = agents.LinearUCBAgent(step_spec, arms, alpha=0.5, **settings)
    # Once it has learned, it need not explore: the greedy policy of the same model.
    tables = model.cov_matrix_list, model.data_vector_list, model.num_samples_list, step_spec
    greedy = policies.LinearBanditPolicy(arms, *tables, theta=model.theta, alpha=0.0)

    @tf.function(autograph=False)
    def choose(context: Any, best: Any) -> Any:
        arm = agent.collect_policy.action(library.trajectories.time_step.restart(context, batch_size=1))
        reward = tf.cast(arm.action == best, tf.float32)
        step = arm.action, arm.info, reward, tf.ones_like(reward)
        step = library.trajectories.trajectory.single_step(context, *step)
        regret.assign_add(1 - reward[0])
        return reward[0], agent.train(tf.nest.map_structure(lambda value: value[:, None], step)).loss

    def learn(number: int) -> dict[str, float]:
        """Choose for the next 100 digits, and learn from each before the next."""
        places = range(100 * number, min(100 * (number + 1), steps))
        reward, loss = np.mean([choose(states[[place]], labels[[place]]) for place in places], axis=0)
        return {"steps": places.stop, "loss": float(loss), "return": float(reward)}

    def predict(states: Any) -> Any:
        return tf.matmul(states, model.theta, transpose_b=True)

    def measure() -> tuple[dict[str, float], np.ndarray]:
        """Return what it chose wrongly as it learned, and what the model is worth on the test digits."""
        ridge = RidgeClassifier(alpha=1.0, fit_intercept=False).fit(states[:steps], labels[:steps])
        full_metrics = {"agent/full_information_accuracy": ridge.score(test_states, test_labels)}
        hits = (np.argmax(predict(test_states), axis=1) == test_labels).astype(float)
        metrics = {"agent/decisions": steps, "agent/regret": int(regret), "agent/random_regret": 0.9 * steps}
        return {**metrics, **_bootstrap("test_accuracy", hits, config.seed), **full_metrics}, states

    functions = {"learn": learn, "measure": measure, "values": predict, "steps": steps}
    checkpoint = tf.train.Checkpoint(model=model, regret=regret)
    return SimpleNamespace(rounds=-(-steps // 100), policy=greedy, checkpoint=checkpoint, **functions)
