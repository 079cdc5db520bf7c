"""Handles over a real server: whatever it does, the answer is a whole model or one clear error."""

import hashlib
import tarfile
import time

import pytest

from tfkit import hub
from tfkit.environment.stack import tf
from tfkit.errors import HubError

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


def test_404(broken, tools):
    message = broken(tools.reply(status=404), "HTTP 404", "Check the handle", retries=3)
    assert "attempts" not in message


def test_404_is_not_tried_again(server, tools):
    url = server.serve(tools.reply(status=404))
    with pytest.raises(HubError):
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
