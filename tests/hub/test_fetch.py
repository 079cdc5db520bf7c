"""Handles over a real server, hostile archives, and what is on the disk already: a whole model or one clear error."""

import gzip
import hashlib
import io
import tarfile
import time

import numpy as np
import pytest

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


@pytest.fixture
def broken(server, archive, tools, tmp_path):
    """A check that an answer leads to an error that says `words`, leaves nothing, and that a retry works."""

    def check(answer, *words, **options):
        url = server.serve(answer)
        with pytest.raises(HubError) as error:
            resolve(url, **options)
        message = str(error.value)
        for word in (url, *words):
            assert word in message
        assert leftovers(tmp_path) == []
        server.serve(tools.reply(archive))
        assert works(resolve(url))
        return message

    return check


def test_a_model_comes_the_way_tfhub_dev_sends_it(server, archive, tools, tmp_path):
    url = server.serve(tools.reply(status=302, headers=[("Location", "/storage/1.tar.gz?sig=a")]))
    server.serve(tools.reply(archive), path="/storage/1.tar.gz")
    backbone = resolve(url, sha256=hashlib.sha256(archive).hexdigest())
    assert works(backbone)
    assert server.requests == ["/models/tiny/1?tf-hub-format=compressed", "/storage/1.tar.gz?sig=a"]
    assert (backbone.handle, backbone.feature_size, backbone.parameters) == (url, 4, 16)
    assert tmp_path in backbone.path.parents
    assert sorted(path.name for path in backbone.path.parent.iterdir()) == ["entry.json", "model"]


def test_a_cached_handle_needs_no_network(server, archive, tools):
    url = server.serve(tools.reply(archive))
    first = resolve(url)
    server.close()
    assert resolve(url) == first


def test_an_archive_address_is_asked_for_as_it_is(server, archive, tools):
    resolve(server.serve(tools.reply(archive), path="/bucket/model.tar.gz") + "?signature=x")
    assert server.requests == ["/bucket/model.tar.gz?signature=x"]


def test_truncated_transfer(broken, archive, tools):
    broken(tools.reply(archive[:-100], length=len(archive)), "100 more expected", "attempts: 1")


def test_truncated_archive_of_the_right_length(broken, archive, tools):
    broken(tools.reply(archive[:-100]), "cut short or damaged", "Try again")


@pytest.mark.parametrize("place", [0.3, 0.9])
def test_flipped_bit(broken, archive, tools, place):
    damaged = bytearray(archive)
    damaged[int(len(damaged) * place)] ^= 4
    broken(tools.reply(bytes(damaged)), "Try again")


def test_flipped_bit_in_the_weights_of_a_plain_tar(broken, hub_model, tools):
    """No gzip checksum guards this one: the weights' own checksums must be compared."""
    plain = bytearray(tools.tar(tools.members(hub_model), mode="w"))
    weights = (hub_model / "variables" / "variables.data-00000-of-00001").read_bytes()
    plain[plain.index(weights[:48]) + 8] ^= 4
    broken(tools.reply(bytes(plain)), "weights are incomplete or damaged")


def test_plain_tar_cut_between_members(broken, hub_model, tools):
    kept = [pair for pair in tools.members(hub_model) if "variables.data" not in pair[0]]
    cut = tools.tar(kept, mode="w").rstrip(b"\0")
    broken(tools.reply(cut + b"\0" * (-len(cut) % 512)), "incomplete", "variables.data-00000-of-00001")


def test_weights_missing_altogether(broken, hub_model, tools):
    kept = [pair for pair in tools.members(hub_model) if "variables" not in pair[0]]
    broken(tools.reply(tools.tar(kept)), "incomplete", "variables.index")


def test_model_one_level_down_is_taken(server, hub_model, tools):
    url = server.serve(tools.reply(tools.tar(tools.members(hub_model, prefix="tiny_1/"))))
    backbone = resolve(url)
    assert works(backbone)
    assert (backbone.path / "saved_model.pb").is_file()


def test_two_models_in_one_archive(broken, hub_model, tools):
    both = [*tools.members(hub_model, prefix="small/"), *tools.members(hub_model, prefix="large/")]
    broken(tools.reply(tools.tar(both)), "several models: large, small")


@pytest.mark.parametrize("name", ["../escaped", "variables/../../escaped"])
def test_member_that_leaves_the_folder(broken, hub_model, tools, name, tmp_path):
    pairs = [*tools.members(hub_model), (name, b"x")]
    broken(tools.reply(tools.tar(pairs)), "not safe", name)
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_member_that_is_no_file(broken, hub_model, tools, kind):
    info = tarfile.TarInfo("variables/odd")
    info.type, info.linkname = kind, "/etc/passwd"
    broken(tools.reply(tools.tar(tools.members(hub_model), extra=[info])), "not safe", "variables/odd")


def test_web_page_in_place_of_a_model(broken, tools):
    broken(tools.reply(b"<!DOCTYPE html><html>Log in</html>"), "web page")


def test_404_is_not_tried_again(server, tools):
    url = server.serve(tools.reply(status=404))
    with pytest.raises(HubError, match=r"HTTP 404.*\n.*Check the handle"):
        resolve(url, retries=3)
    assert len(server.requests) == 1


def test_403_says_how_to_get_it(broken, tools):
    broken(tools.reply(status=403), "log-in", ".tar.gz")


def test_500_for_good(broken, tools):
    broken(tools.reply(status=500), "HTTP 500", "attempts: 2", "retries=", retries=1)


def test_500_that_recovers(server, archive, tools):
    url = server.serve(tools.reply(status=500), tools.reply(archive))
    assert works(resolve(url, retries=1))
    assert len(server.requests) == 2


def test_the_servers_own_pause_is_kept(server, archive, tools):
    url = server.serve(tools.reply(status=503, headers=[("Retry-After", "1")]), tools.reply(archive))
    start = time.monotonic()
    resolve(url, retries=1)
    assert time.monotonic() - start >= 1


def test_transfer_that_breaks_is_tried_again(server, archive, tools):
    url = server.serve(tools.reply(archive[:50], length=len(archive)), tools.reply(archive))
    assert works(resolve(url, retries=1))


def test_stalled_before_the_answer(broken):
    broken(lambda handler: time.sleep(1), "timed out", timeout_seconds=0.2)


def test_stalled_in_the_middle(broken, archive, tools):
    def stall(handler):
        tools.reply(archive[: len(archive) // 2], length=len(archive))(handler)
        handler.wfile.flush()
        time.sleep(1)

    broken(stall, "timed out", timeout_seconds=0.2)


def test_trickle(broken, archive):
    """A byte now and then resets every time-out of a socket; the transfer as a whole must still end."""

    def trickle(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(archive)))
        handler.end_headers()
        for i in range(100):
            handler.wfile.write(archive[i : i + 1])
            time.sleep(0.05)

    start = time.monotonic()
    broken(trickle, "stalled", timeout_seconds=0.3)
    assert time.monotonic() - start < 4


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


def test_redirected_in_a_loop(broken, tools):
    broken(tools.reply(status=302, headers=[("Location", "/models/tiny/1")]), "10 redirects", retries=3)


def test_wrong_sha256(broken, archive, tools):
    found = hashlib.sha256(archive).hexdigest()
    broken(tools.reply(archive), "0" * 64, found, sha256="0" * 64)


def test_sha256_is_compared_with_a_cached_model_too(server, archive, tools):
    url = server.serve(tools.reply(archive))
    whole = resolve(url)
    with pytest.raises(HubError, match="not the expected one"):
        resolve(url, sha256="0" * 64)
    assert works(resolve(url))
    assert whole.path.exists()


def test_nobody_listens(server, tmp_path):
    url = server.serve()
    server.close()
    with pytest.raises(HubError, match="refused"):
        resolve(url)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("damage", ["weights", "note"])
def test_a_damaged_entry_is_fetched_again(server, archive, tools, damage):
    url = server.serve(tools.reply(archive))
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


def test_an_archive_that_changed_is_another_model(hub_model, archive, tools, tmp_path):
    packed = tmp_path / "tiny.tar.gz"
    packed.write_bytes(archive)
    first = hub.load_model(packed)
    packed.write_bytes(tools.tar([*tools.members(hub_model), ("note", b"new")]))
    assert hub.load_model(packed).digest != first.digest


def test_incomplete_local_folder(hub_model, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "saved_model.pb").write_bytes((hub_model / "saved_model.pb").read_bytes())
    with pytest.raises(HubError, match=r"model is incomplete: variables/variables\.index"):
        hub.load_model(tmp_path / "model")


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


def test_contents_come_out(tmp_path, tools):
    out = extract(tmp_path, tools.tar([("./", None), ("a/b", b"1"), ("c", b"")]))
    assert {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()} == {
        "b": b"1",
        "c": b"",
    }


def test_more_bytes_than_allowed(tmp_path, tools):
    bomb = tools.tar([("zeros", bytes(2_000_000))])
    assert len(bomb) < 10_000
    with pytest.raises(HubError, match="unpacks to more than 1,000,000 bytes"):
        extract(tmp_path, bomb, max_bytes=1_000_000)
    assert not (tmp_path / "out" / "zeros").exists()


def test_more_members_than_allowed(tmp_path, tools):
    with pytest.raises(HubError, match="10 members"):
        extract(tmp_path, tools.tar([(f"{i}", b"") for i in range(11)]), max_files=10)


def test_a_bomb_in_an_extended_header(tmp_path):
    """Such a header is read into memory as a whole, before any member is seen."""
    info = tarfile.TarInfo("header")
    info.type, info.size = tarfile.XHDTYPE, 64 << 20
    stream = io.BytesIO()
    with gzip.open(stream, "wb") as file:
        file.write(info.tobuf(tarfile.USTAR_FORMAT))
        file.write(bytes(64 << 20))
    with pytest.raises(HubError, match="a header of 67,108,864 bytes"):
        extract(tmp_path, stream.getvalue())


def test_a_bomb_behind_the_end(tmp_path, tools):
    plain = tools.tar([("a", b"1")], mode="w")
    with pytest.raises(HubError, match="unpacks to more than"):
        extract(tmp_path, gzip.compress(plain + bytes(3 << 20)), max_bytes=1000, max_files=10)


def test_one_name_twice(tmp_path, tools):
    with pytest.raises(HubError, match="'a' is in it twice"):
        extract(tmp_path, tools.tar([("a", b"1"), ("a", b"2")]))


def test_a_file_where_a_folder_is_needed(tmp_path, tools):
    with pytest.raises(HubError, match="not safe"):
        extract(tmp_path, tools.tar([("a", b"1"), ("a/b", b"2")]))


def test_checksum_behind_the_last_member_counts(tmp_path, tools):
    content = bytearray(tools.tar([("a", b"1" * 5000)]))
    content[-6] ^= 1  # in the CRC-32 of the gzip trailer
    with pytest.raises(HubError, match="damaged"):
        extract(tmp_path, bytes(content))


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b", b"\x1f\x8bgarbage", b"garbage" * 100])
def test_no_archive_at_all(tmp_path, content):
    with pytest.raises(HubError, match="the model"):
        extract(tmp_path, content)
