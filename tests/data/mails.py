"""E-mails as a mailbox exports them, and tables of numbered texts."""

from __future__ import annotations

import csv
import io
from pathlib import Path

_TEXTS = (
    ("en", "how do I cancel my subscription? “quoted”, with commas; and semicolons"),
    ("de", "Ihre Bestellung wurde verschickt, mit freundlichen Grüßen"),
    ("fr", "votre commande a été expédiée\n> l'application se ferme toute seule"),
    ("es", "no puedo iniciar sesión, un cordial saludo"),
)
_ODD = {7: "before\x00after", 9: "😀 שלום 你好"}
_PAGE = (
    "<html><head><title>Mail</title><style>\ntd {{ margin: 0 }}\n</style></head>"
    '<body><table width="100%"><tr><td>{}</td></tr></table></body></html>'
)


def write_mails(path: Path, *, count: int) -> Path:
    """A CSV with the columns id, lang, body and folder, in four languages.

    One in three mails is HTML. One in twenty rows is in Latin-1 within a file that is UTF-8 otherwise; some hold a NUL,
    emoji or right-to-left words, some have no folder, some no body, some are there twice, some lack a field.
    """
    with path.open("wb") as file:
        file.write(b"id,lang,body,folder\r\n")
        for number in range(count):
            language, text = _TEXTS[number % 4]
            body = f"{text} {number} {_ODD.get(number % 50, '')}"
            row = [str(number), language, body if number % 3 else _PAGE.format(body), "ab"[number % 5 < 2]]
            if number % 100 in (11, 31):
                row[2 + (number % 100 == 11)] = ""
            text = io.StringIO(newline="")
            csv.writer(text).writerow(row[: 3 if number % 100 == 51 else 4])
            encoded = text.getvalue().encode("latin-1" if number % 20 == 5 else "utf-8", "replace")
            file.write(encoded * (1 + (number % 100 == 21)))
    return path


def write(path, rows, *, header=("text", "label"), encoding="utf-8", **dialect):
    with path.open("w", newline="", encoding=encoding) as file:
        table = csv.writer(file, **dialect)
        table.writerow(header)
        table.writerows(rows)
    return path


def numbered(count, *, classes=2, text="message number {}"):
    return [(text.format(number), f"class {number % classes}") for number in range(count)]


def texts(splits):
    return [splits.source.raw(index) for index in range(len(splits.source.labels))]
