"""Search by meaning: documents to passages to vectors to an index that answers strings."""

from tfkit.searching.search import Document, Hit, Index, load_documents

__all__ = ["Document", "Hit", "Index", "load_documents"]
