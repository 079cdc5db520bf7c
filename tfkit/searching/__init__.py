"""Search by meaning: documents to passages to vectors to an index that answers strings."""

from tfkit.searching.documents import Document, load_documents
from tfkit.searching.index import Hit, Index

__all__ = ["Document", "Hit", "Index", "load_documents"]
