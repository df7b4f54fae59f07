"""One reader for each format of data that users have."""
