"""Other ways to act in a tool environment and to see it: as text, with aliases, as one number of many."""

from toolenv.envs.wrappers.discrete_actions import DiscreteActions
from toolenv.envs.wrappers.entity_aliases import EntityAliases
from toolenv.envs.wrappers.text_actions import CallTextSpace, TextActions

__all__ = ["CallTextSpace", "DiscreteActions", "EntityAliases", "TextActions"]
