"""SQLite files, the basis of the page store and of large jobs."""
