"""A policy as a service: an OpenAI-compatible endpoint for whoever keeps the world, such as an agent in production."""
