"""Messages that are hard to read, as data, and the figures of reading them: ``python -m tests.corpus``."""
