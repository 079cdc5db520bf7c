"""The report: what a run did and how good its model is, on one HTML page that needs nothing beside itself.

`write_report` writes the page and the model card of one run, `write_comparison` puts several beside each other;
`callbacks` shows a training in TensorBoard as it goes.
"""

from tfkit.environment import lazy_names

# Each brings its libraries: of TensorFlow, pandas and matplotlib a reader of an evaluation needs none.
__getattr__, __all__ = lazy_names(__name__, __file__)
