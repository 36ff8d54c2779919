"""From trajectories to weights, and from episodes to numbers."""
