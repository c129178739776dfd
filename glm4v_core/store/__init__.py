"""Pages by content: the store, its lexical index, ingestion and asking."""
