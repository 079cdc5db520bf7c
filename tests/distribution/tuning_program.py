"""One of two workers of test_tuning.py: trains with the metrics summed once an epoch."""

import json

import numpy as np

from tfkit.distribution.strategies import sum_metrics_once_an_epoch
from tfkit.environment.stack import keras, tf


def collectives(function, iterator):
    graph = function.get_concrete_function(iterator).graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return sum("Collective" in node.op for node in nodes)


def train(strategy):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, activation="sigmoid")])
        metrics = ["accuracy", keras.metrics.AUC(name="auc")]
        model.compile(keras.optimizers.SGD(0.5), "binary_crossentropy", metrics=metrics)
    sum_metrics_once_an_epoch(model)
    features = np.random.default_rng(0).standard_normal((96, 4)).astype(np.float32)
    labels = (features[:, :1] > 0).astype(np.float32)

    def own(context):
        mine = slice(context.input_pipeline_id, None, context.num_input_pipelines)
        return tf.data.Dataset.from_tensor_slices((features[mine], labels[mine])).repeat().batch(16)

    def dataset():
        return strategy.distribute_datasets_from_function(own)

    validation = {"validation_data": dataset(), "validation_steps": 3}
    history = model.fit(dataset(), epochs=2, steps_per_epoch=3, verbose=0, **validation).history
    return {
        "history": history,
        "evaluated": model.evaluate(dataset(), steps=3, verbose=0, return_dict=True),
        "collectives": collectives(model.train_function, iter(dataset())),
    }


if __name__ == "__main__":
    print(json.dumps(train(tf.distribute.MultiWorkerMirroredStrategy())), flush=True)
