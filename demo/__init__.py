"""``make demo``: the gateway against the built-in mock OpenAI, driven by the official SDK."""
