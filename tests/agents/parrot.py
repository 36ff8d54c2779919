"""A served policy that does as it is told: a real server to test against, started within a second.

    python parrot.py [--SETTING VALUE ...]

The last user's message, or a tool's result that begins with `then `, is one of: `say TEXT`, `call NAME {JSON}`,
`write TEXT` (what can not be read), `wait SECONDS`, `hold FILE` (until it is there), `fail`, `endpoint` (a model behind
this one is down).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from toolenv.agents.chat_client import EndpointError
from toolenv.agents.policy import Conversation, Decision
from toolenv.agents.serving.server import serve
from toolenv.agents.serving.settings import Keys, ServeSettings
from toolenv.agents.serving.specialist import Specialist
from toolenv.scenarios.loading import load_scenario

NAME = "parrot"


class Parrot:
    """Remembers how many turns it has had, and tells it as cached tokens."""

    name = NAME

    def act(self, episodes: Sequence[Conversation]) -> list[Decision]:
        texts = [str(episode.messages[-1]["content"]).removeprefix("then ") for episode in episodes]
        if "fail" in texts:
            raise RuntimeError("secret-of-the-parrot")
        for verb, _, rest in (text.partition(" ") for text in texts):
            if verb == "wait":
                time.sleep(float(rest))
            while verb == "hold" and not Path(rest).exists():
                time.sleep(0.01)
        decided = [self._decision(episode, text) for episode, text in zip(episodes, texts, strict=True)]
        if "endpoint" in texts:
            stopped = EndpointError("it is down")
            stopped.decided = [None if text == "endpoint" else one for text, one in zip(texts, decided, strict=True)]
            raise stopped
        return decided

    def _decision(self, episode: Conversation, text: str) -> Decision:
        turns = episode.memory["turns"] = episode.memory.get("turns", 0) + 1
        verb, _, rest = text.partition(" ")
        tokens = {"token_ids": tuple(range(len(rest.split()))), "prompt_tokens": 10, "cached_tokens": turns - 1}
        if verb == "call":
            name, _, arguments = rest.partition(" ")
            return Decision(f'{{"name": "{name}", "arguments": {arguments}, "reasoning": "I was told to."}}', **tokens)
        if verb == "write":
            return Decision(rest, **tokens)
        return Decision({"answer": rest or text}, **tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=Path)
    numbers = {"port": int, "batch": int, "most_requests": int, "most_body_bytes": int, "per_minute": int}
    for name, kind in (numbers | {"deadline_s": float, "grace_s": float}).items():
        parser.add_argument(f"--{name}", type=kind)
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    keys = Keys.read(given.pop("keys", None))
    serve(
        Specialist(Parrot(), NAME, (load_scenario("crm").toolbox,)),
        ServeSettings(**({"port": 0, "keys": keys, "log_requests": True} | given)),
    )


if __name__ == "__main__":
    main()
