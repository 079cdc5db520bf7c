"""Of HTML what its reader sees, in a time that its size explains."""

from __future__ import annotations

import time

import pytest

from tfkit.data import plain_text
from tfkit.data.text_decoding import is_html


def test_what_a_reader_sees():
    page = """<!DOCTYPE html><html><head><title>Not shown</title><style>td { color: red }</style></head>
    <body onload="x()"><script>if (a < b) { alert("<p>") }</script><!-- hidden -->
    <h1>Your order&nbsp;&#8364;&nbsp;5</h1>
    <p>Dear <b>all</b>,<br>it is
    here.<table><tr><td>one<td>two</tr></table> caf&eacute; &lt;ok&gt; 5 < 6 שלום</body></html>"""
    assert is_html(page)
    assert plain_text(page) == "Your order € 5\nDear all,\nit is here.\none\ntwo\ncafé <ok> 5 < 6 שלום"


@pytest.mark.parametrize(
    "text", ["a < b and c > d", "<3 you", "use <b>bold</b> here", "From: <me@example.com>\n<you@b.c>"]
)
def test_text_with_angle_brackets_is_text(text):
    assert not is_html(text)


def test_a_body_after_a_head_that_is_not_closed():
    assert plain_text("<html><head><style>p {}</style><body>seen</body>") == "seen"


@pytest.mark.parametrize(
    "piece",
    ["<", "<p", "<!--", "<!--a", "</", "&", "<a b='", "<![CDATA[", "<?x ", "<p>", "<script>", "<script></"],
)
def test_damaged_pages_take_no_minutes(piece):
    began = time.process_time()
    plain_text("<html>" + piece * (100_000 // len(piece)) + "end")
    assert time.process_time() - began < 4
