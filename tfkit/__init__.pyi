"""The public names of tfkit, and where each is; see `tfkit.environment.lazy_names`."""

from tfkit import auditing as auditing
from tfkit import calibration as calibration
from tfkit import compression as compression
from tfkit import data as data
from tfkit import distribution as distribution
from tfkit import environment as environment
from tfkit import errors as errors
from tfkit import hub as hub
from tfkit import inference as inference
from tfkit import privacy as privacy
from tfkit import reporting as reporting
from tfkit import searching as searching
from tfkit import text as text
from tfkit import training as training
from tfkit import tuning as tuning
from tfkit.auditing.audit import audit as audit
from tfkit.compression.compare import compare as compare
from tfkit.compression.compress import compress as compress
from tfkit.compression.convert import convert as convert
from tfkit.compression.inspect import inspect as inspect
from tfkit.compression.variants import Table as Table
from tfkit.data import Splits as Splits
from tfkit.data import from_arrays as from_arrays
from tfkit.data import load_images as load_images
from tfkit.data import load_texts as load_texts
from tfkit.data import read_image as read_image
from tfkit.environment import stack as stack
from tfkit.exporting import export as export
from tfkit.hub import Encoder as Encoder
from tfkit.hub import load_model as load_model
from tfkit.inference.label_errors import find_label_errors as find_label_errors
from tfkit.privacy import DPSGD as DPSGD
from tfkit.reporting.comparison import report as report
from tfkit.run import Run as Run
from tfkit.searching.search import search as search
from tfkit.training.fit import fit as fit
from tfkit.transfer.train import train as train
from tfkit.tuning.tune import tune as tune

__version__: str
