"""Train for the device by tfmot: pruning, clustering, quantization-aware training, each measured.

Sources: pruning: Zhu and Gupta 2017 (arXiv:1710.01878), 2:4: Mishra et al. 2021 (arXiv:2104.08378); clustering: Han et
al. 2016 (arXiv:1510.00149); quantization-aware training: Jacob et al. 2018 (arXiv:1712.05877).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

from tfkit.compression.sources import find_nonfinite
from tfkit.environment import foreign, stack
from tfkit.environment.packages import what
from tfkit.errors import CheckError, ConfigError, UsageError
from tfkit.settings import fields
from tfkit.training.outputs import op_counts

LOST = 0.01
"""So much of the sparsity may be lost where zeros are to be kept."""

BEGIN, END = 0.1, 0.7
"""Shares of the steps between which sparsity grows; what is left afterwards trains what remains."""

UPDATES = 50
"""About so many times are the masks made anew."""

TOLERANCE = 0.01
"""By so much may sparsity stay below what was asked for."""

_RANGED_TENSORS = ("output", "post_activation", "quantize_layer")
_MIN_CHANGED_SHARE = 0.9


class Treatment(NamedTuple):
    """Describe what a technique will do to one layer.

    Attributes:
      layer: its name.
      kind: its class.
      treated: whether the technique changes it.
      how: what happens to it, or why nothing does.
    """

    layer: str
    kind: str
    treated: bool
    how: str


def to_lines(treatments: Iterable[Treatment]) -> str:
    """Return a line for each layer: its name, its class, what happens to it."""
    return "".join(f"\n  {treatment.layer} ({treatment.kind}): {treatment.how}" for treatment in treatments)


class Technique:
    """A technique that needs training: `wrap` a model, `fit` with the callbacks, `strip` it, `measure` the result."""

    def __post_init__(self) -> None:
        """Check the values."""
        fields.check(self)

    @property
    def name(self) -> str:
        """Return a short name with what was asked for: "prune0.8"."""
        raise NotImplementedError

    def treatments(self, model: stack.keras.Model) -> list[Treatment]:
        """Return what will happen to every layer, before anything is built.

        Raises:
          UsageError: the model cannot be taken apart, or nothing in it can be treated.
        """
        refuse_what_has_no_layers(model, technique=self.name)
        layers = model.layers
        treatments = [Treatment(layer.name, type(layer).__name__, *self._decide(layer)) for layer in layers]
        if not any(treatment.treated for treatment in treatments):
            raise UsageError(f"{self.name} would change no layer of {model.name}:{to_lines(treatments)}")
        return treatments

    def treated(self, model: stack.keras.Model) -> set[str]:
        """Return the names of the layers that are changed; errors as of `treatments`."""
        return {treatment.layer for treatment in self.treatments(model) if treatment.treated}

    def wrap(self, model: stack.keras.Model, *, steps: int) -> stack.keras.Model:
        """Return a trainable clone with the technique in it, not compiled; `model` stays as it is.

        Args:
          model: functional or Sequential.
          steps: that it will be trained for.
        """
        raise NotImplementedError

    def callbacks(self) -> list[stack.keras.callbacks.Callback]:
        """Return what `fit` needs."""
        return []

    def strip(self, wrapped: stack.keras.Model) -> stack.keras.Model:
        """Return the trained model, ready for the next technique or for the converter."""
        return wrapped

    def measure(self, before: stack.keras.Model, after: stack.keras.Model) -> dict[str, float]:
        """Measure what training did.

        Args:
          before: the model that was wrapped.
          after: what `strip` returned.

        Raises:
          CheckError: it is not what was asked for; the message names the layers.
        """
        raise NotImplementedError

    def _decide(self, layer: Any) -> tuple[bool, str]:
        """Return whether a layer is treated, and how or why not; nothing of one that has no part in it."""
        raise NotImplementedError

    def _decide_by(
        self, names: Sequence[str] | None, layer: Any, *, misfit: Callable[[Any], str], how: str
    ) -> tuple[bool, str]:
        """Decide by the names of the weights that tfmot treats, None of a layer that it does not know."""
        if not layer.weights:
            return False, ""
        if names is None:
            return False, f"tfmot cannot {type(self).__name__.lower()} a {type(layer).__name__}"
        if not names:
            has_kernel = any(short_name(weight).endswith("kernel") for weight in layer.weights)
            return False, "small and sensitive, or frozen" if has_kernel else ""
        reasons = [misfit(weight) for weight in layer.weights if short_name(weight) in names]
        return not any(reasons), max(reasons, default="") or how


def unwrap(layer: Any) -> Any:
    """Return the layer within a wrapper of tfmot; any other, such as Keras's own Bidirectional, as it is."""
    is_wrapper = type(layer).__module__.startswith("tensorflow_model_optimization")
    return getattr(layer, "layer", layer) if is_wrapper else layer


def clone(model: stack.keras.Model, change: Callable[[Any], Any] | None = None) -> stack.keras.Model:
    """Build a functional or Sequential model anew, with the same weights.

    Args:
      model: flat.
      change: makes the new layer of each old one, as of `keras.models.clone_model`; it may be a wrapper.

    Returns:
      Uncompiled.
    """
    copy = stack.keras.models.clone_model(model, clone_function=change)
    # A wrapper of a technique calls itself what it likes; the layer inside of it has kept its name.
    copies = {candidate.name: candidate for layer in copy.layers for candidate in (unwrap(layer), layer)}
    for layer in model.layers:
        if layer.weights:
            copies[layer.name].set_weights(layer.get_weights())
    return copy


def copy_layer(layer: Any) -> Any:
    """Return a new layer of the same settings."""
    return layer.__class__.from_config(layer.get_config())


def short_name(weight: Any) -> str:
    """Return the name of a weight without those of its layers: "kernel"."""
    return str(weight.name.split("/")[-1].split(":")[0])


def kernels(model: stack.keras.Model, treated: Container[str] | None = None) -> dict[str, np.ndarray]:
    """Return the kernels of all layers by layer name, also of layers that are wrapped.

    A layer of several (a recurrent one, an attention) has them under its name, and theirs with their places.

    Args:
      model: flat.
      treated: names of layers: of these alone, and without the depthwise kernels, which no technique treats.
    """
    values = {}
    for layer in model.layers:
        name = unwrap(layer).name
        group = [weight for weight in layer.weights if short_name(weight).endswith(("kernel", "embeddings"))]
        for index, weight in enumerate(group):
            if treated is None or (name in treated and short_name(weight) != "depthwise_kernel"):
                values[name if len(group) == 1 else f"{name}/{short_name(weight)}_{index}"] = weight.numpy()
    return values


def sparsity(values: Mapping[str, np.ndarray]) -> float:
    """Return the share of zeros among all weights of kernels."""
    total = sum(value.size for value in values.values())
    return sum(value.size - np.count_nonzero(value) for value in values.values()) / max(total, 1)


def check_kept_zeros(name: str, before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> None:
    """Make sure that kernels have kept their zeros.

    Raises:
      CheckError: sparsity fell.
    """
    old_sparsity, new_sparsity = sparsity(before), sparsity(after)
    if old_sparsity - new_sparsity > LOST:
        raise CheckError(f"{name} lost zeros: sparsity fell from {old_sparsity:.3f} to {new_sparsity:.3f}.")


def changed_share(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> float:
    """Return the share of the kernels that training has changed."""
    common = [name for name in before if name in after and before[name].shape == after[name].shape]
    changed_names = [name for name in common if not np.array_equal(before[name], after[name])]
    return len(changed_names) / len(common) if common else 0.0


def refuse_what_has_no_layers(model: stack.keras.Model, *, technique: str) -> None:
    """Make sure that all of a model's layers can be seen and exchanged.

    Raises:
      UsageError: it is no model of tf_keras, has no weights or such as are no numbers, is subclassed, or holds models
        or hub layers; the message names all of them.
    """
    if not isinstance(model, stack.keras.Model):
        raise UsageError(
            f"{technique} takes a model of tf_keras; this is {what(model)}.\n"
            "  Build it with `from tfkit.environment.stack import keras`; a Keras 3 file converts without it, as it is."
        )
    kind, problems = type(model).__name__, []
    if not foreign.knows_its_layers(model) or not model.built:
        problems.append(
            f"{kind} is subclassed, or not built: begin with keras.Input(shape), by the functional API."
        )
    elif bad := find_nonfinite(model.weights):
        problems.append(f"weights are not finite numbers: {bad}. Train it anew with a lower learning rate.")
    for layer in model.layers:
        if isinstance(layer, stack.keras.Model):
            flat = "keras.Model(inner.input, head(inner.output)) is flat"
            problems.append(f"{layer.name} is a model within the model: {flat}.")
        elif type(layer).__name__ == "KerasLayer":
            problems.append(
                f"{layer.name} is a hub.KerasLayer, which keeps no layers: take tfkit.load_model(name).functional(), or"
                " tfkit.compression.Prune(...).prune_variables."
            )
    if problems:
        raise UsageError(f"{technique} cannot take {model.name}:\n  " + "\n  ".join(problems))


def sentence(treatments: Sequence[Treatment], *, technique: str) -> str:
    """Say in one line how many layers are treated, and which others have weights and are not."""
    names: dict[str, list[str]] = {}
    for treatment in treatments:
        if not treatment.treated and treatment.how:
            names.setdefault(treatment.how, []).append(treatment.layer)
    text = "; ".join(f"{how}: {', '.join(group[:2])} ({len(group)} layers)" for how, group in names.items())
    count = sum(treatment.treated for treatment in treatments)
    return f"{technique}: {count} layers." + (f" Left as they are: {text}." if text else "")


@dataclass(frozen=True, kw_only=True)
class Cluster(Technique):
    """Leave each kernel so many distinct weights, which compress well, and train these.

    Args:
      number_of_clusters: distinct weights in a kernel.
      preserve_sparsity: keep zeros zero: after pruning.

    Raises:
      ConfigError: fewer than two clusters.
    """

    number_of_clusters: Annotated[int, fields.Range(ge=2)] = 16
    preserve_sparsity: bool = False

    @property
    def name(self) -> str:
        """Return a short name with what was asked for."""
        return f"cluster{self.number_of_clusters}"

    def wrap(self, model: stack.keras.Model, *, steps: int) -> stack.keras.Model:
        """Return a clone whose kernels are clustered, see `Technique`."""
        wrapper = stack.tfmot_module("core.clustering.keras.experimental.cluster").cluster_weights
        treated = self.treated(model)
        settings = {
            "number_of_clusters": self.number_of_clusters,
            "cluster_centroids_init": stack.tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS,
            "preserve_sparsity": self.preserve_sparsity,
        }
        # The wrapper finds the first centroids among the weights of its layer, so the layer needs them before.
        return stack.keras.models.clone_model(
            clone(model),
            clone_function=lambda layer: wrapper(layer, **settings) if layer.name in treated else layer,
        )

    def strip(self, wrapped: stack.keras.Model) -> stack.keras.Model:
        """Return the clustered model without centroids."""
        return stack.tfmot.clustering.keras.strip_clustering(wrapped)

    def measure(self, before: stack.keras.Model, after: stack.keras.Model) -> dict[str, float]:
        """Measure the distinct weights of the treated kernel with most, the sparsity, and what share changed.

        Raises:
          CheckError: a kernel has more distinct weights, or zeros were lost that were to be kept.
        """
        old, new, treated = kernels(before), kernels(after), kernels(after, self.treated(before))
        counts = {name: len(np.unique(value)) for name, value in treated.items()}
        max_count = self.number_of_clusters + self.preserve_sparsity  # zero is one more
        excess = ", ".join(f"{name} {count}" for name, count in counts.items() if count > max_count)
        if excess:
            raise CheckError(f"{self.name} left more than {max_count} distinct weights in {excess:.200}.")
        if self.preserve_sparsity:
            check_kept_zeros(self.name, old, new)
        return {
            "distinct_weights": max(counts.values()),
            "sparsity": sparsity(new),
            "kernels_changed": changed_share(old, new),
        }

    def _explain(self, weight: Any) -> str:
        small = weight.shape.num_elements() <= self.number_of_clusters
        return f"it has no more than {self.number_of_clusters} weights" if small else ""

    def _decide(self, layer: Any) -> tuple[bool, str]:
        how = f"its kernel gets {self.number_of_clusters} distinct weights"
        return self._decide_by(foreign.clusterable_weights(layer), layer, misfit=self._explain, how=how)


@dataclass(frozen=True, kw_only=True)
class Prune(Technique):
    """Make the smallest weights of every kernel zero, while training the others.

    Args:
      final_sparsity: share of zeros in each kernel at the end; of 2:4 it is 0.5.
      schedule: "polynomial": sparsity grows step by step; "constant": it is there at begin_step.
      begin_step: step of the first mask. Left out, this and the next two follow from the steps that are trained.
      end_step: step of the last mask.
      frequency: steps from one mask to the next.
      initial_sparsity: at begin_step, of the polynomial schedule.
      structure: "unstructured"; "block": neighbours in a dense kernel together; "2:4": two of each four.
      block_size: of "block", rows and columns.

    Raises:
      ConfigError: a value that cannot be.

    Example:
      >>> Prune(final_sparsity=0.75).name
      'prune0.75'
    """

    final_sparsity: Annotated[float, fields.Range(gt=0, lt=1)] = 0.8
    schedule: Literal["polynomial", "constant"] = "polynomial"
    begin_step: fields.NonNegativeInt | None = None
    end_step: fields.Count | None = None
    frequency: fields.Count | None = None
    initial_sparsity: fields.Share = 0.0
    structure: Literal["unstructured", "block", "2:4"] = "unstructured"
    block_size: tuple[fields.Count, fields.Count] = (1, 4)

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        if self.initial_sparsity >= self.final_sparsity:
            raise ConfigError(
                f"Sparsity cannot grow from {self.initial_sparsity} to {self.final_sparsity}: shares are expected, the"
                " latter larger and below 1."
            )

    @property
    def sparsity(self) -> float:
        """Return the share of zeros that is wanted of each kernel."""
        return 0.5 if self.structure == "2:4" else self.final_sparsity

    @property
    def name(self) -> str:
        """Return a short name with what was asked for."""
        block = "block" if self.structure == "block" else ""
        return "prune2of4" if self.structure == "2:4" else f"prune{block}{self.final_sparsity:g}"

    def wrap(self, model: stack.keras.Model, *, steps: int) -> stack.keras.Model:
        """Return a clone whose kernels are pruned as it trains, see `Technique`.

        Raises:
          ConfigError: see `plan_schedule`.
          UsageError: see `treatments`.
        """
        treated = self.treated(model)
        schedule = self.plan_schedule(fields.fit(steps, fields.Count, name="steps"))
        wrapper = stack.tfmot.sparsity.keras.prune_low_magnitude

        def change(layer: Any) -> Any:
            copy = copy_layer(layer)
            return wrapper(copy, schedule, **self._build_structure()) if layer.name in treated else copy

        return clone(model, change)

    def plan_schedule(self, steps: int) -> Any:
        """Return a schedule of tfmot for so many steps, in which the final sparsity is reached and trained with.

        Left out, it begins at a tenth of the steps, ends at seven tenths, and has some 50 updates.

        Raises:
          ConfigError: it would not prune, or not as far: what it would do, and values that would.
        """
        if steps < 2:
            raise ConfigError(f"Pruning needs 2 training steps or more; there are {steps}. Train longer.")
        begin = round(BEGIN * steps) if self.begin_step is None else self.begin_step
        end = max(begin + 1, round(END * steps)) if self.end_step is None else self.end_step
        frequency = self.frequency or max(1, round((end - begin) / UPDATES))
        if self.end_step is None:  # the last mask is to be made at the very end
            end = max(begin + 1, begin + (end - begin) // frequency * frequency)
        schedule, share = None, 0.0
        if begin < end:
            module = stack.tfmot.sparsity.keras
            make, sparsities = module.PolynomialDecay, [self.initial_sparsity, self.sparsity]
            if self.schedule == "constant" or self.structure == "2:4":
                make, sparsities = module.ConstantSparsity, [self.sparsity]
            schedule = make(*sparsities, begin_step=begin, end_step=end, frequency=frequency)
            # tfmot counts steps from 1, and makes masks at those a multiple of the frequency after begin_step.
            if (last := begin + (min(end, steps) - begin) // frequency * frequency) >= max(begin, 1):
                share = float(schedule(np.int64(last))[1])
        if schedule is None or share < self.sparsity - TOLERANCE:
            raise ConfigError(
                f"This pruning schedule (begin_step={begin}, end_step={end}, frequency={frequency}) would not reach"
                f" {self.sparsity:g} in {steps} steps: sparsity would stay at {share:.2f}, silently.\n  Leave these"
                " three out: they are chosen by the steps."
            )
        return schedule

    def callbacks(self) -> list[stack.keras.callbacks.Callback]:
        """Count the steps, and apply the masks at the end of each epoch."""
        return [stack.tfmot.sparsity.keras.UpdatePruningStep()]

    def strip(self, wrapped: stack.keras.Model) -> stack.keras.Model:
        """Return the pruned model without masks."""
        return stack.tfmot.sparsity.keras.strip_pruning(wrapped)

    def measure(self, before: stack.keras.Model, after: stack.keras.Model) -> dict[str, float]:
        """Measure the sparsity of all kernels, and the share of them that training changed.

        Raises:
          CheckError: a kernel has fewer zeros than were asked for.
        """
        values = kernels(after)
        names = [
            f"{name} {share:.2f}"
            for name, value in kernels(after, self.treated(before)).items()
            if (share := sparsity({name: value})) < self.sparsity - max(TOLERANCE, 2 / value.size)
        ]
        if names:
            raise CheckError(
                f"{self.name}: {len(names)} kernels have fewer zeros than {self.sparsity:g}: {', '.join(names[:5])}.\n"
                "  The schedule did not come to its end: train for as many steps as `wrap` was told."
            )
        return {"sparsity": sparsity(values), "kernels_changed": changed_share(kernels(before), values)}

    def prune_variables(self, variables: Sequence[Any]) -> float:
        """Make zeros in trained kernels, in place, without any example: what private training may be followed by.

        Args:
          variables: of any model: those of 2 and 4 axes whose name ends in "kernel" are pruned, and no others.

        Returns:
          The sparsity of these.

        Raises:
          CheckError: there are none.
        """
        kernel_variables = [
            variable
            for variable in variables
            if short_name(variable).endswith("kernel") and short_name(variable) != "depthwise_kernel"
            if len(variable.shape) in (2, 4) and not self._explain(variable)
        ]
        if not kernel_variables:
            raise CheckError("There are no kernels to prune among these variables.")
        tf, constant = stack.tf, stack.tfmot.sparsity.keras.ConstantSparsity
        masks = [tf.Variable(tf.ones_like(kernel)) for kernel in kernel_variables]
        thresholds = [tf.Variable(0.0, dtype=kernel.dtype) for kernel in kernel_variables]
        pruning = stack.tfmot_module("core.sparsity.keras.pruning_impl").Pruning(
            training_step_fn=lambda: tf.constant(1, tf.int64),
            pruning_vars=list(zip(kernel_variables, masks, thresholds, strict=True)),
            pruning_schedule=constant(self.final_sparsity, begin_step=1, end_step=1, frequency=1),
            block_pooling_type="AVG",
            **self._build_structure(),
        )
        pruning.conditional_mask_update()
        pruning.weight_mask_op()
        return sparsity({kernel.name: kernel.numpy() for kernel in kernel_variables})

    def _build_structure(self) -> dict[str, Any]:
        return {
            "block_size": list(self.block_size) if self.structure == "block" else [1, 1],
            "sparsity_m_by_n": (2, 4) if self.structure == "2:4" else None,
        }

    def _explain(self, weight: Any) -> str:
        if self.structure == "block" and len(weight.shape) != 2:
            return "blocks need a kernel of two axes"
        if self.structure == "2:4" and (len(weight.shape) not in (2, 4) or weight.shape[-2] % 4):
            return "2:4 needs inputs in fours"
        return ""

    def _decide(self, layer: Any) -> tuple[bool, str]:
        how, names = f"{self.sparsity:g} of its kernel becomes zero", foreign.prunable_weights(layer)
        if names is None and hasattr(layer, "get_prunable_weights"):  # its author knows
            return bool(layer.weights), how
        return self._decide_by(names, layer, misfit=self._explain, how=how)


@dataclass(frozen=True, kw_only=True)
class QuantizeAware(Technique):
    """Train with fake quantization of weights (per channel) and activations, so that int8 costs little.

    Args:
      preserve_sparsity: keep zeros zero: after pruning (PQAT).
      preserve_clusters: keep the distinct weights of each kernel few: after clustering (CQAT, with zeros PCQAT).
      examples: a batch of inputs, by which the ranges of tensors begin; without them all are -6 to 6, from which
        they need thousands of steps to where they belong.
    """

    preserve_sparsity: bool = False
    preserve_clusters: bool = False
    examples: Any = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        """Return a short name."""
        return "qat"

    def treatments(self, model: stack.keras.Model) -> list[Treatment]:
        """Return what will happen to every layer.

        Raises:
          UsageError: the model is not flat, or has layers that cannot be quantized, all of which are named.
        """
        treatments = super().treatments(model)
        problems = [treatment for treatment in treatments if not treatment.treated and treatment.how]
        if problems:
            raise UsageError(
                f"qat: {len(problems)} layers would stay in float within an int8 model:{to_lines(problems)}\n"
                "  Exchange them, or convert with variant='int8' after training, which needs no layers."
            )
        return treatments

    def wrap(self, model: stack.keras.Model, *, steps: int) -> stack.keras.Model:
        """Return a clone that is quantization-aware, see `Technique`."""
        self.treatments(model)
        quantization, combine = stack.tfmot.quantization.keras, stack.tfmot.experimental.combine
        configs = stack.tfmot_module("core.quantization.keras.default_8bit.default_8bit_quantize_configs")

        def annotate(layer: Any) -> Any:
            if isinstance(layer, stack.keras.layers.InputLayer):
                return copy_layer(layer)
            # Of a layer without weights, which tfmot does not know, the output alone is quantized.
            is_scaling = isinstance(layer, stack.keras.layers.Rescaling)
            config = configs.Default8BitOutputQuantizeConfig() if is_scaling else None
            return quantization.quantize_annotate_layer(copy_layer(layer), config)

        scheme = []
        if self.preserve_clusters:
            scheme = [combine.Default8BitClusterPreserveQuantizeScheme(self.preserve_sparsity)]
        elif self.preserve_sparsity:
            scheme = [combine.Default8BitPrunePreserveQuantizeScheme()]
        with quantization.quantize_scope():
            wrapped = quantization.quantize_apply(clone(model, annotate), *scheme)
        if self.examples is not None:
            _initialize_ranges(wrapped, model, self.examples)
        return wrapped

    def measure(self, before: stack.keras.Model, after: stack.keras.Model) -> dict[str, float]:
        """Measure fake-quantization nodes, the share of kernels that training changed, and what was to be preserved.

        Raises:
          CheckError: there are no such nodes, kernels did not train, or zeros or clusters were lost.
        """
        old, new = kernels(before), kernels(after)
        nodes, share = fake_quantization(after), changed_share(old, new)
        if not nodes or share < _MIN_CHANGED_SHARE:
            raise CheckError(
                f"qat: {nodes} nodes of fake quantization, and training changed {100 * share:.0f} % of the kernels.\n"
                "  Ranges in which all of a layer's outputs are alike do that: give QuantizeAware(examples=...)."
            )
        metrics = {"fake_quant_nodes": float(nodes), "kernels_changed": share}
        if self.preserve_sparsity:
            metrics["sparsity"] = sparsity(new)
            check_kept_zeros(self.name, old, new)
        if self.preserve_clusters:
            counts = {name: len(np.unique(value)) for name, value in old.items()}
            names = [name for name, count in counts.items() if count < min(old[name].size // 2, 257)]
            # Convolutions get their centroids channel by channel, as int8 gives each a scale.
            channels = [channel for name in names for channel in np.moveaxis(new[name], -1, 0)]
            metrics["distinct_weights"] = float(max(len(np.unique(channel)) for channel in channels))
            limit = max(counts[name] for name in names)
            if (peak := metrics["distinct_weights"]) > limit + 1:
                raise CheckError(f"qat: kernels of {limit} distinct weights have channels of {peak:.0f} now.")
        return metrics

    def _decide(self, layer: Any) -> tuple[bool, str]:
        if isinstance(layer, stack.keras.layers.InputLayer):
            return False, ""
        if isinstance(layer, stack.keras.layers.BatchNormalization):
            return True, "folded into the layer before it"
        if isinstance(layer, stack.keras.layers.Rescaling):
            return True, "its output gets a range"
        registry = stack.tfmot_module("core.quantization.keras.default_8bit.default_8bit_quantize_registry")
        if registry.Default8BitQuantizeRegistry().supports(layer):
            return True, "weights and outputs are rounded as int8 will round them"
        return False, f"tfmot cannot quantize a {type(layer).__name__}"


def fake_quantization(model: stack.keras.Model) -> int:
    """Return the number of nodes of a model that quantize and dequantize as an int8 model will."""
    specs = [stack.tf.TensorSpec([1, *tensor.shape[1:]], tensor.dtype) for tensor in model.inputs]
    function = stack.tf.function(lambda inputs: model(inputs, training=False), autograph=False)
    counts = op_counts(function.get_concrete_function(specs[0] if len(specs) == 1 else specs))
    return sum(count for operation, count in counts.items() if operation.startswith("FakeQuant"))


def _initialize_ranges(wrapped: stack.keras.Model, model: stack.keras.Model, examples: Any) -> None:
    """Set the ranges of a quantization-aware model's tensors to what these are in the model it was made of.

    tfmot begins with -6 to 6 and moves by a thousandth a step. Layers without an activation go far beyond 6 in
    EfficientNet: cut there, their model gives the same for every image until some thousand steps have passed.
    """
    # Layers of their own: those of a model that was stripped may have been called in other models before.
    copy = clone(model, copy_layer)
    tensors = {
        layer.name: layer.output
        for layer in copy.layers
        if not isinstance(layer, stack.keras.layers.InputLayer)
    }
    values = {**stack.keras.Model(copy.inputs, tensors)(examples, training=False), "quantize_layer": examples}
    for layer in wrapped.layers:
        if (tensor := values.get(unwrap(layer).name)) is None:
            continue
        # 0 is within, as the integers must have one that is 0.
        limits = {"min": min(0.0, float(np.min(tensor))), "max": max(0.0, float(np.max(tensor)))}
        for variable in layer.weights:
            name, _, limit = short_name(variable).rpartition("_")
            if name in _RANGED_TENSORS and limit in limits:
                variable.assign(limits[limit])
