"""Label tables: reading the file, matching its rows to images."""
