"""``sluice chat``: a dialogue in the terminal, through a gateway, with the official OpenAI SDK."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types.chat import ChatCompletionMessageParam

HELP = "Type a message and Enter. /reset forgets the dialogue, /quit or Ctrl-D ends it."


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the sub-command."""
    parser = subparsers.add_parser("chat", help="talk to a model through the gateway, in the terminal")
    parser.add_argument(
        "--url", default="http://127.0.0.1:5000/v1", help="the gateway's base_url (default %(default)s)"
    )
    parser.add_argument("--model", default="gpt-4.1-mini", help="default %(default)s")
    parser.add_argument("--system", help="the system instruction to begin with")
    parser.add_argument("--api-key", help="default: $OPENAI_API_KEY, else the gateway's own key")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Talk until the input ends. 0 = it ended well, 1 = the last message got no answer."""
    from openai import OpenAI

    key = args.api_key or environ.get("OPENAI_API_KEY") or "none"
    client = OpenAI(base_url=args.url, api_key=key)
    with client:
        return Dialogue(client, args.model, args.system, sys.stdout).talk(_lines(sys.stdin))


def _lines(source: TextIO) -> Iterable[str]:
    """What the user types, with a prompt if there is somebody to see it."""
    if source.isatty():
        # Importing it gives input() its line editing and history.
        import readline  # noqa: F401

        print(HELP)
        while True:
            try:
                yield input("\nyou> ")
            except EOFError:
                print()
                return
    else:
        yield from source


class Dialogue:
    """A dialogue with history; answers are printed as they stream in."""

    def __init__(self, client: OpenAI, model: str, system: str | None, output: TextIO) -> None:
        self._client = client
        self._model = model
        self._output = output
        self._start: list[ChatCompletionMessageParam] = [{"role": "system", "content": system}] if system else []
        self.history = list(self._start)

    def talk(self, lines: Iterable[str]) -> int:
        """Answer every line; the exit status."""
        status = 0
        for line in lines:
            text = line.strip()
            if text == "/quit":
                break
            if text == "/reset":
                self.history = list(self._start)
                self._say("(forgotten)\n")
            elif text == "/help":
                self._say(f"{HELP}\n")
            elif text:
                status = self._ask(text)
        return status

    def _ask(self, text: str) -> int:
        from openai import OpenAIError

        self.history.append({"role": "user", "content": text})
        answer = ""
        try:
            stream = self._client.chat.completions.create(model=self._model, messages=self.history, stream=True)
            for chunk in stream:
                piece = (chunk.choices[0].delta.content or "") if chunk.choices else ""
                answer += piece
                self._say(piece)
        except OpenAIError as error:
            # The question stays out of the history: asked again, it must not stand there twice.
            self.history.pop()
            self._say(f"\n(no whole answer: {error})\n")
            return 1
        self.history.append({"role": "assistant", "content": answer})
        self._say("\n")
        return 0

    def _say(self, text: str) -> None:
        self._output.write(text)
        self._output.flush()
