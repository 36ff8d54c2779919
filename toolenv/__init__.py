"""toolenv: the gym in which tool-using agents are distilled.

    import gymnasium
    import toolenv

    env = gymnasium.make("ToolEnv-CRM-v0")

Importing it registers the environments and imports neither torch nor docker.
"""

from pathlib import Path

# In a clone the rooms lie beside this folder. Python started at a clone's root finds this folder before an installed
# toolenv, so without this line `pip install .` would be followed by "No module named 'toolenv.envs'".
if not Path(__file__).with_name("tools").exists():
    __path__.append(str(Path(__file__).parents[1]))

from toolenv.envs.registration import register
from toolenv.tools.version import __version__

__all__ = ["__version__"]

register()
