"""Handles over a real server, hostile archives, and what is on the disk already: a whole model or one clear error."""

import gzip
import hashlib
import tarfile
import time

import numpy as np
import pytest

from tests.hub.conftest import members, reply, tar
from tfkit import hub
from tfkit.environment.stack import tf
from tfkit.errors import HubError
from tfkit.hub.fetch import extract as unpack

pytestmark = pytest.mark.usefixtures("empty_cache")


def leftovers(tmp_path):
    """What is in the cache, locks apart."""
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]


def works(backbone):
    assert backbone.layer()(tf.ones((2, 8, 8, 3))).numpy().tolist() == [[13, 16, 19, 22]] * 2
    return True


def resolve(handle, **options):
    timeout, retries = options.pop("timeout_seconds", 5), options.pop("retries", 0)
    return hub.load_model(handle, download=hub.Download(timeout, retries), **options)


def unlike(archive, place):
    damaged = bytearray(archive)
    damaged[int(len(damaged) * place)] ^= 4
    return bytes(damaged)


def plain_tar_of_other_weights(model):
    """No gzip checksum guards this one: the weights' own checksums must be compared."""
    plain = bytearray(tar(members(model), mode="w"))
    weights = (model / "variables" / "variables.data-00000-of-00001").read_bytes()
    plain[plain.index(weights[:48]) + 8] ^= 4
    return bytes(plain)


def plain_tar_cut_between_members(model):
    kept = [pair for pair in members(model) if "variables.data" not in pair[0]]
    cut = tar(kept, mode="w").rstrip(b"\0")
    return cut + b"\0" * (-len(cut) % 512)


def without_weights(model):
    return tar([pair for pair in members(model) if "variables" not in pair[0]])


def two_models(model):
    return tar([*members(model, prefix="small/"), *members(model, prefix="large/")])


def member(name, kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return lambda model: tar(members(model), extra=[info])


def always(content):
    return lambda archive: content


def trickle(handler):
    """A byte now and then resets every time-out of a socket; the transfer as a whole must still end."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b"\x1f")
        time.sleep(0.05)


def stall(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"\x1f" * 500)
    handler.wfile.flush()
    time.sleep(1)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda archive: archive[:-100], "damaged"),
        (lambda archive: unlike(archive, 0.3), "Try again"),
        (lambda archive: unlike(archive, 0.9), "Try again"),
        (plain_tar_of_other_weights, "weights are incomplete or damaged"),
        (plain_tar_cut_between_members, "variables.data-00000-of-00001"),
        (without_weights, "variables.index"),
        (two_models, "large, small"),
        (member("../escaped"), "../escaped"),
        (member("variables/../../escaped"), "variables/../../escaped"),
        *((member("odd", kind), "'odd'") for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE)),
        (member("odd", tarfile.FIFOTYPE), "'odd'"),
        (lambda archive: b"<!DOCTYPE html><html>Log in</html>", "web page"),
        *((always(start), "damaged") for start in (b"", b"\x1f\x8b", b"\x1f\x8bgarbage")),
    ],
)
def test_content_that_is_no_whole_safe_model(check_refused, archive, hub_model, content, words):
    is_of_archive = content.__code__.co_varnames[:1] == ("archive",)
    check_refused(reply(content(archive if is_of_archive else hub_model)), words)


@pytest.mark.parametrize(
    ("answer", "words", "options"),
    [
        (reply(b"1" * 100, length=200), ("100 more expected", "attempts: 1"), {}),
        (reply(status=403), ("log-in", ".tar.gz", "attempts: 1"), {"retries": 3}),
        (reply(status=404), ("404", "Check the handle", "attempts: 1"), {"retries": 3}),
        (reply(status=500), ("500", "attempts: 2", "retries="), {"retries": 1}),
        (
            reply(status=302, headers=[("Location", "/models/tiny/1")]),
            ("10 redirects",),
            {"retries": 3},
        ),
        (lambda handler: time.sleep(1), ("timed out",), {"timeout_seconds": 0.2}),
        (stall, ("timed out",), {"timeout_seconds": 0.2}),
        (trickle, ("stalled",), {"timeout_seconds": 0.3}),
    ],
)
def test_a_transfer_that_fails(check_refused, answer, words, options):
    check_refused(answer, *words, **options)


@pytest.fixture
def check_refused(server, archive, tmp_path):
    """A check that an answer leads to an error that says `words`, leaves nothing, and that a retry works."""

    def check(answer, *words, **options):
        url = server.serve(answer)
        with pytest.raises(HubError) as error:
            resolve(url, **options)
        assert all(word in str(error.value) for word in (url, *words)), error.value
        assert leftovers(tmp_path) == []
        assert not list(tmp_path.rglob("escaped"))
        server.serve(reply(archive))
        assert works(resolve(url))

    return check


def test_a_model_comes_the_way_tfhub_dev_sends_it(server, archive, tmp_path):
    url = server.serve(reply(status=302, headers=[("Location", "/storage/1.tar.gz?sig=a")]))
    server.serve(reply(archive), path="/storage/1.tar.gz")
    backbone = resolve(url, sha256=hashlib.sha256(archive).hexdigest())
    assert works(backbone)
    assert server.requests == ["/models/tiny/1?tf-hub-format=compressed", "/storage/1.tar.gz?sig=a"]
    assert (backbone.handle, backbone.feature_size, backbone.parameters) == (url, 4, 16)
    assert tmp_path in backbone.path.parents
    assert sorted(path.name for path in backbone.path.parent.iterdir()) == ["entry.json", "model"]
    server.close()
    for digest in (hashlib.sha256(archive).hexdigest(), hashlib.sha256(archive).hexdigest().upper()):
        assert resolve(url, sha256=digest) == backbone  # without a network


def test_an_archive_address_is_asked_for_as_it_is(server, archive):
    resolve(server.serve(reply(archive), path="/bucket/model.tar.gz") + "?signature=x")
    assert server.requests == ["/bucket/model.tar.gz?signature=x"]


def test_model_one_level_down_is_taken(server, hub_model):
    url = server.serve(reply(tar(members(hub_model, prefix="tiny_1/"))))
    backbone = resolve(url)
    assert works(backbone)
    assert (backbone.path / "saved_model.pb").is_file()


def test_what_may_pass_is_tried_again_after_the_servers_own_pause(server, archive):
    cut = reply(archive[:50], length=len(archive))
    busy = reply(status=503, headers=[("Retry-After", "2")])
    start = time.monotonic()
    assert works(resolve(server.serve(cut, busy, reply(archive)), retries=2))
    assert time.monotonic() - start >= 2  # its own would be 0.5 s and 1 s
    assert len(server.requests) == 3


def test_chunked_transfer(server, archive):
    def chunked(handler):
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for i in range(0, len(archive), 1000):
            chunk = archive[i : i + 1000]
            handler.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        handler.wfile.write(b"0\r\n\r\n")

    assert works(resolve(server.serve(chunked)))


def test_wrong_sha256(check_refused, archive):
    found = hashlib.sha256(archive).hexdigest()
    check_refused(reply(archive), "0" * 64, found, sha256="0" * 64)


def test_sha256_is_compared_with_a_cached_model_too(server, archive):
    url = server.serve(reply(archive))
    whole = resolve(url)
    with pytest.raises(HubError, match="not the expected one"):
        resolve(url, sha256="0" * 64)
    assert works(resolve(url))
    assert whole.path.exists()


@pytest.mark.parametrize("damage", ["weights", "note"])
def test_a_damaged_entry_is_fetched_again(server, archive, damage):
    url = server.serve(reply(archive))
    path = resolve(url).path
    weights = path / "variables" / "variables.data-00000-of-00001"
    if damage == "weights":
        weights.write_bytes(weights.read_bytes()[:-4])
    else:
        (path.parent / "entry.json").write_text("{")
    assert works(resolve(url))
    assert len(server.requests) == 2


def test_local_folder_file_url_and_archives(hub_model, archive, tmp_path):
    packed, plain = tmp_path / "tiny.tar.gz", tmp_path / "tiny.tar"
    packed.write_bytes(archive)
    plain.write_bytes(gzip.decompress(archive))
    handles = [hub_model, str(hub_model), hub_model.as_uri(), str(packed), packed.as_uri(), plain]
    digests = {hub.load_model(handle).digest for handle in handles}
    assert len(digests) == 1
    assert works(hub.load_model(packed, sha256=hashlib.sha256(archive).hexdigest()))
    assert hub.load_model(hub_model).path == hub_model


def test_an_archive_that_changed_is_another_model(hub_model, archive, tmp_path):
    packed = tmp_path / "tiny.tar.gz"
    packed.write_bytes(archive)
    first = hub.load_model(packed)
    packed.write_bytes(tar([*members(hub_model), ("note", b"new")]))
    assert hub.load_model(packed).digest != first.digest


def test_sha256_of_a_folder_is_refused(hub_model):
    with pytest.raises(HubError, match="no archive"):
        hub.load_model(hub_model, sha256="0" * 64)


def test_input_range_can_be_said(hub_model):
    said = hub.load_model(hub_model, input_range=(0, 255))
    assert said.input_range == (0, 255)
    np.testing.assert_array_equal(said.scale(np.array([0.0, 1.0])), [0, 255])
    assumed = hub.load_model(hub_model)
    assert assumed.input_range == (0, 1)
    assert assumed.digest != said.digest
    assert "input_range=(0, 255)" in assumed.notes[0]


def extract(tmp_path, content, **limits):
    path = tmp_path / "model.tar.gz"
    path.write_bytes(content)
    unpack(path, tmp_path / "out", name="the model", **limits)
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("content", "limits", "words"),
    [
        (lambda: tar([("zeros", bytes(2_000_000))]), {"max_bytes": 1_000_000}, "1,000,000 bytes"),
        (lambda: tar([(f"{i}", b"") for i in range(11)]), {"max_files": 10}, "10 members"),
        # A header like this is read into memory as a whole, before any member is seen.
        (lambda: header_of(64 << 20), {}, "67,108,864 bytes"),
        (
            lambda: gzip.compress(tar([("a", b"1")], mode="w") + bytes(3 << 20)),
            {"max_bytes": 1000, "max_files": 10},
            "more than 1,0",
        ),
        (lambda: tar([("a", b"1"), ("a", b"2")]), {}, "'a' is in it twice"),
        (lambda: tar([("a", b"1"), ("a/b", b"2")]), {}, "not safe"),
        # The CRC-32 of the gzip trailer, behind the last member.
        (lambda: unlike(tar([("a", b"1" * 5000)]), 1 - 1e-9), {}, "damaged"),
    ],
)
def test_what_is_refused(tmp_path, content, limits, words):
    with pytest.raises(HubError, match=words):
        extract(tmp_path, content(), **limits)
    assert not (tmp_path / "out" / "zeros").exists()


def header_of(size):
    info = tarfile.TarInfo("header")
    info.type, info.size = tarfile.XHDTYPE, size
    return gzip.compress(info.tobuf(tarfile.USTAR_FORMAT) + bytes(size), 1)
