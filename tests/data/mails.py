"""E-mails as a mailbox exports them: long ones, HTML, several languages, odd encodings; the same for the same seed."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

FOLDERS = {
    "orders": (
        "your order has been shipped and will arrive on {day}",
        "please find the tracking number of parcel {number} below",
        "we could not deliver the package to your address, a new attempt follows {day}",
        "Ihre Bestellung {number} wurde verschickt und kommt am {day} an",
        "votre commande {number} a été expédiée et arrivera {day}",
        "su pedido {number} está en camino y llegará el {day}",
    ),
    "invoices": (
        "attached is the invoice {number}, payable within thirty days",
        "this is a reminder that the amount of {number} euros is overdue",
        "we have received your payment of {number} euros, thank you",
        "anbei erhalten Sie die Rechnung {number}, fällig in dreißig Tagen",
        "veuillez trouver ci-joint la facture {number}, payable à réception",
        "adjuntamos la factura {number}, con vencimiento el {day}",
    ),
    "travel": (
        "your flight leaves from gate {number} and boarding begins early",
        "the hotel confirms a double room with breakfast from {day}",
        "the train to the coast is delayed, take the connection at platform {number}",
        "Ihr Flug startet am {day}, bitte seien Sie zwei Stunden früher am Gate",
        "votre chambre d'hôtel est réservée à partir de {day}",
        "su vuelo sale el {day} desde la puerta {number}",
    ),
    "support": (
        "I cannot log in since the update, the password reset says error {number}",
        "the printer stops after page {number} and shows a red light",
        "how do I cancel my subscription before {day}?",
        "seit dem Update stürzt das Programm mit Fehler {number} ab",
        "l'application se ferme toute seule depuis {day}, que faire ?",
        "no puedo iniciar sesión, aparece el error {number}",
    ),
}
LANGUAGES = ("en", "en", "en", "de", "fr", "es")
_DAYS = ("Monday", "Tuesday", "Freitag", "samedi", "el domingo")
_FILLER = (
    "kind regards from the whole team", "this message may be confidential",
    "please think of the environment before printing", "mit freundlichen Grüßen", "cordialement", "un cordial saludo",
    "sent from my phone — sorry for typos", "“quoted”, with commas; and semicolons",
)  # fmt: skip
_STYLE = "<style>\n.c{n} {{ margin: 0 auto; padding: {n}px; font-family: Arial, sans-serif }}\n</style>\n"


def write_mails(path: Path, *, count: int = 6000, longest: int = 100_000, seed: int = 0) -> Path:
    """A CSV with the columns id, received, lang, body and folder.

    One in three mails is HTML, most of it style; lengths are log-uniform up to `longest` bytes. One in twenty rows is
    in Latin-1 within a file that is UTF-8 otherwise; one in fifty holds a NUL, one in fifty emoji and right-to-left
    words. Some have no folder, some no body, some are there twice, one lacks a field.
    """
    chance = np.random.default_rng(seed)
    names = list(FOLDERS)
    with path.open("wb") as file:
        file.write(_line(["id", "received", "lang", "body", "folder"]))
        for number in range(count):
            folder = names[int(chance.integers(len(names)))]
            which = int(chance.integers(len(LANGUAGES)))
            body = _body(folder, which, longest, chance)
            draw = float(chance.random())
            row = [str(number), f"2024-05-{number % 28 + 1:02}", LANGUAGES[which], body, folder]
            if draw < 0.01:
                row[4] = ""
            elif draw < 0.015:
                row[3] = " \n"
            elif draw < 0.016:
                row.pop()
            file.write(_line(row, "latin-1" if 0.1 < draw < 0.15 else "utf-8"))
            if 0.2 < draw < 0.21:
                file.write(_line([f"{number}-copy", *row[1:]]))
    return path


def _body(folder: str, which: int, longest: int, chance: np.random.Generator) -> str:
    def sentence() -> str:
        pattern = FOLDERS[folder][which]
        if chance.random() < 0.3:  # another one of the folder, so that no phrase is the class
            pattern = FOLDERS[folder][int(chance.integers(len(LANGUAGES)))]
        return pattern.format(
            number=int(chance.integers(10_000)), day=_DAYS[int(chance.integers(len(_DAYS)))]
        )

    size = int(np.exp(chance.uniform(np.log(80), np.log(longest))))
    html = chance.random() < 1 / 3
    lines = [sentence() for _ in range(int(chance.integers(1, 4)))]
    if chance.random() < 0.02:
        lines.append("before\x00after")
    if chance.random() < 0.02:
        lines.append("😀 שלום مرحبا 你好")
    filler = [_FILLER[int(index)] for index in chance.integers(len(_FILLER), size=max(1, size // 3000))]
    if not html:
        rest = "\n> ".join(filler * (1 + size // 400))[: max(0, size - 200)]
        return "\n".join(lines) + "\n\n" + rest
    style = "".join(_STYLE.format(n=n) for n in range(1 + size // 200))[: max(0, size - 600)]
    blocks = "".join(f"<tr><td>{line}</td></tr>\n" for line in [*lines, *filler])
    return (
        f"<html><head><title>Mail</title>{style}</style></head>"
        f'<body><table width="100%">\n{blocks}</table></body></html>'
    )


def _line(cells: list[str], encoding: str = "utf-8") -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerow(cells)
    return text.getvalue().encode(encoding, "replace")


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
