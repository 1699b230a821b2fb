"""A mock of OpenAI's API on a real socket: for tests, and for trying a gateway without a key.

It answers chat completions, responses, embeddings, models, files and audio in OpenAI's shapes, streams
included; refuses what OpenAI refuses; records what it received; and, on request, is slow, fails, breaks
connections or keeps silent. It shares no code with the gateway, so that a fault there cannot hide here.

`server.MockOpenAI` is the mock itself. Importing it imports the openai package; this package alone does not.
"""
