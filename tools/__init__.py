"""Tools that an agent can call, and the worlds they act on."""
