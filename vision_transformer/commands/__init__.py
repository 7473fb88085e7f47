"""One operation on a finished run per file."""
