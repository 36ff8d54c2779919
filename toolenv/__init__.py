"""toolenv: the gym in which tool-using agents are distilled.

    import gymnasium
    import toolenv

    env = gymnasium.make("ToolEnv-CRM-v0")

Importing it registers the environments and imports neither torch nor docker.
"""

from toolenv.envs.registration import register
from toolenv.tools.version import __version__

__all__ = ["__version__"]

register()
