"""The episode: Gymnasium environments in which an agent calls tools."""
