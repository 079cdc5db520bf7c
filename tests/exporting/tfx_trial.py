"""What TFX's Transform and Trainer do with an export, without its orchestration; runs where TensorFlow Transform is.

    python tfx_trial.py EXPORT RECORDS WORK [EXPORT RECORDS WORK ...]

prints a JSON line for each: what the exported model gives for the first examples.
"""

import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import apache_beam as beam
import numpy as np
import tensorflow as tf
import tensorflow_transform.beam as tft_beam
import tf_keras as keras
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_transform.tf_metadata import dataset_metadata, metadata_io
from tfx_bsl.coders.example_coder import RecordBatchToExamplesEncoder
from tfx_bsl.public.tfxio import TFExampleRecord


def trial(export, records, work):
    """Transform the records, train, export, and return what the exported model gives."""
    spec = importlib.util.spec_from_file_location("trainer", export / "trainer.py")
    trainer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(trainer)
    schema = text_format.Parse((export / "schema.pbtxt").read_text(), schema_pb2.Schema())
    source = TFExampleRecord(str(records), schema=schema, telemetry_descriptors=["trial"])
    with beam.Pipeline("DirectRunner") as pipeline, tft_beam.Context(temp_dir=tempfile.mkdtemp(dir=work)):
        raw = pipeline | source.BeamSource()
        (batches, metadata), function = (
            raw,
            source.TensorAdapterConfig(),
        ) | tft_beam.AnalyzeAndTransformDataset(trainer.preprocessing_fn, output_record_batches=True)
        function | tft_beam.WriteTransformFn(str(work / "graph"))
        encoder = RecordBatchToExamplesEncoder(metadata.schema)
        examples = batches | beam.FlatMapTuple(lambda batch, _: encoder.encode(batch))
        name = str(work / "graph/transformed_examples")
        examples | beam.io.WriteToTFRecord(name, file_name_suffix=".gz", num_shards=2)
    # As the component Transform does.
    metadata_io.write_metadata(dataset_metadata.DatasetMetadata(schema), str(work / "graph/metadata"))
    files = [f"{work}/graph/transformed_examples-*"]
    trainer.run_fn(
        SimpleNamespace(
            train_files=files, eval_files=files, train_steps=12, eval_steps=2, serving_model_dir=str(work / "model"),
            transform_graph_path=str(work / "graph"), model_run_dir=str(work / "logs"),
            custom_config={"learning_rate": 1e-3},
        )
    )  # fmt: skip
    serialized = tf.constant([*tf.data.TFRecordDataset(str(records)).take(40).as_numpy_iterator()])
    model = tf.saved_model.load(str(work / "model"))
    given = model.signatures["serving_default"](examples=serialized)["probabilities"].numpy()
    transformed = model.signatures["transform_features"](examples=serialized)
    by_keras = keras.models.load_model(work / "model", compile=False).predict(transformed[trainer.INPUT])
    return {
        "features": sorted(transformed),
        "labels": transformed[trainer.LABEL].numpy().tolist(),
        "probabilities": given.tolist(),
        "difference": float(np.abs(given - by_keras).max()),
    }


for places in zip(*[map(Path, sys.argv[1:])] * 3, strict=True):
    print(json.dumps(trial(*places)))
