"""Parts of `tokenize`: its jobs, its stages, the engines that run them, and reading what it made."""
