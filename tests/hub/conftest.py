"""Small real SavedModels of every kind, and a real HTTP server that serves archives of them well and badly."""

import contextlib
import io
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tfkit.environment.stack import keras, tf


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """A cache of the test's own, in place of the session's."""
    monkeypatch.setenv("TFKIT_CACHE", str(tmp_path / "cache"))


IMAGES = tf.TensorSpec((None, None, None, 3), tf.float32, name="image")


def export(
    folder, call, spec=IMAGES, *, variables=(), trainable=None, listed=True, modes=(False, True), **held
):
    """Write a SavedModel of `call(spec, training=...)` as TF Hub publishes them; listed=False as tf.Module does."""
    module = tf.train.Checkpoint(kept=list(variables), **held)
    module.__call__ = tf.function(call)
    for mode in modes or (None,):
        module.__call__.get_concrete_function(spec, **({} if mode is None else {"training": mode}))
    if listed:
        module.variables = list(variables)
        module.trainable_variables = list(variables if trainable is None else trainable)
        module.regularization_losses = []
    tf.saved_model.save(module, str(folder))
    return folder


@pytest.fixture(scope="session")
def hub_model(tmp_path_factory):
    """A reusable TF2 SavedModel: [b, h, w, 3] to [b, 4], 16 parameters in 2 variables, 1 of them trainable."""
    kernel = tf.Variable(tf.reshape(tf.range(12.0), (3, 4)), name="kernel")
    bias = tf.Variable(tf.ones(4), name="bias", trainable=False)

    def call(image, training=False):
        return tf.reduce_mean(image, axis=(1, 2)) @ kernel + bias

    folder = tmp_path_factory.mktemp("models") / "hub_model"
    return export(folder, call, variables=[kernel, bias], trainable=[kernel])


@pytest.fixture(scope="session")
def keras_model():
    """The tf_keras model that `keras_saved_model` holds; it scales 0..255 itself."""
    inputs = keras.Input((24, 24, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(5, 3, name="conv")(x)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))


def members(folder, prefix="./"):
    """What is in a folder as (name, content) pairs, folders before their files, as the tars of tfhub.dev have them."""
    yield prefix, None
    for path in sorted(folder.rglob("*")):
        name = prefix + path.relative_to(folder).as_posix()
        yield (f"{name}/", None) if path.is_dir() else (name, path.read_bytes())


def tar(pairs, *, mode="w:gz", extra=()):
    """The bytes of an archive of (name, content) pairs, and of ready tarfile.TarInfo members."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as file:
        for name, content in pairs:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                file.addfile(info)
            else:
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
        for info in extra:
            file.addfile(info)
    return stream.getvalue()


@pytest.fixture(scope="session")
def archive(hub_model):
    """A .tar.gz of `hub_model` as tfhub.dev serves it."""
    return tar(members(hub_model))


class Server:
    """An HTTP server on loopback: `answers[path]` is a list of functions of the request handler, used in turn.

    The last one answers every further request.
    """

    def __init__(self):
        self.answers, self.requests = {}, []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                server.requests.append(self.path)
                queue = server.answers[self.path.split("?")[0]]
                with contextlib.suppress(ConnectionError):
                    (queue.pop(0) if len(queue) > 1 else queue[0])(self)

            def log_message(self, *_):
                """Nothing: the test's output is pytest's."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    def serve(self, *answers, path="/models/tiny/1"):
        """The URL at which these answers come."""
        self.answers[path] = list(answers)
        return self.url + path

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server():
    running = Server()
    yield running
    running.close()


def reply(content=b"", *, status=200, headers=(), length=None):
    """An answer with this content; `length` lies about it."""

    def answer(handler):
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(content) if length is None else length))
        for name, value in headers:
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(content)
        if length is not None:
            handler.close_connection = True

    return answer
