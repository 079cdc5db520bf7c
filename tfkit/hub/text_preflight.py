"""What speaks against a model as an encoder of text: all reasons at once, each with its way out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tfkit.hub import bundled, known_text, preflight, saved_model, text_layers
from tfkit.hub.saved_model import Tensor
from tfkit.hub.text_part import WORDS, Part

if TYPE_CHECKING:
    from tfkit.hub.text_encoder import TextEncoder

_ALTERNATIVE = "Take an encoder of text: python -m tfkit models lists some, 'minilm-l6-v2' is built in."
_SPARE = 0.9  # an embedding may have some rows more than there are pieces, for a round number
# Rows of the embedding -> the preprocessor that makes so many ids.
_PREPROCESSORS = {
    21_128: "https://tfhub.dev/tensorflow/bert_zh_preprocess/3",
    28_996: "https://tfhub.dev/tensorflow/bert_en_cased_preprocess/3",
    30_000: "https://tfhub.dev/tensorflow/albert_en_preprocess/3",
    30_522: "https://tfhub.dev/tensorflow/bert_en_uncased_preprocess/3",
    119_547: "https://tfhub.dev/tensorflow/bert_multi_cased_preprocess/3",
    501_153: "https://tfhub.dev/google/universal-sentence-encoder-cmlm/multilingual-preprocess/2",
}


def problems(encoder: TextEncoder, *, trainable: bool) -> list[str]:
    """Every reason why `encoder` cannot do this job, as sentences; none when it can."""
    if encoder.interface.way == "none":
        return ["It can neither be called nor has it a signature to use. " + _ALTERNATIVE]
    if encoder.interface.takes_images:
        shape = encoder.interface.inputs[0]
        return [
            f"It takes images ({shape}). recipes.transfer_image and tfkit.hub.resolve are for those. {_ALTERNATIVE}"
        ]
    found = [*_input(encoder), *_output(encoder)]
    if not found:
        found += _vocabulary(encoder)
    found += _length(encoder)
    if trainable and (reason := preflight.untrainable(encoder.interface)):
        found.append(reason)
    return found


def _input(encoder: TextEncoder) -> Iterator[str]:
    inputs, part = encoder.interface.inputs, encoder.preprocessor
    if takes_strings(inputs):
        if part is not None:
            yield f"It takes strings itself, and would get the ids of {part.handle}. Leave out preprocessor=."
        return
    if WORDS not in {tensor.name for tensor in inputs}:
        yield f"It takes {_listed(inputs)}: neither one batch of strings nor `{WORDS}`. {_ALTERNATIVE}"
    elif part is None:
        rows = text_layers.embedding_rows(encoder.path, encoder.digest, interface=encoder.interface)
        named = _PREPROCESSORS.get(rows or 0)
        which = (
            f"Its embedding has {rows:,} rows, as many as that one makes ids: preprocessor={named!r}"
            if named
            else "Its page names it; python -m tfkit models shows those of the well-known: preprocessor='...'"
        )
        yield f"It takes {_listed(inputs)} and needs a preprocessor that makes them of strings. {which}"
    else:
        yield from _preprocessor(encoder, part)


def _preprocessor(encoder: TextEncoder, part: Part) -> Iterator[str]:
    way, made = part.interface.way, {tensor.name for tensor in part.interface.outputs}
    if way == "none" or not takes_strings(part.interface.inputs):
        takes = _listed(part.interface.inputs) or "nothing that it can be called with"
        yield f"The preprocessor {part.handle} takes {takes}, not one batch of strings. {_other(encoder)}"
    elif lacking := sorted({tensor.name for tensor in encoder.interface.inputs} - made):
        gives = ", ".join(sorted(made)) if made - {""} else _listed(part.interface.outputs)
        yield (
            f"The preprocessor {part.handle} gives {gives}; the encoder also needs {', '.join(lacking)}."
            f" {_other(encoder)}"
        )


def _other(encoder: TextEncoder) -> str:
    row = known_text.find(encoder.handle)
    return f"The one that belongs to it: {row.preprocessor}" if row else "Take the one that its page names."


def _output(encoder: TextEncoder) -> Iterator[str]:
    interface = encoder.interface
    outputs = {tensor.name: tensor for tensor in interface.outputs}
    output = outputs.get(encoder.output_key) if encoder.output_key else interface.output
    if output is None:
        yield (
            f"It gives {_listed(interface.outputs) or 'nothing'}: neither `pooled_output` nor one other vector of"
            f" the text. {_ALTERNATIVE}"
        )
    elif (output.shape is not None and len(output.shape) != 2) or not output.dtype.startswith("float"):
        yield f"It gives {output}, not a vector of each text, float32 [batch, features]. {_ALTERNATIVE}"
    elif encoder.feature_size == 0:
        yield f"It gives {output}, and a trial did not show how long its vectors are. {_ALTERNATIVE}"


def _vocabulary(encoder: TextEncoder) -> Iterator[str]:
    part = encoder.preprocessor
    if part is None or bundled.text_model(encoder.handle):
        return
    pieces = text_layers.pieces_of(part.path)
    rows = text_layers.embedding_rows(encoder.path, encoder.digest, interface=encoder.interface)
    if pieces is None or rows is None or _SPARE * rows <= pieces <= rows:
        return
    fits = _PREPROCESSORS.get(rows)
    yield (
        f"The vocabulary of {part.handle} has {pieces:,} pieces, the encoder's embedding {rows:,} rows: they do"
        f" not belong together. {f'Rows as these has {fits}' if fits else _other(encoder)}"
    )


def _length(encoder: TextEncoder) -> Iterator[str]:
    length, part = encoder.max_length, encoder.preprocessor
    if length is None:
        return
    if part is None:
        if takes_strings(encoder.interface.inputs):
            yield f"max_length={length} cannot be told to a model that takes strings itself. Leave it out."
    elif length != (native := text_layers.native_length(part.interface)):
        present = saved_model.children(part.path)
        if not set(text_layers.PIECES) <= present:
            yield (
                f"max_length={length}: {part.handle} makes rows of {native}, and has no `tokenize` and"
                " `bert_pack_inputs` by which others are made. Leave it out."
            )


def takes_strings(inputs: tuple[Tensor, ...]) -> bool:
    """Whether these are one batch of strings."""
    return (
        len(inputs) == 1
        and inputs[0].dtype == "string"
        and (inputs[0].shape is None or len(inputs[0].shape) == 1)
    )


def _listed(tensors: tuple[Tensor, ...]) -> str:
    return ", ".join(f"{tensor.name} {tensor}".strip() for tensor in tensors)
