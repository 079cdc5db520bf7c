"""Search by meaning: documents to passages to vectors to an index that answers strings."""

from tfkit.search.documents import Document, load_documents
from tfkit.search.index import Hit, Index

__all__ = ["Document", "Hit", "Index", "load_documents"]
