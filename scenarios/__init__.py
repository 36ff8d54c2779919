"""What is to be done, in which world: scenario files, populations, tasks, goals and their audit."""
