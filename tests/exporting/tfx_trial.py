"""What TFX's Transform and Trainer do with an export, without its orchestration; runs where TensorFlow Transform is.

    python tfx_trial.py EXPORT RECORDS WORK

prints a JSON line: what Transform and the exported model give for the first examples.
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
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_transform.tf_metadata import dataset_metadata, metadata_io
from tfx_bsl.coders.example_coder import RecordBatchToExamplesEncoder
from tfx_bsl.public.tfxio import TFExampleRecord

export, records, work = map(Path, sys.argv[1:])
spec = importlib.util.spec_from_file_location("trainer", export / "trainer.py")
trainer = importlib.util.module_from_spec(spec)
spec.loader.exec_module(trainer)

schema = text_format.Parse((export / "schema.pbtxt").read_text(), schema_pb2.Schema())
source = TFExampleRecord(str(records / "*.tfrecord*"), schema=schema, telemetry_descriptors=["trial"])
with beam.Pipeline("DirectRunner") as pipeline, tft_beam.Context(temp_dir=tempfile.mkdtemp(dir=work)):
    raw = pipeline | source.BeamSource()
    analyzed = (raw, source.TensorAdapterConfig())
    (batches, metadata), function = analyzed | tft_beam.AnalyzeAndTransformDataset(
        trainer.preprocessing_fn, output_record_batches=True
    )
    function | tft_beam.WriteTransformFn(str(work / "graph"))
    encoder = RecordBatchToExamplesEncoder(metadata.schema)
    examples = batches | beam.FlatMapTuple(lambda batch, _: encoder.encode(batch))
    examples | beam.io.WriteToTFRecord(str(work / "transformed"), file_name_suffix=".gz", num_shards=2)
# As the component Transform does.
raw_metadata = dataset_metadata.DatasetMetadata(schema)
metadata_io.write_metadata(raw_metadata, str(work / "graph/metadata"))

trainer.run_fn(
    SimpleNamespace(
        train_files=[f"{work}/transformed-*"], eval_files=[f"{work}/transformed-*"], train_steps=8, eval_steps=2,
        transform_graph_path=str(work / "graph"), serving_model_dir=str(work / "model"),
        model_run_dir=str(work / "logs"), custom_config={"learning_rate": 1e-3},
    )
)  # fmt: skip

serialized = [
    record.numpy()
    for file in sorted(records.glob("*.tfrecord"))
    for record in tf.data.TFRecordDataset(str(file)).take(12)
]
model = tf.saved_model.load(str(work / "model"))
given = model.signatures["serving_default"](examples=tf.constant(serialized))["probabilities"].numpy()
transformed = model.signatures["transform_features"](examples=tf.constant(serialized))
keras_model = trainer.keras.models.load_model(work / "model", compile=False)
by_keras = keras_model.predict(transformed[trainer.INPUT], verbose=0)
print(
    json.dumps(
        {
            "labels": transformed[trainer.LABEL].numpy().tolist(),
            "probabilities": given.tolist(),
            "difference": float(np.abs(given - by_keras).max()),
            "keys": sorted(transformed),
            "version": tft.__version__,
        }
    )
)
