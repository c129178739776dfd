"""SQLite files: what the page store and large jobs are built on."""
