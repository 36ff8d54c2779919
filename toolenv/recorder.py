"""Records an agent of your own: `from toolenv import recorder`, `client = recorder.wrap(OpenAI())`.

These are the methods of one `Recorder`, which writes to TOOLENV_RECORDINGS, or `recordings.jsonl`; see there.
"""

from __future__ import annotations

from toolenv.agents.recorder import Episode, Recorder

__all__ = ["Episode", "Recorder", "configure", "default", "episode", "tool", "wrap"]

default = Recorder()
configure, episode, tool, wrap = default.configure, default.episode, default.tool, default.wrap
