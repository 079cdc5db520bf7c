"""What is in the cache or on the disk already: repaired, shared, cleared, and read as it is."""

import gzip
import hashlib
import threading
import time

import numpy as np
import pytest

from tests.hub.test_resolver import resolve, works
from tfkit import hub
from tfkit.errors import HubError

pytestmark = pytest.mark.usefixtures("empty_cache")


@pytest.mark.parametrize("damage", ["weights", "graph", "gone", "note"])
def test_a_damaged_entry_is_fetched_again(server, archive, tools, damage):
    url = server.serve(tools.reply(archive))
    path = resolve(url).path
    weights = path / "variables" / "variables.data-00000-of-00001"
    if damage == "weights":
        weights.write_bytes(weights.read_bytes()[:-4])
    elif damage == "graph":
        (path / "saved_model.pb").write_bytes(b"")
    elif damage == "gone":
        weights.unlink()
    else:
        (path.parent / "entry.json").write_text("{")
    assert works(resolve(url))
    assert len(server.requests) == 2


def test_concurrent_resolvers_fetch_once(server, archive, tools):
    def slow(handler):
        time.sleep(0.5)
        tools.reply(archive)(handler)

    url = server.serve(slow)
    digests = []
    threads = [threading.Thread(target=lambda: digests.append(resolve(url).digest)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(digests)) == 1
    assert len(digests) == 4
    assert len(server.requests) == 1


def test_what_a_killed_process_left_is_cleared(server, archive, tools, tmp_path):
    url = server.serve(tools.reply(archive))
    entry = resolve(url).path.parent
    (entry / "entry.json").unlink()
    left = entry.parent / f".{entry.name}.abc"
    left.mkdir()
    resolve(url)
    assert not left.exists()


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
