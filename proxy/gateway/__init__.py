"""The data plane: one request read from top to bottom is ``plane`` → ``delegate`` → ``forward`` and back."""
